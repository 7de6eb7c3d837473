"""Saving at a step boundary, and going back to what was saved."""

from torch import Tensor

from instar.engine import state
from instar.engine.checkpoint import store as checkpoint
from instar.engine.guard import RollBack, check_numbers
from instar.engine.training import Training


def save(training: Training, *, best: bool = False, wait: bool = False) -> None:
    """Save at a step boundary. The step waits for one copy; the writing happens beside the training."""
    samples = training.standing.samples
    if samples == training.saved_at and not best:
        if training.checkpoints is not None and wait:
            training.checkpoints.wait()
            note_saves(training)
        return
    check_numbers(training)
    if any(training.world.agree([float(not training.stepper.weights_are_finite())])):
        raise RollBack(max(0, samples - training.plan.batch))
    training.saved_at = samples
    files, rest = state.capture(
        training.stepper,
        training.standing,
        training.world,
        metrics_bytes=training.metrics.length,
        own_statistics=training.settings.average_bn,
    )
    if training.checkpoints is not None:
        training.metrics.sync()
        training.checkpoints.save(files, rest, samples=training.standing.samples, best=best)
        if wait:
            training.checkpoints.wait()
        note_saves(training)


def make_room(training: Training, found: checkpoint.Checkpoint | None) -> None:
    """Make sure that the disk has room for the saves to come, and have the memory for them ready; for rank 0.

    found   what training starts from, None at the very beginning

    Raises CheckpointError with what is needed and what was found.
    """
    assert training.checkpoints is not None
    size = _bytes_of_a_save(training, found)
    names = ("model", "optimizer", "running", "ema", "state", "manifest")
    checkpoint.room(training.run.checkpoints, size, files=len(names), keep=training.settings.keep)
    training.checkpoints.reserve(size)


def _bytes_of_a_save(training: Training, found: checkpoint.Checkpoint | None) -> int:
    """What a save takes; before the first step an estimate, for optimizers make their state as they go."""
    if found is not None and found.samples > 0:
        return checkpoint.size(found.files)
    module, ema = training.stepper.learner.module, training.stepper.ema
    learning = sum(_bytes(weight) for weight in module.parameters() if weight.requires_grad)
    whole = sum(_bytes(tensor) for tensor in module.state_dict().values())
    return whole * (1 if ema is None else 2) + 2 * learning  # most keep two numbers a weight, and none keeps more


def _bytes(tensor: Tensor) -> int:
    """Of the whole of a tensor that may be divided over ranks."""
    return tensor.numel() * tensor.element_size()


def note_saves(training: Training) -> None:
    """Log the saves that ended since the last look; one that failed ends the run in good order."""
    assert training.checkpoints is not None
    for saved in training.checkpoints.poll():
        facts = {"rank": 0, "checkpoint": saved.name, "samples": saved.samples, "seconds": round(saved.seconds, 3)}
        if saved.problem:
            training.run.log_event("save_failed", **facts, reason=saved.error)
        saved.check()
        training.clock.saved(saved.seconds)
        training.run.log_event("saved", **facts, stall=round(saved.stall, 4), bytes=saved.bytes)


def restore_newest(training: Training) -> checkpoint.Checkpoint | None:
    """Put every rank back to the newest whole checkpoint, and the metrics log with it; None where there is none."""
    world = training.world
    if training.checkpoints is not None:
        training.checkpoints.wait()
    found = checkpoint.load(training.run.checkpoints) if world.rank == 0 else None
    newest = int(world.agree([float(found.number) if found else -1.0])[0])
    if newest < 0:
        return None
    if found is None:  # rank 0 has verified it
        found = checkpoint.load_number(training.run.checkpoints, newest)
    training.standing = state.restore(found, training.stepper, world)
    training.saved_at = training.standing.samples
    training.metrics.cut(found.state["metrics_bytes"])
    for name, why in found.rejected:
        training.run.log_event("rejected", rank=world.rank, checkpoint=name, reason=why)
        training.view.note(f"checkpoint {name} is not whole ({why}); going on from {found.name}")
    return found
