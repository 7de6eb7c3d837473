"""LARS: momentum whose steps are scaled layer by layer, for batches of thousands.

    optim: {kind: lars, lr: 4.8, momentum: 0.9, weight_decay: 1.0e-6}

You et al. 2017, https://arxiv.org/abs/1708.03888. timm.optim.Lars.
"""

from typing import TYPE_CHECKING, Literal

from instar.optimizers._settings import AboveZero, Groups, NotNegative, OptimSettings, Share

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Settings(OptimSettings):
    """Momentum whose steps are scaled layer by layer."""

    kind: Literal["lars"] = "lars"
    """Momentum whose steps are scaled layer by layer."""
    lr: AboveZero = 1.0
    """Learning rate, for the global batch; the schedule multiplies it."""
    weight_decay: NotNegative = 1e-6
    """How strongly weights are pulled to zero. Layers without it are not scaled."""
    momentum: Share = 0.9
    """Share of the last step that is taken again."""
    trust: AboveZero = 1e-3
    """Length of a layer's step as a share of the length of its weights."""
    eps: AboveZero = 1e-8
    """Keeps the division by small norms finite."""


def build(settings: Settings, groups: Groups) -> "Optimizer":
    """The optimizer of parameter groups, which bring their own weight decay."""
    from timm.optim import Lars

    return Lars(groups, lr=settings.lr, momentum=settings.momentum, trust_coeff=settings.trust, eps=settings.eps)
