"""The rate falls along half a cosine, slowly at both ends. The default.

    schedule: {kind: cosine, warmup: 5 %}

Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from instar.plan import Progress
from instar.schedules._settings import ScheduleSettings


class Settings(ScheduleSettings):
    """The rate falls along half a cosine, slowly at both ends."""

    kind: Literal["cosine"] = "cosine"
    """The rate falls along half a cosine, slowly at both ends."""
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """What is left at the end, as a share of the rate."""


def factor(settings: Settings, progress: Progress, history: Sequence[float]) -> float:
    """floor + (1 - floor) (1 + cos(pi share)) / 2, as torch.optim.lr_scheduler.CosineAnnealingLR."""
    return settings.floor + (1 - settings.floor) * (1 + math.cos(math.pi * min(1.0, progress.share))) / 2
