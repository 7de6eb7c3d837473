"""AdamW: Adam with weight decay apart from the gradient. The default: it forgives most settings.

    optim: {kind: adamw, lr: 1.0e-3, weight_decay: 0.05, clip: 1.0}

Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101. torch.optim.AdamW.
"""

from typing import TYPE_CHECKING, Literal

from instar.optimizers._settings import AboveZero, Groups, NotNegative, OptimSettings, Share, fused

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Settings(OptimSettings):
    """Adam with weight decay apart from the gradient."""

    kind: Literal["adamw"] = "adamw"
    """Adam with weight decay apart from the gradient."""
    weight_decay: NotNegative = 0.01
    """How strongly weights are pulled to zero."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """How long the averages of the gradient and of its square remember."""
    eps: AboveZero = 1e-8
    """Keeps the division by small squares finite."""


def build(settings: Settings, groups: Groups) -> "Optimizer":
    """The optimizer of parameter groups, which bring their own weight decay."""
    import torch

    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=fused(groups))
