"""The rate rises to `optim.lr` and falls to almost nothing: fast training at a high rate.

    schedule: {kind: onecycle, rise: 0.3}

Smith and Topin 2018, https://arxiv.org/abs/1708.07120. Momentum is left alone.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from instar.plan import Progress
from instar.schedules._settings import Factor, ScheduleSettings


class Settings(ScheduleSettings):
    """The rate rises to its largest and falls to almost nothing."""

    kind: Literal["onecycle"] = "onecycle"
    """The rate rises to its largest and falls to almost nothing."""
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the training in which the rate rises."""
    start: Factor = 0.04
    """The first rate, as a share of the largest."""
    end: Factor = 4e-6
    """The last rate, as a share of the largest."""
    shape: Literal["cosine", "linear"] = "cosine"
    """How it moves between those three."""


def factor(settings: Settings, progress: Progress, history: Sequence[float]) -> float:
    """The rate of this step over the largest one, as torch.optim.lr_scheduler.OneCycleLR with one step a batch."""
    now, last = progress.samples / progress.batch, max(1.0, progress.total / progress.batch - 1)
    top = min(max(settings.rise * (last + 1) - 1, 0.0), last)
    if now < top:
        return _between(settings.start, 1.0, now / top, settings.shape)
    return _between(1.0, settings.end, min(1.0, (now - top) / (last - top)) if last > top else 1.0, settings.shape)


def _between(begin: float, end: float, share: float, shape: str) -> float:
    if shape == "linear":
        return begin + (end - begin) * share
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
