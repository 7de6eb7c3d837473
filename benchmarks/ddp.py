"""Two gloo ranks, one core each: a bare DDP loop beside ours, same network, same rows, same optimiser.

    python benchmarks/ddp.py [--rounds 5] [--steps 8] [--ranks 2] [--batch 64] [--size 64]

bare    forward, loss, backward, step; DDP with gradient_as_bucket_view and static_graph, and nothing else
ours    engine/loop.py as `instar train` turns it: agreement, log lines, guard against NaN, watchdog, schedule
alone   the bare loop without DDP: what the all-reduce itself costs, which no loop can win back

Times are of whole blocks of steps, interleaved. Goal: ours takes at most 1/0.98 of the bare loop's time.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from instar.engine.ranks import launch, place

GOALS = {"ours": 1 / 0.98}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rounds": 5, "steps": 8, "ranks": 2, "batch": 64, "size": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--model", default="resnet18")
    given = parser.parse_args()
    if not launch.is_rank(os.environ) and given.ranks > 1:
        return launch.ranks(sys.argv, given.ranks, command=[sys.executable])
    measure(given)
    return 0


def measure(given: Any) -> None:
    """Time the cases on this rank; rank 0 tells."""
    import torch
    from _side_by_side import report

    from instar.engine.ranks import world as worlds
    from instar.engine.ranks.watchdog import Watchdog

    torch.set_num_threads(1)
    folder = Path(os.environ.get("INSTAR_BENCHMARK", tempfile.gettempdir()))
    world = worlds.join(place.here(), folder=folder)
    with Watchdog(world) as watchdog:
        cases = {
            "bare": bare(given, world),
            "ours": ours(given, world, watchdog),
            "alone": bare(given, world, wrapped=False),
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(given.rounds + 1):
            for name, case in cases.items():
                world.barrier()
                taken = case()
                if number:
                    seconds[name].append(taken)
    if world.rank == 0:
        report(f"two ranks, {given.model}, {given.steps} steps a block", seconds, "bare", GOALS)
    world.leave(0)


def bare(given: Any, world: Any, *, wrapped: bool = True) -> Callable[[], float]:
    """A loop as one writes it by hand."""
    import timm
    import torch
    from torch.nn import functional
    from torch.nn.parallel import DistributedDataParallel

    from instar.networks import pixels

    torch.manual_seed(0)
    network = timm.create_model(given.model, num_classes=10).train()
    module = (
        DistributedDataParallel(network, gradient_as_bucket_view=True, static_graph=True)
        if wrapped and world.size > 1
        else network
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    batch = rows(given, world)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def block() -> float:
        begun = time.perf_counter()
        for _ in range(given.steps):
            optimizer.zero_grad()
            loss = functional.cross_entropy(module(pixels(batch["image"], mean, std)), batch["label"])
            loss.backward()
            optimizer.step()
        return time.perf_counter() - begun

    return block


def ours(given: Any, world: Any, watchdog: Any) -> Callable[[], float]:
    """The loop of the engine, from the first batch it asks for to the one after the last that counts."""
    from instar.engine import deadline, loop
    from instar.engine.metrics_log import MetricsLog
    from instar.engine.standing import Standing
    from instar.engine.training import Training
    from instar.engine.view import Quiet
    from instar.run import Run

    experiment, plan, stepper, set_rate = built(given, world)
    batch = rows(given, world)
    marks: list[float] = []

    def stream(start: int) -> Iterator[Any]:
        # One step more than is timed: asking for it ends the last one that counts.
        for number in range(given.steps + 1):
            if number in (0, given.steps):
                marks.append(time.perf_counter())
            yield batch

    run = Run(Path(tempfile.mkdtemp(prefix="instar-ddp-")))

    def block() -> float:
        marks.clear()
        training = Training(
            run=run,
            plan=plan,
            settings=experiment.train,
            stepper=stepper,
            order=None,  # type: ignore[arg-type]  # the stream brings the rows
            world=world,
            watchdog=watchdog,
            checkpoints=None,
            metrics=MetricsLog(run.metrics_file if world.rank == 0 else None),
            clock=deadline.Clock(None),
            view=Quiet(),
            open_stream=stream,
            evaluate=dict,
            set_rate=set_rate,
            describe=str,
            metric="accuracy",
            mode="max",
            standing=Standing(),
        )
        assert loop.train(training) == "finished"
        training.metrics.close()
        return marks[1] - marks[0]

    return block


def built(given: Any, world: Any) -> tuple[Any, Any, Any, Any]:
    """Experiment, plan and stepper for synthetic rows, put together as train.py does it."""
    from instar import experiment as experiments
    from instar.engine import build
    from instar.engine import optimise as optimising
    from instar.engine.ranks.parallel import parallel
    from instar.engine.step import Forward, Stepper
    from instar.plan import Plan

    experiment = experiments.load(
        {
            "data": {"root": "."},
            "model": {"kind": "timm", "name": given.model, "pretrained": False},
            "optim": {"kind": "adamw", "lr": 1e-3},
            "train": {"batch": given.batch, "epochs": 1, "precision": "fp32", "channels_last": False, "log": 20},
        },
        [],
    )
    total = (given.steps + 1) * given.batch
    plan = Plan(
        classes=tuple("abcdefghij"),
        channels=3,
        size=given.size,
        train_rows=total,
        val_rows=0,
        test_rows=0,
        class_counts_K=(total // 10,) * 10,
        quotas_K=(total // 10,) * 10,
        class_weights_K=None,
        epoch_samples=total,
        total_samples=total,
        batch=given.batch,
        micro=given.batch,
        devices=world.size,
        workers=0,
        device="cpu",
        precision="fp32",
        channels_last=False,
        manifest_hash="",
        seed=0,
    )
    learner = build.learner(experiment, plan)
    forward = parallel(Forward(learner), world, kind="ddp")
    optimise = optimising.Optimise(learner.module, experiment.optim)
    stepper = Stepper(learner, forward, optimise, plan=plan, rank=world.rank)

    def set_rate(progress: Any, standing: Any) -> dict[str, float]:
        rate = optimising.set_rate(
            optimise.optimizer, experiment.optim, experiment.schedule, progress, standing.history
        )
        return {"lr": rate}

    return experiment, plan, stepper, set_rate


def rows(given: Any, world: Any) -> dict[str, Any]:
    """This rank's rows of one step, the same for all cases."""
    import torch

    generator = torch.Generator().manual_seed(world.rank)
    count = given.batch // world.size
    return {
        "image": torch.randint(0, 256, (count, given.size, given.size, 3), dtype=torch.uint8, generator=generator),
        "label": torch.randint(0, 10, (count,), generator=generator),
        "row": torch.arange(count),
        "bad": [],
        "notes": [],
        "seconds": 0.0,
    }


if __name__ == "__main__":
    sys.exit(main())
