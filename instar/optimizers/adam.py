"""Adam: a step of its own for every weight. Weight decay is added to the gradient; `adamw` keeps them apart.

    optim: {kind: adam, lr: 1.0e-3}

Kingma and Ba 2015, https://arxiv.org/abs/1412.6980. torch.optim.Adam.
"""

from typing import TYPE_CHECKING, Literal

from instar.optimizers._settings import AboveZero, Groups, OptimSettings, Share, fused

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Settings(OptimSettings):
    """Adam: a step of its own for every weight."""

    kind: Literal["adam"] = "adam"
    """Adam: a step of its own for every weight."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """How long the averages of the gradient and of its square remember."""
    eps: AboveZero = 1e-8
    """Keeps the division by small squares finite."""


def build(settings: Settings, groups: Groups) -> "Optimizer":
    """The optimizer of parameter groups, which bring their own weight decay."""
    import torch

    return torch.optim.Adam(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=fused(groups))
