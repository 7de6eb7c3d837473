"""The training loop: steps, log lines, evaluations, saves and stops, each at a step boundary.

Ranks decide together. What one rank knows (a signal, a clock, a number that is none) is agreed on with one small
maximum over all ranks before anybody acts on it, so nobody waits in a collective that another rank never enters.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from instar.engine import checkpoint, deadline, faults, state
from instar.engine.metrics_log import MetricsLog
from instar.engine.order import Order
from instar.engine.state import Standing
from instar.engine.step import Batch, Stepper, to_device
from instar.engine.view import View
from instar.engine.watchdog import Watchdog
from instar.engine.world import World
from instar.errors import Again, CheckpointError, LearningError
from instar.experiment import Train
from instar.plan import Plan, Progress
from instar.run import Run

_AGREE_SECONDS = 0.5  # how long a signal may wait for the next agreement


@dataclass
class Training:
    """One rank's training: everything the loop turns.

    open_stream   batches of this rank from a position on
    evaluate      scores of the validation split, on every rank; the values matter on rank 0
    set_rate      puts the learning rate of a position into the optimiser and returns it
    positions     rows of a step, for naming samples
    """

    run: Run
    plan: Plan
    settings: Train
    stepper: Stepper
    order: Order
    world: World
    watchdog: Watchdog
    checkpoints: checkpoint.Checkpoints | None
    metrics: MetricsLog
    clock: deadline.Clock
    view: View
    open_stream: Callable[[int], Iterator[Batch]]
    evaluate: Callable[[], dict[str, float]]
    set_rate: Callable[[Progress, Standing], float]
    describe: Callable[[Any], str]
    metric: str
    mode: str
    standing: Standing = field(default_factory=Standing)
    saved_at: int = -1


def train(training: Training) -> str:
    """Train from where `training.standing` is until the end; returns why it ended: 'finished' or 'early'.

    Raises Again when it was stopped and saved, LearningError when it cannot go on.
    """
    pace = _Pace(training)
    while True:
        try:
            return _until_the_end(training, pace)
        except _RollBack as back:
            _roll_back(training, back.position)
        except _SmallerBatch:
            restore_newest(training)


def _until_the_end(training: Training, pace: "_Pace") -> str:
    plan, stepper, standing = training.plan, training.stepper, training.standing
    stream = training.open_stream(standing.samples)
    log_every = training.settings.log * plan.batch
    evaluate_every = max(1, training.settings.evaluate.samples(**_lengths(plan)))
    bad = _BadSamples(training)
    pace.restart(standing.samples)
    rate = 0.0
    while standing.samples < plan.total_samples:
        before = standing.samples
        training.watchdog.at(before // plan.batch, "loading")
        batch = next(stream)
        training.watchdog.at(before // plan.batch, "step")
        if batch["bad"]:
            bad.note(batch["bad"])
        faults.point("step.begin")
        progress = plan.progress(before)
        rate = training.set_rate(progress, standing)
        _step(training, to_device(batch, stepper.device), progress)
        standing.samples = samples = before + plan.batch
        faults.point("step.end")
        pace.stepped(samples, batch)
        if samples % log_every == 0:
            _check_numbers(training)
            _log(training, rate, pace)
        ended = samples >= plan.total_samples
        if ended or samples // evaluate_every > before // evaluate_every:
            _check_numbers(training)
            if _evaluate(training, pace, rate) and not ended:
                save(training, wait=True)
                return "early"
        elif pace.due():
            _act(training, pace.agree())
    save(training, wait=True)
    return "finished"


def _step(training: Training, batch: Batch, progress: Progress) -> None:
    """Take one step. Where memory ran out, halve the micro-batch and start over from the newest save.

    Starting over, rather than repeating the step, leaves no trace of the half-taken step in running statistics, so
    the numbers are those of a run that had the smaller micro-batch all along.
    """
    stepper, rank = training.stepper, training.world.rank
    try:
        faults.point("step.forward")
        stepper.take(batch, progress)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error) or stepper.micro <= 1:
            raise
        before, stepper.micro = stepper.micro, max(1, stepper.micro // 2)
        training.run.log_event("micro_batch", rank=rank, step=progress.step, before=before, now=stepper.micro)
        training.view.note(f"out of memory: micro-batch {before} -> {stepper.micro}, global batch {training.plan.batch}")
        if training.world.size > 1:
            # The other ranks already wait for gradients that this rank never made: all leave and start again.
            raise Again(f"out of memory on rank {rank}; the micro-batch is now {stepper.micro}") from error
        raise _SmallerBatch from error


class _SmallerBatch(Exception):
    """Start over from the newest save, with the micro-batch that was just halved."""


def _is_out_of_memory(error: BaseException) -> bool:
    # CUDA raises torch.OutOfMemoryError; the CPU allocator a RuntimeError with this sentence.
    text = str(error)
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text
    )


# --- numbers -------------------------------------------------------------------------------------------------------


class _RollBack(Exception):
    def __init__(self, position: int):
        self.position = position


def _check_numbers(training: Training) -> None:
    """Roll back, or give up, where a loss or gradient since the last check was not finite on any rank."""
    position = training.stepper.first_not_finite()
    worst = training.world.agree([-1.0 if position is None else float(2**52 - position)])[0]
    if worst >= 0:
        raise _RollBack(int(2**52 - worst))


def _roll_back(training: Training, position: int) -> None:
    """Return to the newest save with a lower rate, or end with the names of the samples of that step."""
    plan, standing, policy = training.plan, training.standing, training.settings.on_nan
    rows = training.order.draw(_positions(position, plan.batch)).row_N
    names = [training.describe(row) for row in rows.tolist()]
    training.run.log_event(
        "nan", rank=training.world.rank, step=position // plan.batch, samples=position, rows=names[:64]
    )
    if standing.rollbacks >= policy.rollbacks:
        raise LearningError(
            f"the loss was not a finite number at step {position // plan.batch} (samples {position} to "
            f"{position + plan.batch - 1}), after {standing.rollbacks} roll-back(s). Nothing of it was saved. "
            f"The rows of that step: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}. "
            f"Try a lower optim.lr, optim.clip=1.0, or train.precision=fp32, and look at those images."
        )
    rollbacks, scale = standing.rollbacks + 1, standing.rate_scale * policy.factor
    restore_newest(training)
    training.standing.rollbacks, training.standing.rate_scale = rollbacks, scale
    training.run.log_event(
        "rollback",
        rank=training.world.rank,
        step=training.standing.samples // plan.batch,
        samples=training.standing.samples,
        rate_scale=scale,
    )
    training.view.note(f"loss not finite at step {position // plan.batch}: back to the last save, rate x {scale:g}")


def restore_newest(training: Training) -> checkpoint.Checkpoint | None:
    """Put every rank back to the newest whole checkpoint, and the metrics log with it."""
    world = training.world
    if training.checkpoints is not None:
        training.checkpoints.wait()
    found = checkpoint.load(training.run.checkpoints) if world.rank == 0 else None
    newest = int(world.agree([float(found.state["samples"]) if found else -1.0])[0])
    if newest < 0:
        return None
    if found is None:
        found = checkpoint.load_named(training.run.checkpoints, checkpoint.name_of(newest), verify=False)
    training.standing = state.restore(found, training.stepper, world)
    training.saved_at = training.standing.samples
    training.metrics.cut(found.state["metrics_bytes"])
    for name, why in found.rejected:
        training.run.log_event("rejected", checkpoint=name, reason=why, rank=world.rank)
        training.view.note(f"checkpoint {name} is not whole ({why}); using {found.name}")
    return found


# --- logging and evaluating ----------------------------------------------------------------------------------------


def _log(training: Training, rate: float, pace: "_Pace") -> None:
    totals = training.stepper.totals
    vector = training.world.sum(_with_rows(totals))
    rows = float(vector[-1])
    means = {name: float(vector[index]) / rows for index, name in enumerate(totals.names)}
    totals.clear()
    training.metrics.write(
        {
            "kind": "train",
            **_where(training),
            "loss": means.pop("total"),
            **means,
            "lr": rate,
            **pace.speeds(),
        }
    )
    training.view.losses(training.metrics.last)
    faults.point("loop.log")


def _with_rows(totals: Any) -> Any:
    import torch

    return torch.cat([totals.sums.cpu(), torch.tensor([totals.rows], dtype=torch.float64)])


def _evaluate(training: Training, pace: "_Pace", rate: float) -> bool:
    """Score the validation split, save, and say whether training should end early."""
    standing, plan = training.standing, training.plan
    training.watchdog.at(standing.samples // plan.batch, "evaluating")
    faults.point("loop.evaluate")
    seen = {name: training.world.sum(count.cpu().clone()) for name, count in training.stepper.learner.counts.items()}
    learnt = training.stepper.learner.summary(seen)
    for count in training.stepper.learner.counts.values():
        count.zero_()
    scores = training.evaluate()
    improved = False
    if training.world.rank == 0:
        line = {"kind": "val", **_where(training), **scores, **{f"train_{k}": v for k, v in learnt.items()}, "lr": rate}
        value = scores.get(training.metric)
        improved = value is not None and is_better(value, standing.best.get("value"), training.mode)
        training.metrics.write({**line, **pace.speeds(), "best": improved})
    value, improved = _shared(training.world, scores.get(training.metric), improved)
    if value is not None:
        standing.history.append(value)
    if improved:
        standing.best = {"metric": training.metric, "value": value, "samples": standing.samples}
        standing.best["epoch"] = round(standing.samples / plan.epoch_samples, 3)
    training.view.epoch(training.metrics.last, best=improved)
    save(training, best=improved)
    pace.restart(standing.samples)
    _act(training, pace.agree())
    return stops_early(standing.history, training.mode, training.settings.stop_early)


def _shared(world: World, value: float | None, improved: bool) -> tuple[float | None, bool]:
    """Rank 0's value on every rank (the others have none, so the maximum is its)."""
    if world.size == 1:
        return value, improved
    mine = world.rank == 0
    known, positive, negative, better = world.agree(
        [
            float(mine and value is not None),
            value if mine and value is not None else float("-inf"),
            -value if mine and value is not None else float("-inf"),
            float(mine and improved),
        ]
    )
    return (positive if known else None), bool(better)


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether `value` beats `best` by number; a value that is none never does."""
    if value != value:
        return False
    if best is None:
        return True
    return value > best if mode == "max" else value < best


def stops_early(history: list[float], mode: str, settings: Any) -> bool:
    """Whether the last `patience` evaluations all failed to beat what was best before by `min_delta`."""
    if settings is None or len(history) <= settings.patience:
        return False
    sign = 1.0 if mode == "max" else -1.0
    signed = [sign * value if value == value else float("-inf") for value in history]
    before, recent = signed[: -settings.patience], signed[-settings.patience :]
    return max(recent) <= max(before) + settings.min_delta


# --- saving and stopping -------------------------------------------------------------------------------------------


def save(training: Training, *, best: bool = False, wait: bool = False) -> None:
    """Save at a step boundary. The step waits for one copy; the writing happens beside the training."""
    samples = training.standing.samples
    if samples == training.saved_at and not best:
        if training.checkpoints is not None and wait:
            training.checkpoints.wait()
            _note_saves(training)
        return
    _check_numbers(training)
    if any(training.world.agree([float(not training.stepper.weights_are_finite())])):
        raise _RollBack(max(0, samples - training.plan.batch))
    begun = time.monotonic()
    training.saved_at = samples
    files, rest = state.capture(
        training.stepper, training.standing, training.world, metrics_bytes=training.metrics.length
    )
    if training.checkpoints is not None:
        training.metrics.sync()
        training.checkpoints.save(files, rest, samples=training.standing.samples, best=best)
        if wait:
            training.checkpoints.wait()
        _note_saves(training)
    training.clock.saved(time.monotonic() - begun)


def _note_saves(training: Training) -> None:
    """Log the saves that became durable since the last look; one that failed stops the run in good order."""
    assert training.checkpoints is not None
    for saved in training.checkpoints.poll():
        if saved.error:
            training.run.log_event("save_failed", rank=0, checkpoint=saved.name, reason=saved.error)
            raise CheckpointError(f"{saved.name} could not be saved: {saved.error}")
        training.clock.saved(saved.seconds)
        training.run.log_event("saved", rank=0, checkpoint=saved.name, samples=saved.samples, seconds=round(saved.seconds, 3))


@dataclass(frozen=True)
class _Agreed:
    stop: bool
    save: bool


def _act(training: Training, agreed: _Agreed) -> None:
    if agreed.stop:
        why = deadline.reason(training.clock) or "another rank was told to stop"
        training.run.log_event("signal", rank=training.world.rank, samples=training.standing.samples, reason=why)
        faults.point("loop.stop")
        save(training, wait=True)
        raise Again(why)
    if agreed.save:
        save(training)


class _Pace:
    """Speed, and when it is time to ask the others."""

    def __init__(self, training: Training):
        self._training = training
        self._every = training.settings.every
        self._interval = 1
        self._since = 0
        self._saved_at = time.monotonic()
        self._saved_samples = 0
        self.restart(training.standing.samples)

    def restart(self, samples: int) -> None:
        self._begun, self._from, self._worked = time.monotonic(), samples, 0.0
        self._steps = 0
        self._worker_seconds, self._worker_rows = 0.0, 0

    def stepped(self, samples: int, batch: Batch) -> None:
        self._since += 1
        self._steps += 1
        self._worker_seconds += batch["seconds"]
        self._worker_rows += len(batch["row"])
        self._training.view.step(samples)

    def due(self) -> bool:
        """Whether this step boundary is one at which ranks agree; the same on every rank."""
        return self._since >= self._interval

    def agree(self) -> _Agreed:
        training = self._training
        self._since = 0
        if training.checkpoints is not None:
            _note_saves(training)
        stop = deadline.reason(training.clock) is not None
        seconds = (time.monotonic() - self._begun) / self._steps if self._steps else 0.0
        if training.world.size == 1:
            return self._decided(stop, self._save_due())
        stopping, saving, slowest = training.world.agree([float(stop), float(self._save_due()), seconds])
        self._interval = max(1, min(64, int(_AGREE_SECONDS / slowest))) if slowest else 1
        return self._decided(bool(stopping), bool(saving))

    def _decided(self, stop: bool, save: bool) -> _Agreed:
        if save or stop:
            self._saved_at, self._saved_samples = time.monotonic(), self._training.standing.samples
        return _Agreed(stop, save)

    def _save_due(self) -> bool:
        if self._every.is_time:
            return self._training.world.rank == 0 and time.monotonic() - self._saved_at >= self._every.seconds
        length = max(1, self._every.samples(**_lengths(self._training.plan)))
        return self._training.standing.samples - self._saved_samples >= length

    def speeds(self) -> dict[str, float]:
        """Images per second of all ranks, and what the loader could do, since the last evaluation."""
        seconds = time.monotonic() - self._begun
        rows = self._training.standing.samples - self._from
        plan = self._training.plan
        busy = self._worker_seconds / max(1, plan.workers)
        ceiling = self._worker_rows / busy * plan.devices if busy > 0 else 0.0
        return {
            "images_per_second": round(rows / seconds, 2) if seconds > 0 else 0.0,
            "loader_ceiling": round(ceiling, 1),
            "time": round(time.time(), 3),
        }


class _BadSamples:
    """Counts the different rows that could not be read, names each once, and ends the run above a share."""

    def __init__(self, training: Training):
        self._training = training
        self._rows: set[int] = set()

    def note(self, bad: list[tuple[int, str]]) -> None:
        training = self._training
        for row, why in bad:
            if row in self._rows:
                continue
            self._rows.add(row)
            name = training.describe(row)
            training.run.log_event(
                "bad_sample", rank=training.world.rank, samples=training.standing.samples, row=row, path=name, reason=why
            )
            training.view.note(f"bad sample {name}: {why}; another row of its class took its place")
        share = len(self._rows) * training.world.size / training.plan.train_rows
        if share > training.settings.max_bad and len(self._rows) > 1:
            raise LearningError(
                f"{len(self._rows)} of {training.plan.train_rows} training images cannot be read, more than "
                f"train.max_bad = {training.settings.max_bad:.1%}. They are named in {training.run.events_file}. "
                f"Mend or remove them, or raise train.max_bad."
            )


def _where(training: Training) -> dict[str, Any]:
    plan, samples = training.plan, training.standing.samples
    return {"step": samples // plan.batch, "samples": samples, "epoch": round(samples / plan.epoch_samples, 4)}


def _lengths(plan: Plan) -> dict[str, int]:
    return {"epoch_samples": plan.epoch_samples, "batch": plan.batch, "total": plan.total_samples}


def _positions(start: int, count: int) -> Any:
    import numpy as np

    return np.arange(start, start + count)
