"""What a training loop costs a step, on a network so small that little else is left (48 -> 10, batch 8, SGD).

    python benchmarks/loop.py [--rounds 15] [--steps 600] [--only loop metrics]

loop      engine/loop.py with everything on: schedule, events, timing, metrics log, guard against NaN, stop flag,
          agreement, watchdog, checkpoint writer, view without a terminal. Beside it the same network, rows and
          optimiser in a loop of five lines, in Lightning's Fabric, and in Lightning's Trainer: thin (no logger, bar,
          checkpoint or self.log), and as it comes (CSV logger, bar, checkpoint, self.log).
metrics   a classifier's confusion counts in such a loop, beside torchmetrics' accuracy, updated at each step

Each figure is microseconds a step more than the loop of five lines in the same round; the median of the rounds. A
block's first steps, and what stands before and after its steps, are not counted. Processor time is that of all threads
of the process.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from instar import experiment as experiments
from instar import plugins
from instar.engine import deadline, loop, rates
from instar.engine import optimise as optimising
from instar.engine.checkpoint import store as checkpoint
from instar.engine.metrics_log import MetricsLog
from instar.engine.ranks import process
from instar.engine.ranks.watchdog import Watchdog
from instar.engine.ranks.world import World
from instar.engine.saving import save
from instar.engine.step import Forward, Stepper
from instar.engine.training import Training
from instar.networks import Encoder, Learner
from instar.plan import Plan, Progress
from instar.run import Run
from instar.terminal import Terminal

BARE, OURS, FABRIC = "bare loop", "instar", "Fabric"
OURS_50 = "instar, a log line every 50 steps"  # as often as Lightning; ours come every 20
THIN, DEFAULT = "Lightning Trainer, thin", "Lightning Trainer, as it comes"
COUNTS, TORCHMETRICS = "confusion counts", "torchmetrics accuracy.update"
BATCH, FEATURES, CLASSES, WARM = 8, 48, 10, 200
SGD = {"lr": 0.01, "momentum": 0.9, "fused": True}
MOST_US, MOST_METRICS_US = 25.0, 30.0

Clocks = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--only", nargs="+", choices=["loop", "metrics"], default=["loop", "metrics"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        if "loop" in given.only:
            measure_loop(Path(name), steps=given.steps, number=given.rounds)
        if "metrics" in given.only:
            measure_metrics(steps=given.steps, number=given.rounds)


def measure_loop(folder: Path, *, steps: int, number: int) -> None:
    cases: dict[str, Callable[[], Clocks]] = {
        BARE: lambda: bare(steps),
        OURS: lambda: ours(folder, steps),
        OURS_50: lambda: ours(folder, steps, log=50),
        **lightning_cases(folder, steps),
    }
    more = told("loop", cases, steps=steps, number=number)
    goals = {"microseconds": (more["cpu"][OURS], MOST_US)}
    for peer, share in ((FABRIC, 1.0), (THIN, 1 / 10), (DEFAULT, 1 / 30)):
        if peer in cases:
            goals[f"beside {peer}"] = (more["cpu"][OURS] / more["cpu"][peer], share)
    verdict("loop", goals, more)


def measure_metrics(*, steps: int, number: int) -> None:
    cases: dict[str, Callable[[], Clocks]] = {
        BARE: lambda: bare(steps),
        COUNTS: lambda: bare(steps, counted=confusion_counts()),
    }
    with contextlib.suppress(ImportError):
        from torchmetrics.classification import MulticlassAccuracy

        cases[TORCHMETRICS] = lambda: bare(steps, counted=MulticlassAccuracy(CLASSES, average="micro").update)
    more = told("metrics", cases, steps=steps, number=number)
    goals = {"microseconds": (more["cpu"][COUNTS], MOST_METRICS_US)}
    if TORCHMETRICS in cases:
        goals["beside torchmetrics"] = (more["cpu"][COUNTS] / more["cpu"][TORCHMETRICS], 1.0)
    verdict("metrics", goals, more)


# --- rows, and the clocks -------------------------------------------------------------------------------------------


class Rows:
    """The same batch again and again; looks at the clocks when the first and the last step that count are asked for."""

    def __init__(self, batch: Any, steps: int):
        self._batch, self._steps = batch, steps
        self._seen: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return WARM + self._steps + 1  # asking for the last one ends the last step that counts

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self)):
            if number in (WARM, WARM + self._steps):
                self._seen.append((time.perf_counter(), time.process_time()))
            yield self._batch

    def microseconds(self) -> Clocks:
        """A step's wall and processor time."""
        (wall, cpu), (wall_end, cpu_end) = self._seen
        return {"wall": 1e6 * (wall_end - wall) / self._steps, "cpu": 1e6 * (cpu_end - cpu) / self._steps}


