"""Adadelta: steps in proportion to the size of the last ones, so the learning rate is a plain factor near 1.

    optim: {kind: adadelta, lr: 1.0}

Zeiler 2012, https://arxiv.org/abs/1212.5701. torch.optim.Adadelta.
"""

from typing import TYPE_CHECKING, Literal

from instar.optimizers._settings import AboveZero, Groups, OptimSettings, Share, fused

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Settings(OptimSettings):
    """Steps in proportion to the size of the last ones."""

    kind: Literal["adadelta"] = "adadelta"
    """Steps in proportion to the size of the last ones."""
    lr: AboveZero = 1.0
    """Factor of the steps; the schedule multiplies it."""
    rho: Share = 0.9
    """How long the averages of the squared gradient and step remember."""
    eps: AboveZero = 1e-6
    """Where the very first steps come from."""


def build(settings: Settings, groups: Groups) -> "Optimizer":
    """The optimizer of parameter groups, which bring their own weight decay."""
    import torch

    return torch.optim.Adadelta(groups, lr=settings.lr, rho=settings.rho, eps=settings.eps, foreach=fused(groups))
