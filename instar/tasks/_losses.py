"""Losses of a classifier, one number a row, so that their mean over any rows is exact.

Legend: B batch, K classes.
"""

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits_BK: Tensor, label_B: Tensor, *, weight_K: Tensor | None, smoothing: float) -> Tensor:
    """loss_B in nats: minus the log of the probability of the label, or of the smoothed label, times its weight.

    weight_K    what a mistake in each class costs
    smoothing   share of the label that is spread evenly over all classes (Szegedy et al. 2016, section 7)

    `torch.nn.CrossEntropyLoss(weight=...)` divides by the weights that happen to be in the batch. That mean changes
    with the cut into ranks and micro-batches; a mean over rows of this does not. Balanced weights have mean 1 over the
    training rows, so the two agree in expectation.
    """
    logits_BK = wide(logits_BK)
    weight_K = None if weight_K is None else weight_K.to(logits_BK.dtype)
    return functional.cross_entropy(logits_BK, label_B, weight=weight_K, label_smoothing=smoothing, reduction="none")


def focal(logits_BK: Tensor, label_B: Tensor, *, weight_K: Tensor | None, smoothing: float, gamma: float) -> Tensor:
    """loss_B: cross-entropy of each class times (1 - its probability) ** gamma, so that easy rows count for little.

    Lin et al. 2017, eq. 4 and 5, https://arxiv.org/abs/1708.02002, with softmax in the place of the sigmoid.
    gamma = 0 is cross_entropy.
    """
    log_BK = functional.log_softmax(wide(logits_BK), dim=1)
    # At a probability of 1 the power's slope is infinite for gamma < 1, and infinity times 0 is not a number.
    doubt_BK = (-torch.expm1(log_BK)).clamp_min(1e-7)
    cost_BK = -(doubt_BK**gamma) * log_BK
    if weight_K is not None:
        cost_BK = cost_BK * weight_K
    own_B = cost_BK.gather(1, label_B[:, None])[:, 0]
    return own_B if smoothing == 0 else (1 - smoothing) * own_B + smoothing * cost_BK.mean(1)


def wide(logits_BK: Tensor) -> Tensor:
    """The logits in at least single precision: exponentials of 16 bits lose what small losses are made of."""
    return logits_BK if logits_BK.dtype == torch.float64 else logits_BK.float()
