"""Losses of pixel labels, one number a row, so that their mean over any rows is exact.

Pixels with the label IGNORE count nowhere. Legend: B batch, K classes, H W pixels, P pixels of a row in a line.
"""

import torch
from torch import Tensor
from torch.nn import functional

from instar.masks import IGNORE


def cross_entropy(logits_BKHW: Tensor, mask_BHW: Tensor, *, weight_K: Tensor | None) -> Tensor:
    """loss_B in nats: the mean over the row's known pixels of -log(probability of the label) times its weight.

    Divided by the number of pixels and not by their weights, as the DeepCAM benchmark does.
    """
    loss_BHW = functional.cross_entropy(
        logits_BKHW.float(), mask_BHW.long(), weight=weight_K, ignore_index=IGNORE, reduction="none"
    )
    return _mean(loss_BHW, mask_BHW)


def focal(logits_BKHW: Tensor, mask_BHW: Tensor, *, weight_K: Tensor | None, gamma: float) -> Tensor:
    """loss_B: cross-entropy of each pixel times (1 - its probability) ** gamma, so that easy pixels count for little.

    Lin et al. 2017, eq. 4, https://arxiv.org/abs/1708.02002, with softmax in the place of the sigmoid.
    """
    known_BHW = mask_BHW.long().masked_fill(mask_BHW == IGNORE, 0)
    log_BHW = functional.log_softmax(logits_BKHW.float(), 1).gather(1, known_BHW[:, None])[:, 0]
    # At a probability of 1 the power's slope is infinite for gamma < 1, and infinity times 0 is not a number.
    doubt_BHW = (-torch.expm1(log_BHW)).clamp_min(1e-7)
    loss_BHW = -(doubt_BHW**gamma) * log_BHW
    if weight_K is not None:
        loss_BHW = loss_BHW * weight_K[known_BHW]
    return _mean(loss_BHW.masked_fill(mask_BHW == IGNORE, 0), mask_BHW)


def dice(logits_BKHW: Tensor, mask_BHW: Tensor) -> Tensor:
    """loss_B: 1 - 2 |A and B| / (|A| + |B|), the mean over the classes that the row's mask has.

    Milletari et al. 2016, https://arxiv.org/abs/1606.04797, with the plain sum of probabilities below.
    """
    probability_BKP, one_BKP = _flat(logits_BKHW, mask_BHW)
    both_BK = (probability_BKP * one_BKP).sum(2)
    size_BK = (probability_BKP + one_BKP).sum(2)
    loss_BK = 1 - 2 * both_BK / size_BK.clamp_min(1e-7)
    present_BK = one_BKP.sum(2) > 0
    return (loss_BK * present_BK).sum(1) / present_BK.sum(1).clamp_min(1)


def lovasz(logits_BKHW: Tensor, mask_BHW: Tensor) -> Tensor:
    """loss_B: the Lovasz extension of 1 - IoU, the mean over the classes that the row's mask has.

    Berman et al. 2018, https://arxiv.org/abs/1705.08790.
    """
    probability_BKP, one_BKP = _flat(logits_BKHW, mask_BHW)
    known_B1P = (mask_BHW != IGNORE).flatten(1)[:, None]
    # What nobody knows is no error, and comes last.
    error_BKP = (one_BKP - probability_BKP).abs() * known_B1P
    sorted_BKP, order_BKP = error_BKP.sort(2, descending=True)
    truth_BKP = one_BKP.gather(2, order_BKP)
    total_BK1 = truth_BKP.sum(2, keepdim=True)
    missed_BKP = total_BK1 - truth_BKP.cumsum(2)
    union_BKP = total_BK1 + (1 - truth_BKP).cumsum(2)
    jaccard_BKP = 1 - missed_BKP / union_BKP
    slope_BKP = torch.cat([jaccard_BKP[..., :1], jaccard_BKP.diff(dim=2)], 2)
    loss_BK = (sorted_BKP * slope_BKP).sum(2)
    present_BK = total_BK1[..., 0] > 0
    return (loss_BK * present_BK).sum(1) / present_BK.sum(1).clamp_min(1)


def _flat(logits_BKHW: Tensor, mask_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, and 1 where a pixel is of the class; both 0 where nobody knows. float32 BKP."""
    K = logits_BKHW.shape[1]
    known_BHW = mask_BHW != IGNORE
    one_BHWK = functional.one_hot(mask_BHW.long().masked_fill(~known_BHW, 0), K)
    one_BKP = (one_BHWK.permute(0, 3, 1, 2) * known_BHW[:, None]).flatten(2).float()
    return (logits_BKHW.float().softmax(1) * known_BHW[:, None]).flatten(2), one_BKP


def _mean(loss_BHW: Tensor, mask_BHW: Tensor) -> Tensor:
    """The mean over the known pixels of each row; 0 for a row without one."""
    return loss_BHW.sum((1, 2)) / (mask_BHW != IGNORE).sum((1, 2)).clamp_min(1)
