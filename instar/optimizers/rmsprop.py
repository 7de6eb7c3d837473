"""RMSprop: steps divided by a running root mean square of the gradient.

    optim: {kind: rmsprop, lr: 1.0e-3, momentum: 0.9}

Tieleman and Hinton 2012, lecture 6.5. torch.optim.RMSprop.
"""

from typing import TYPE_CHECKING, Literal

from instar.optimizers._settings import AboveZero, Groups, OptimSettings, Share, fused

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Settings(OptimSettings):
    """Steps divided by a running root mean square of the gradient."""

    kind: Literal["rmsprop"] = "rmsprop"
    """Steps divided by a running root mean square of the gradient."""
    alpha: Share = 0.99
    """How long the average of the squared gradient remembers."""
    momentum: Share = 0.0
    """Share of the last step that is taken again."""
    eps: AboveZero = 1e-8
    """Keeps the division by small squares finite."""


def build(settings: Settings, groups: Groups) -> "Optimizer":
    """The optimizer of parameter groups, which bring their own weight decay."""
    import torch

    return torch.optim.RMSprop(
        groups,
        lr=settings.lr,
        alpha=settings.alpha,
        momentum=settings.momentum,
        eps=settings.eps,
        foreach=fused(groups),
    )
