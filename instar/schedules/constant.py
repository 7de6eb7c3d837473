"""The rate stays as it is.

    schedule: {kind: constant, warmup: 500 steps}

Give it a warm-up where the first steps are wild.
"""

from collections.abc import Sequence
from typing import Literal

from instar.plan import Progress
from instar.schedules._settings import ScheduleSettings


class Settings(ScheduleSettings):
    """The rate stays as it is."""

    kind: Literal["constant"] = "constant"
    """The rate stays as it is."""


def factor(settings: Settings, progress: Progress, history: Sequence[float]) -> float:
    """1, always."""
    return 1.0
