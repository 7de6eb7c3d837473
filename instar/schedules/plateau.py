"""The rate falls by a factor when the watched score has not become better for a while.

    schedule: {kind: plateau, factor: 0.5, patience: 2}

What is watched is `train.metric`, once an evaluation. The rate follows from the scores so far and from nothing else,
so neither the number of devices nor a restart can change it.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from instar.plan import Progress
from instar.schedules._settings import Factor, ScheduleSettings


class Settings(ScheduleSettings):
    """The rate falls by a factor when the score stays where it is."""

    kind: Literal["plateau"] = "plateau"
    """The rate falls by a factor when the score stays where it is."""
    factor: Factor = 0.5
    """What the rate is multiplied by each time."""
    patience: Annotated[int, Field(ge=0)] = 2
    """Evaluations without a better score that are let pass."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much a score must be better to count, in its own units."""
    cooldown: Annotated[int, Field(ge=0)] = 0
    """Evaluations after a fall that are not counted."""
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The rate never falls below this share."""


def factor(settings: Settings, progress: Progress, history: Sequence[float]) -> float:
    """What torch.optim.lr_scheduler.ReduceLROnPlateau (mode "max", threshold_mode "abs") makes of the history.

    history   the watched score at every evaluation so far; more is better
    """
    now, best, waited, cooling = 1.0, -math.inf, 0, 0
    for score in history:
        if score > best + settings.min_delta:
            best, waited = score, 0
        else:
            waited += 1
        if cooling:
            cooling, waited = cooling - 1, 0
        if waited > settings.patience:
            now, waited, cooling = max(now * settings.factor, settings.floor), 0, settings.cooldown
    return now
