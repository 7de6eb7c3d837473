"""The training loop: steps, log lines, evaluations, saves and stops, each at a step boundary.

Ranks decide together. What one rank knows (a signal, a clock, a number that is none) is agreed on with one small
maximum over all ranks before anybody acts on it, so nobody waits in a collective that another rank never enters.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from instar.engine import deadline, faults
from instar.engine.guard import BadSamples, RollBack, check_numbers
from instar.engine.pace import Agreed, Pace
from instar.engine.predict import Abandoned
from instar.engine.ranks.world import World
from instar.engine.saving import restore_newest, save
from instar.engine.step import Batch, to_device
from instar.engine.training import Training
from instar.errors import Again, LearningError
from instar.plan import Progress


def train(training: Training) -> str:
    """Train from where `training.standing` is until the end; returns why it ended: 'finished', 'target', 'early' or
    'pruned'.

    Raises Again when it was stopped and saved, LearningError when it cannot go on.
    """
    pace = Pace(training)
    while True:
        try:
            return _until_the_end(training, pace)
        except RollBack as back:
            _roll_back(training, back.position)
        except _SmallerBatch:
            restore_newest(training)


def _until_the_end(training: Training, pace: Pace) -> str:
    stream = training.open_stream(training.standing.samples)
    bad = BadSamples(training)
    pace.restart(training.standing.samples)
    while not (why := _has_ended(training)):
        _steps(training, stream, pace, bad, until=_next_evaluation(training))
        _evaluate(training, pace)
    save(training, wait=True)
    return why


def _steps(training: Training, stream: Iterator[Batch], pace: Pace, bad: BadSamples, *, until: int) -> None:
    """Take steps until a position in samples."""
    plan, settings, standing = training.plan, training.settings, training.standing
    watchdog, device = training.watchdog, training.stepper.device
    moves = device.type != "cpu"
    if standing.samples < until:
        training.observer.going_on(training)
    while standing.samples < until:
        progress = plan.progress(standing.samples)
        watchdog.at(progress.step, "loading")
        batch = next(stream)
        watchdog.at(progress.step, "step")
        if batch["bad"]:
            bad.note(batch["bad"])
        for sentence in batch["notes"]:
            training.run.log_event("loader", rank=training.world.rank, samples=standing.samples, reason=sentence)
            training.view.note(sentence)
        faults.point("step.begin")
        rates = training.set_rate(progress, standing)
        _step(training, to_device(batch, device) if moves else batch, progress)
        standing.samples += plan.batch
        faults.point("step.end")
        pace.stepped(standing.samples, batch)
        if standing.samples % (settings.log * plan.batch) == 0:
            check_numbers(training)
            _log(training, pace, rates)
        if pace.due() and standing.samples < until:
            _act(training, pace.agree())


def _has_ended(training: Training) -> str:
    """Why the training is over; '' while it is not. Only an evaluation can end one."""
    standing, settings = training.standing, training.settings
    if reaches(standing.history, training.mode, settings.target):
        return "target"
    if stops_early(standing.history, training.mode, settings.stop_early):
        return "early"
    if training.judge is not None and _is_judged_out(training):
        return "pruned"
    over = standing.evaluated_at >= standing.samples >= training.plan.total_samples
    return "finished" if over else ""


def _is_judged_out(training: Training) -> bool:
    """Whether the search that this trial belongs to wants no more of it, right after an evaluation; ranks agree."""
    standing = training.standing
    if standing.evaluated_at != standing.samples or not standing.history or training.judge is None:
        return False
    if standing.samples >= training.plan.total_samples:
        return False
    answer: bool | None = True
    if training.world.rank == 0:
        answer = training.judge.goes_on(
            evaluation=len(standing.history),
            samples=standing.samples,
            epoch=standing.samples / training.plan.epoch_samples,
            value=standing.history[-1],
        )
    out, gone = training.world.agree([float(answer is False), float(answer is None)])
    if gone:
        save(training, wait=True)
        raise Again("the search that this trial belongs to is gone")
    return bool(out)


def _next_evaluation(training: Training) -> int:
    """The position after which the validation split is scored next, in samples; the end is always scored."""
    every = max(1, training.settings.evaluate.samples(**training.lengths()))
    return min((training.standing.evaluated_at // every + 1) * every, training.plan.total_samples)


def _step(training: Training, batch: Batch, progress: Progress) -> None:
    """Take one step. Where memory ran out, halve the micro-batch and start over from the newest save.

    Starting over, rather than repeating the step, leaves no trace of the half-taken one in running statistics.
    """
    stepper, rank = training.stepper, training.world.rank
    try:
        faults.point("step.forward")
        stepper.take(batch, progress)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error) or stepper.micro <= 1:
            raise
        if not stepper.learner.cuts:
            raise LearningError(
                f"out of memory on rank {rank} with {stepper.micro} rows of a batch of {training.plan.batch} at once, "
                f"and this task compares all rows of a batch, so it cannot be cut. Write a smaller train.batch, or "
                f"train on more devices."
            ) from error
        before, stepper.micro = stepper.micro, max(1, stepper.micro // 2)
        training.run.log_event("micro_batch", rank=rank, step=progress.step, before=before, now=stepper.micro)
        training.view.note(
            f"out of memory: micro-batch {before} -> {stepper.micro}, global batch {training.plan.batch}"
        )
        if training.world.size > 1:
            # The other ranks already wait for gradients that this rank never made: all leave and start again.
            again = Again(f"out of memory on rank {rank}; the micro-batch is now {stepper.micro}")
            training.run.log_event("stopped", rank=rank, step=progress.step, reason=str(again))
            training.watchdog.failed(again)
        raise _SmallerBatch from error


class _SmallerBatch(Exception):
    """Start over from the newest save, with the micro-batch that was just halved."""


def _is_out_of_memory(error: BaseException) -> bool:
    # CUDA raises torch.OutOfMemoryError; the CPU allocator a RuntimeError with this sentence.
    text = str(error)
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text
    )


def _roll_back(training: Training, position: int) -> None:
    """Return to the newest save with a lower rate, or end with the names of the samples of that step."""
    plan, standing, policy = training.plan, training.standing, training.settings.on_nan
    names = training.names_of_step(position)
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


def _log(training: Training, pace: Pace, rates: dict[str, float]) -> None:
    totals = training.stepper.totals
    *sums, rows = training.world.add(totals.with_rows())
    means = {name: value / rows for name, value in zip(totals.names, sums, strict=True)}
    totals.clear()
    training.metrics.write(
        {
            "kind": "train",
            **training.where(),
            "loss": means.pop("total"),
            **means,
            **rates,
            **pace.speeds(),
        }
    )
    training.view.losses(training.metrics.last)
    faults.point("loop.log")


def _logged_since(training: Training, position: int) -> bool:
    """Whether a train line came after a position: epochs may be shorter than the steps between two lines."""
    interval = training.settings.log * training.plan.batch
    return training.standing.samples // interval > position // interval


def _rates(training: Training) -> dict[str, float]:
    """Learning rate and weight decay of the newest step; found anew, so that a start in between gives the same."""
    newest = training.plan.progress(training.standing.samples - training.plan.batch)
    return training.set_rate(newest, training.standing)


def _evaluate(training: Training, pace: Pace) -> None:
    """Score the validation split and save. Told to stop meanwhile, save without the scores: they come after."""
    standing, plan, learner = training.standing, training.plan, training.stepper.learner
    check_numbers(training)
    training.watchdog.at(standing.samples // plan.batch, "evaluating")
    faults.point("loop.evaluate")
    training.observer.evaluating(training)
    try:
        scores = training.evaluate()
    except Abandoned:
        return _act(training, Agreed(stop=True, save=True))
    if not _logged_since(training, standing.evaluated_at):
        _log(training, pace, _rates(training))
    counts = {name: training.world.sum(count.cpu().clone()) for name, count in learner.counts.items()}
    learnt, seen = learner.summary(counts), learner.seen(counts)
    for count in learner.counts.values():
        count.zero_()
    value = scores.get(training.metric)
    improved = value is not None and is_better(value, standing.best.get("value"), training.mode)
    line = {"kind": "val", **training.where(), **scores, **{f"train_{name}": score for name, score in learnt.items()}}
    line |= {"seen": seen} if seen else {}
    for alarm in training.alarms(line):
        training.run.log_event("alarm", rank=training.world.rank, samples=standing.samples, reason=alarm)
        training.view.note(alarm)
    training.metrics.write({**line, **_rates(training), "best": improved, **pace.speeds()})
    value, improved = _shared(training.world, value, improved)
    standing.evaluated_at = standing.samples
    if value is not None:
        standing.history.append(value)
    if improved:
        epoch = round(standing.samples / plan.epoch_samples, 3)
        standing.best = {"metric": training.metric, "value": value, "samples": standing.samples, "epoch": epoch}
    training.view.epoch(training.metrics.last, best=improved)
    training.observer.evaluated(training)
    training.saved_at = -1  # a save made here before the evaluation does not know of it
    save(training, best=improved)
    pace.restart(standing.samples)
    _act(training, pace.agree())


def _shared(world: World, value: float | None, improved: bool) -> tuple[float | None, bool]:
    """Rank 0's value on every rank (the others have none, so the maximum is its)."""
    if world.size == 1:
        return value, improved
    mine = value if world.rank == 0 and value is not None else -math.inf
    told, better = world.agree([mine, float(world.rank == 0 and improved)])
    return (None if told == -math.inf else told), bool(better)


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether `value` is the best by number; a value that is none never is.

    Of equals the later one is: a few hundred validation rows soon give the same share right again and again, while the
    loss, and what the weights have seen, still move on.
    """
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value >= best if mode == "max" else value <= best


def reaches(history: Sequence[float], mode: str, target: float | None) -> bool:
    """Whether the last evaluation is as good as `target`."""
    if target is None or not history or math.isnan(history[-1]):
        return False
    return history[-1] >= target if mode == "max" else history[-1] <= target


def stops_early(history: Sequence[float], mode: str, settings: Any) -> bool:
    """Whether the last `patience` evaluations all failed to beat what was best before by `min_delta`."""
    if settings is None or len(history) <= settings.patience:
        return False
    sign = 1.0 if mode == "max" else -1.0
    signed = [float("-inf") if math.isnan(value) else sign * value for value in history]
    before, recent = signed[: -settings.patience], signed[-settings.patience :]
    return max(recent) <= max(before) + settings.min_delta


def _act(training: Training, agreed: Agreed) -> None:
    if agreed.stop:
        why = deadline.reason(training.clock) or "another rank was told to stop"
        training.run.log_event("signal", rank=training.world.rank, samples=training.standing.samples, reason=why)
        faults.point("loop.stop")
        save(training, wait=True)
        raise Again(why)
    if agreed.save:
        save(training)
