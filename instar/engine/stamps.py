"""Small pictures of what a network was shown, made of the batch itself: nothing is read or decoded twice.

Legend: B batch, H W pixels, C channels, S side of a stamp.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TINY = 64  # pixels a side; smaller images are kept pixel by pixel


def of(batch: dict[str, Any], branch: str, wanted_B: list[bool], *, side: int) -> list[bytes]:
    """A stamp of each row that is wanted, S x S x 3 bytes; b"" for the others."""
    index = [at for at, wanted in enumerate(wanted_B) if wanted]
    if not index:
        return [b""] * len(wanted_B)
    stamp_BSS3 = drawn(batch[branch][index], side=side, sizes=_sizes(batch, branch, index)).cpu().numpy()
    made = dict(zip(index, (stamp.tobytes() for stamp in stamp_BSS3), strict=True))
    return [made.get(at, b"") for at in range(len(wanted_B))]


def drawn(image_BHWC: Tensor, *, side: int, sizes: list[tuple[int, int]] | None = None) -> Tensor:
    """uint8 B x S x S x 3 of any image: the whole of it, its sides made equal.

    sizes   height and width of each, at the top left of its place, where they differ
    """
    if sizes is None:
        return shown(image_BHWC, (side, side))
    cut = [image[None, :height, :width] for image, (height, width) in zip(image_BHWC, sizes, strict=True)]
    return torch.cat([shown(image_1HWC, (side, side)) for image_1HWC in cut])


def shown(image_BHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 B x H x W x 3 of that height and width, as one can see it."""
    steps = [max(1, length // (2 * wanted)) for length, wanted in zip(image_BHWC.shape[1:3], size, strict=True)]
    # Every second pixel or so is enough of a stamp, and a quarter of the work; what is left is averaged.
    visible_BHW3 = _visible(image_BHWC[:, :: steps[0], :: steps[1]])
    if tuple(visible_BHW3.shape[1:3]) == size:
        return visible_BHW3.to(torch.uint8)
    image_BCHW = visible_BHW3.permute(0, 3, 1, 2).float()
    made_BCHW = functional.interpolate(image_BCHW, size, mode="area")
    return made_BCHW.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _visible(image_BHWC: Tensor) -> Tensor:
    """Three channels of 0 to 255. Colours stay; of measured fields the first channel is shown, each from its smallest
    value to its largest."""
    C = image_BHWC.shape[3]
    if image_BHWC.dtype == torch.uint8 and C in (1, 3):
        return image_BHWC if C == 3 else image_BHWC.expand(-1, -1, -1, 3)
    value_BHW1 = torch.nan_to_num(image_BHWC[..., :1].float())
    low_B, high_B = value_BHW1.amin((1, 2, 3), keepdim=True), value_BHW1.amax((1, 2, 3), keepdim=True)
    return ((value_BHW1 - low_B) * (255 / (high_B - low_B).clamp_min(1e-12))).expand(-1, -1, -1, 3)


def _sizes(batch: dict[str, Any], branch: str, index: list[int]) -> list[tuple[int, int]] | None:
    """Height and width of the rows of a reader whose images differ in size; None where they do not."""
    if branch != "image" or "image_height" not in batch:
        return None
    heights, widths = batch["image_height"].tolist(), batch["image_width"].tolist()
    return [(max(1, int(heights[at])), max(1, int(widths[at]))) for at in index]
