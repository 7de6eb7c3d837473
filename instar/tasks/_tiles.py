"""Tiles: any image through a network that wants sides of a multiple of its stride, and large ones piece by piece.

Legend: B batch, C channels, K classes, H W pixels.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from instar.masks import IGNORE


def padded(network: nn.Module, image_BCHW: Tensor, *, stride: int) -> Tensor:
    """logits_BKHW of the image's own size: it is padded with 0 at the right and below to multiples of `stride`."""
    height, width = image_BCHW.shape[2:]
    right, below = -width % stride, -height % stride
    if right or below:
        image_BCHW = functional.pad(image_BCHW, (0, right, 0, below))
    logits_BKHW = network(image_BCHW)
    return logits_BKHW[..., :height, :width] if right or below else logits_BKHW


def in_tiles(
    network: nn.Module, image_BCHW: Tensor, mask_BHW: Tensor, *, stride: int, largest: int, overlap: int
) -> tuple[Tensor, Tensor]:
    """The class of each pixel at the size of the mask, uint8, and the mean cross-entropy of each row.

    No more than about `largest` pixels go through the network at once, and no more logits are ever held. Each tile sees
    `overlap` pixels more than it answers for: where the network sees no further than that, and does not look at the
    whole image, the answer is that of the whole image. A mask of another size is answered by its nearest pixels.
    """
    height, width = image_BCHW.shape[2:]
    same = tuple(mask_BHW.shape[1:]) == (height, width)
    answer_BHW = torch.empty(len(image_BCHW), height, width, dtype=torch.uint8, device=image_BCHW.device)
    lost_B = torch.zeros(len(image_BCHW), dtype=torch.float64, device=image_BCHW.device)
    truth_BHW = mask_BHW if same else _nearest(mask_BHW, (height, width))
    for rows, columns, seen_rows, seen_columns in tiles(height, width, stride=stride, largest=largest, overlap=overlap):
        part = padded(network, image_BCHW[..., seen_rows, seen_columns], stride=stride)
        top, left = rows.start - seen_rows.start, columns.start - seen_columns.start
        part = part[..., top : top + rows.stop - rows.start, left : left + columns.stop - columns.start].float()
        answer_BHW[:, rows, columns] = part.argmax(1)
        loss_BHW = functional.cross_entropy(
            part, truth_BHW[:, rows, columns].long(), ignore_index=IGNORE, reduction="none"
        )
        lost_B += loss_BHW.sum((1, 2), dtype=torch.float64)
    loss_B = (lost_B / (truth_BHW != IGNORE).sum((1, 2)).clamp_min(1)).float()
    return answer_BHW if same else _nearest(answer_BHW, (mask_BHW.shape[1], mask_BHW.shape[2])), loss_B


def tiles(
    height: int, width: int, *, stride: int, largest: int, overlap: int
) -> Iterator[tuple[slice, slice, slice, slice]]:
    """The rows and columns each tile answers for, and those it sees. All begin at multiples of the stride."""
    overlap = -(-overlap // stride) * stride
    side = max(stride, (math.isqrt(largest) - 2 * overlap) // stride * stride)
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows, columns = slice(top, min(top + side, height)), slice(left, min(left + side, width))
            yield rows, columns, _wider(rows, overlap, height), _wider(columns, overlap, width)


def _wider(part: slice, overlap: int, length: int) -> slice:
    return slice(max(0, part.start - overlap), min(length, part.stop + overlap))


def _nearest(class_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(class_BHW[:, None], size, mode="nearest-exact")[:, 0]