def features_and_labels() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(BATCH, FEATURES), torch.randint(0, CLASSES, (BATCH,))


def told(name: str, cases: Mapping[str, Callable[[], Clocks]], *, steps: int, number: int) -> dict[str, Clocks]:
    """Run the cases in turns and print a table; gives clock -> case -> microseconds a step beyond the bare loop."""
    taken: dict[str, list[Clocks]] = {case: [] for case in cases}
    for turn in range(number + 1):  # the first round warms up
        for case, run in cases.items():
            clocks = run()
            if turn:
                taken[case].append(clocks)
    own = {
        clock: {case: statistics.median(one[clock] for one in taken[case]) for case in cases}
        for clock in ("wall", "cpu")
    }
    more = {
        clock: {
            case: statistics.median(
                one[clock] - base[clock] for one, base in zip(taken[case], taken[BARE], strict=True)
            )
            for case in cases
        }
        for clock in own
    }
    width = max(map(len, cases))
    print(f"\n{name}: microseconds a step, {number} rounds of {steps} steps")
    print(f"  {'':<{width}}  {'CPU':>8} {'more':>8}    {'wall':>8} {'more':>8}")
    for case in cases:
        row = [own["cpu"][case], more["cpu"][case], own["wall"][case], more["wall"][case]]
        print(f"  {case:<{width}}  {row[0]:8.1f} {row[1]:+8.1f}    {row[2]:8.1f} {row[3]:+8.1f}")
    return more


def verdict(name: str, goals: Mapping[str, tuple[float, float]], more: Mapping[str, Clocks]) -> None:
    """Print how the goals (what it is, the most it may be) were met, and everything as one line of JSON."""
    for what, (is_, most) in goals.items():
        print(f"  {what}: {is_:.3f}, goal <= {most:.3f} {'met' if is_ <= most else 'MISSED'}")
    rounded = {clock: {case: round(value, 2) for case, value in cases.items()} for clock, cases in more.items()}
    facts = {
        "benchmark": name,
        "more_us": rounded,
        "goals": goals,
        "met": all(is_ <= most for is_, most in goals.values()),
    }
    print(json.dumps(facts))


# --- the loop of five lines -----------------------------------------------------------------------------------------


def network_and_optimizer() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Linear(FEATURES, CLASSES)
    return network, torch.optim.SGD(network.parameters(), **SGD)  # type: ignore[arg-type]


def bare(steps: int, counted: Callable[[Tensor, Tensor], object] | None = None) -> Clocks:
    network, optimizer = network_and_optimizer()
    rows = Rows(features_and_labels(), steps)
    for feature_BD, label_B in rows:
        optimizer.zero_grad()
        logits_BK = network(feature_BD)
        loss = functional.cross_entropy(logits_BK, label_B)
        loss.backward()
        optimizer.step()
        if counted is not None:
            counted(logits_BK, label_B)
    return rows.microseconds()


def confusion_counts() -> Callable[[Tensor, Tensor], object]:
    """What a classifier of ours counts at each step: every cell of the confusion matrix, and the accuracy."""
    task = plugins.load("tasks", "classification")
    encoder = Encoder(nn.Identity(), FEATURES, (0.5,), (0.5,))
    return task.learner(task.Settings(), encoder, plan(WARM))._count


# --- ours -----------------------------------------------------------------------------------------------------------


