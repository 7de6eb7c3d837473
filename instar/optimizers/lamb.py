"""LAMB: Adam whose steps are scaled layer by layer, for batches of thousands.

    optim: {kind: lamb, lr: 5.0e-3, weight_decay: 0.02}

You et al. 2020, https://arxiv.org/abs/1904.00962. timm.optim.Lamb.
"""

from typing import TYPE_CHECKING, Literal

from instar.optimizers._settings import AboveZero, Groups, NotNegative, OptimSettings, Share

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Settings(OptimSettings):
    """Adam whose steps are scaled layer by layer."""

    kind: Literal["lamb"] = "lamb"
    """Adam whose steps are scaled layer by layer."""
    lr: AboveZero = 5e-3
    """Learning rate, for the global batch; the schedule multiplies it."""
    weight_decay: NotNegative = 0.01
    """How strongly weights are pulled to zero. Layers without it are not scaled."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """How long the averages of the gradient and of its square remember."""
    eps: AboveZero = 1e-6
    """Keeps the division by small squares finite."""
    max_grad_norm: AboveZero | None = 1.0
    """Largest norm of the whole gradient that the algorithm itself allows; null for no limit."""
    bias_correction: bool = True
    """Whether the averages are corrected for having begun at zero."""
    grad_averaging: bool = True
    """Whether a new gradient enters its average with 1 - beta, and not whole."""


def build(settings: Settings, groups: Groups) -> "Optimizer":
    """The optimizer of parameter groups, which bring their own weight decay."""
    from timm.optim import Lamb

    return Lamb(
        groups,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        max_grad_norm=settings.max_grad_norm,
        bias_correction=settings.bias_correction,
        grad_averaging=settings.grad_averaging,
    )
