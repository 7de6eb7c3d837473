"""The rate falls by a factor at even intervals.

    schedule: {kind: step, every: 2 epochs, factor: 0.75}

The butterfly classifiers were trained with this one.
"""

from collections.abc import Sequence
from typing import Literal

from instar.plan import Progress
from instar.schedules._settings import Factor, ScheduleSettings, length
from instar.settings import Span, Training


class Settings(ScheduleSettings):
    """The rate falls by a factor at even intervals."""

    kind: Literal["step"] = "step"
    """The rate falls by a factor at even intervals."""
    every: Training = Span(2, "epochs")
    """How long between two falls."""
    factor: Factor = 0.75
    """What the rate is multiplied by at each."""


def factor(settings: Settings, progress: Progress, history: Sequence[float]) -> float:
    """factor ** (whole intervals behind us), as torch.optim.lr_scheduler.StepLR."""
    return settings.factor ** (progress.samples // max(1, length(settings.every, progress)))
