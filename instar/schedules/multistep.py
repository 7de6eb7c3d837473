"""The rate falls by a factor at points of your choice.

    schedule: {kind: multistep, milestones: [50 %, 75 %], factor: 0.1}

Milestones in epochs, `[30 epochs, 60 epochs]`, stay where they are when the training becomes longer.
"""

from collections.abc import Sequence
from typing import Literal

from instar.plan import Progress
from instar.schedules._settings import Factor, ScheduleSettings, length
from instar.settings import Span, Training


class Settings(ScheduleSettings):
    """The rate falls by a factor at points of your choice."""

    kind: Literal["multistep"] = "multistep"
    """The rate falls by a factor at points of your choice."""
    milestones: tuple[Training, ...] = (Span(50, "%"), Span(75, "%"))
    """Where it falls, from the beginning of training."""
    factor: Factor = 0.1
    """What the rate is multiplied by at each."""


def factor(settings: Settings, progress: Progress, history: Sequence[float]) -> float:
    """factor ** (milestones reached), as torch.optim.lr_scheduler.MultiStepLR."""
    return settings.factor ** sum(progress.samples >= length(at, progress) for at in settings.milestones)


def doubts(settings: Settings, progress: Progress) -> list[str]:
    """Milestones that this training never reaches."""
    beyond = [str(at) for at in settings.milestones if length(at, progress) >= progress.total]
    if not beyond:
        return []
    epochs = progress.total / progress.epoch_samples
    return [
        f"schedule.milestones: {', '.join(beyond)} {'lies' if len(beyond) == 1 else 'lie'} beyond the end of the "
        f"training ({epochs:g} epochs, {progress.total:,} samples). Leave out what is not reached, or write 50 %."
    ]
