"""Warm-up and falls counted in steps, exactly as the reference of the MLPerf HPC benchmark DeepCAM counts them.

    schedule: {kind: deepcam, type: multistep, lr_warmup_steps: 400, milestones: [800], decay_rate: 0.1}
    schedule: {kind: deepcam, type: cosine_annealing, lr_warmup_steps: 100, t_max: 9000}

Settings have the benchmark's names. Its first step counts as 1 where there is a warm-up, and milestones begin to count
one step after its end, so a milestone m takes effect at step m + warm-up, counted from 0.
https://github.com/mlcommons/hpc/blob/main/deepcam/src/deepCam/utils/schedulers.py
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from instar.plan import Progress
from instar.schedules._settings import ScheduleSettings
from instar.validation import conflict

Steps = Annotated[int, Field(ge=0)]


class Settings(ScheduleSettings):
    """Warm-up and falls counted in steps, as MLPerf's DeepCAM counts them."""

    kind: Literal["deepcam"] = "deepcam"
    """Warm-up and falls counted in steps, as MLPerf's DeepCAM counts them."""
    type: Literal["multistep", "cosine_annealing"] = "multistep"
    """How the rate falls: by a factor at each milestone, or along half a cosine."""
    lr_warmup_steps: Steps = 0
    """Steps in which the rate rises in a straight line."""
    lr_warmup_factor: Annotated[float, Field(ge=1)] = 1.0
    """1: the rate rises from 0 to optim.lr. More: it rises from optim.lr to so many times that, and stays there."""
    milestones: tuple[Steps, ...] = ()
    """Steps after the warm-up at which the rate falls, for `multistep`."""
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What the rate is multiplied by at each of them."""
    t_max: Annotated[int, Field(ge=1)] = 9000
    """Steps after the warm-up in which the rate falls to its least, for `cosine_annealing`."""
    eta_min: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The least rate, as a share of optim.lr."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if self.warmup.amount and self.lr_warmup_steps:
            raise conflict([(("warmup", "lr_warmup_steps"), "both warm up; keep one of them")])
        return self


def factor(settings: Settings, progress: Progress, history: Sequence[float]) -> float:
    """What the rate of this step is, over optim.lr."""
    return share(settings, progress.step)


def share(settings: Settings, step: int) -> float:
    """The rate of a step, counted from 0, over optim.lr."""
    warmup, most = settings.lr_warmup_steps, settings.lr_warmup_factor
    counted = step + 1  # the reference starts its scheduler at 0 and steps it before the first step
    if warmup and counted <= warmup:
        return counted / warmup if most == 1 else (most - 1) * counted / warmup + 1
    if not warmup:
        most = 1.0
    if settings.type == "multistep":
        # Without a warm-up it is PyTorch's own scheduler, which has no step of delay.
        passed = [at for at in settings.milestones if counted >= (at + warmup + 1 if warmup else at)]
        return most * settings.decay_rate ** len(passed)
    done = counted - warmup if warmup else step
    return settings.eta_min + (most - settings.eta_min) * (1 + math.cos(math.pi * done / settings.t_max)) / 2


def doubts(settings: Settings, progress: Progress) -> list[str]:
    """What this training never reaches."""
    steps, warmup = progress.total // progress.batch, settings.lr_warmup_steps
    if warmup >= steps:
        return [f"schedule.lr_warmup_steps is {warmup}, but the training has {steps} steps: it never reaches optim.lr."]
    return []
