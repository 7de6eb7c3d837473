"""ASGD: gradient descent whose rate falls by itself while an average of the weights is kept beside them.

    optim: {kind: asgd, lr: 0.01}

Evaluation uses the weights themselves, as in PyTorch; `train.ema` averages what is evaluated.
Polyak and Juditsky 1992, https://doi.org/10.1137/0330046. torch.optim.ASGD.
"""

from typing import TYPE_CHECKING, Literal

from instar.optimizers._settings import AboveZero, Groups, NotNegative, OptimSettings, fused

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Settings(OptimSettings):
    """Gradient descent whose rate falls by itself."""

    kind: Literal["asgd"] = "asgd"
    """Gradient descent whose rate falls by itself."""
    lr: AboveZero = 0.01
    """Learning rate, for the global batch; the schedule multiplies it."""
    lambd: NotNegative = 1e-4
    """How fast the rate falls."""
    alpha: AboveZero = 0.75
    """Power of that fall."""
    t0: AboveZero = 1e6
    """Step at which averaging begins."""


def build(settings: Settings, groups: Groups) -> "Optimizer":
    """The optimizer of parameter groups, which bring their own weight decay."""
    import torch

    return torch.optim.ASGD(
        groups,
        lr=settings.lr,
        lambd=settings.lambd,
        alpha=settings.alpha,
        t0=settings.t0,
        foreach=fused(groups),
    )
