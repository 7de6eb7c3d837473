"""Adagrad: steps divided by the root of all squared gradients so far, so they only become smaller.

    optim: {kind: adagrad, lr: 0.01}

Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html. torch.optim.Adagrad.
"""

from typing import TYPE_CHECKING, Literal

from instar.optimizers._settings import AboveZero, Groups, OptimSettings, fused

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Settings(OptimSettings):
    """Steps divided by the root of all squared gradients so far."""

    kind: Literal["adagrad"] = "adagrad"
    """Steps divided by the root of all squared gradients so far."""
    lr: AboveZero = 0.01
    """Learning rate, for the global batch; the schedule multiplies it."""
    eps: AboveZero = 1e-10
    """Keeps the division by small squares finite."""


def build(settings: Settings, groups: Groups) -> "Optimizer":
    """The optimizer of parameter groups, which bring their own weight decay."""
    import torch

    return torch.optim.Adagrad(groups, lr=settings.lr, eps=settings.eps, foreach=fused(groups))