class NullLearner(Learner):
    """A linear map of given features, with a loss and nothing else."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(FEATURES, CLASSES)
        self.counts = {}

    def losses(self, batch: Mapping[str, Any], progress: Progress) -> dict[str, Tensor]:
        return {"total": functional.cross_entropy(self.module(batch["image"]), batch["label"])}

    def predict(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {}

    def summary(self, counts: Mapping[str, Tensor]) -> dict[str, float]:
        return {}


def ours(folder: Path, steps: int, **settings: Any) -> Clocks:
    """A training as train.py puts it together, with rows from memory and no validation split."""
    feature_BD, label_B = features_and_labels()
    batch = {"image": feature_BD, "label": label_B, "row": torch.arange(BATCH), "bad": [], "notes": [], "seconds": 0.0}
    rows = Rows(batch, steps)
    run = Run(Path(tempfile.mkdtemp(dir=folder)))
    world = World(0, 1, 0, torch.device("cpu"), processes=(process.me(),))
    experiment, numbers = recipe(**settings), plan(len(rows))
    learner = NullLearner()
    optimise = optimising.Optimise(learner.module, experiment.optim)
    stepper = Stepper(learner, Forward(learner), optimise, plan=numbers, rank=0)

    def set_rate(progress: Progress, standing: Any) -> dict[str, float]:
        seen = rates.through(standing.rate_policy, progress)
        rate = optimising.set_rate(
            optimise.optimizer,
            experiment.optim,
            experiment.schedule,
            seen,
            standing.history,
            scale=standing.rate_scale,
        )
        return {"lr": rate}

    deadline.install()
    with (
        Path(os.devnull).open("w") as nowhere,
        checkpoint.Checkpoints(run.checkpoints) as checkpoints,
        Watchdog(world, on_event=run.log_event) as watchdog,
    ):
        view = Terminal(metric="accuracy", experiment=experiment, stream=nowhere)
        training = Training(
            run=run,
            plan=numbers,
            settings=experiment.train,
            stepper=stepper,
            order=None,  # type: ignore[arg-type]  # the stream brings the rows
            world=world,
            watchdog=watchdog,
            checkpoints=checkpoints,
            metrics=MetricsLog(run.metrics_file),
            clock=deadline.Clock(3600.0),
            view=view,
            open_stream=lambda start: iter(rows),
            evaluate=dict,
            set_rate=set_rate,
            describe=str,
            metric="accuracy",
            mode="max",
        )
        save(training, wait=True)  # as every training does; the writer has started when it returns
        assert loop.train(training) == "finished"
        training.metrics.close()
    deadline.restore()
    return rows.microseconds()


def recipe(**settings: Any) -> experiments.Experiment:
    """Log lines, evaluations, saves and schedule as they come."""
    optim = {"kind": "sgd", "lr": SGD["lr"], "momentum": SGD["momentum"], "decay_all": True}  # one group, as the others
    return experiments.load(
        {"data": {"root": "."}, "optim": optim, "train": {"batch": BATCH, "epochs": 1, **settings}}, []
    )


def plan(steps: int) -> Plan:
    """A plan of one epoch of so many steps."""
    rows = steps * BATCH
    return Plan(
        classes=tuple("abcdefghij"),
        channels=1,
        size=1,
        train_rows=rows,
        val_rows=0,
        test_rows=0,
        class_counts_K=(rows // CLASSES,) * CLASSES,
        quotas_K=(rows // CLASSES,) * CLASSES,
        class_weights_K=None,
        epoch_samples=rows,
        total_samples=rows,
        batch=BATCH,
        micro=BATCH,
        devices=1,
        workers=0,
        device="cpu",
        precision="fp32",
        channels_last=False,
        manifest_hash="",
        seed=0,
    )


# --- Lightning ------------------------------------------------------------------------------------------------------


def lightning_cases(folder: Path, steps: int) -> dict[str, Callable[[], Clocks]]:
    """Fabric and two Trainers; none where Lightning is not installed."""
    warnings.simplefilter("ignore")
    try:
        import lightning
        from lightning.fabric.plugins.environments import LightningEnvironment
        from lightning.pytorch.callbacks import TQDMProgressBar
        from lightning.pytorch.loggers import CSVLogger
    except ImportError:
        print("Lightning is not installed: pip install 'instar[bench]'")
        return {}
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Left to find out by itself, Lightning falls over an mpi4py that finds no MPI.
    alone: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "plugins": [LightningEnvironment()]}
    common = {**alone, "max_epochs": 1}

    class Null(lightning.LightningModule):
        def __init__(self, logs: bool):
            super().__init__()
            torch.manual_seed(0)
            self.network, self._logs = nn.Linear(FEATURES, CLASSES), logs

        def training_step(self, batch: Any, number: int) -> Tensor:
            loss = functional.cross_entropy(self.network(batch[0]), batch[1])
            if self._logs:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), **SGD)  # type: ignore[arg-type]

    def fabric() -> Clocks:
        mine = lightning.Fabric(**alone)
        network, optimizer = mine.setup(*network_and_optimizer())
        rows = Rows(features_and_labels(), steps)
        for feature_BD, label_B in rows:
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(feature_BD), label_B)
            mine.backward(loss)
            optimizer.step()
        return rows.microseconds()

    def fitted(logs: bool, **settings: Any) -> Clocks:
        rows = Rows(features_and_labels(), steps)
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            lightning.Trainer(**common, **settings).fit(Null(logs), rows)
        return rows.microseconds()

    def thin() -> Clocks:
        off = ("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary")
        return fitted(False, **dict.fromkeys(off, False))

    def default() -> Clocks:
        place = tempfile.mkdtemp(dir=folder)
        return fitted(True, default_root_dir=place, logger=CSVLogger(place), callbacks=[TQDMProgressBar()])

    return {FABRIC: fabric, THIN: thin, DEFAULT: default}


if __name__ == "__main__":
    sys.exit(main())
