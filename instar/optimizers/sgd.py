"""Stochastic gradient descent with momentum: needs a good schedule, and then often generalises best.

    optim: {kind: sgd, lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 5.0e-4}

Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html. torch.optim.SGD.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from instar.optimizers._settings import AboveZero, Groups, OptimSettings, Share, divided, fused
from instar.validation import conflict

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Settings(OptimSettings):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    """Stochastic gradient descent with momentum."""
    lr: AboveZero = 0.1
    """Learning rate, for the global batch; the schedule multiplies it."""
    momentum: Share = 0.9
    """Share of the last step that is taken again."""
    nesterov: bool = False
    """Whether the gradient is looked at one step of momentum ahead."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Settings":
        if self.nesterov and not self.momentum:
            raise conflict([(("nesterov", "momentum"), "looks ahead by the momentum, which is 0")])
        return self


def build(settings: Settings, groups: Groups) -> "Optimizer":
    """The optimizer of parameter groups, which bring their own weight decay."""
    import torch

    return torch.optim.SGD(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=fused(groups) and not divided(groups),
    )
