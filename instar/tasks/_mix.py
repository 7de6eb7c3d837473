"""Mixing of neighbouring images and their labels, as a function of (seed, position of the step).

Zhang et al. 2018 (mixup), https://arxiv.org/abs/1710.09412; Yun et al. 2019 (CutMix), https://arxiv.org/abs/1905.04899.
Legend: B batch, C channels, H W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from instar.plan import Progress

_PURPOSE = 0x6D6978  # "mix": keeps these draws apart from whatever else is keyed by the seed


@dataclass(frozen=True)
class Mix:
    """What one step does to every image.

    own      share of an image that stays its own, 0 to 1
    centre   middle of the box that is cut out, as shares of height and width; None for a blend of whole images
    """

    own: float
    centre: tuple[float, float] | None = None


@torch.compiler.disable  # draws are numbers, and a compiler would compile every step's anew
def mixed(
    image_BCHW: Tensor, label_B: Tensor, progress: Progress, *, seed: int, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The mixed images of this step, the label_B each has besides its own, and the share (a scalar) of its own.

    The images given may be changed.
    """
    mix = draw(seed, progress.samples, mixup=mixup, cutmix=cutmix)
    index_B = partners(len(label_B), label_B.device)
    image_BCHW, own = apply(image_BCHW, index_B, mix)
    return image_BCHW, label_B[index_B], torch.full((), own, device=label_B.device)


def draw(seed: int, samples: int, *, mixup: float, cutmix: float) -> Mix:
    """The mix of the step at `samples`: the same on every rank, in every micro-batch and after every restart.

    mixup, cutmix   parameter of the Beta distribution of shares, 0 for never; with both, each has every second step
    """
    draws = np.random.Generator(np.random.Philox(key=(_PURPOSE << 64) | seed, counter=samples << 64))
    cut = cutmix > 0 and (mixup == 0 or draws.random() < 0.5)
    strength = cutmix if cut else mixup
    own = float(draws.beta(strength, strength))
    return Mix(own, (float(draws.random()), float(draws.random())) if cut else None)


def partners(rows: int, device: torch.device) -> Tensor:
    """index_B of the row that each row is mixed with: its neighbour. The last of an odd number stays by itself.

    Rows come in random order, so a neighbour is as good as any other; and it is the same one however the step is cut
    into ranks and micro-batches, as long as their sizes are even.
    """
    return (torch.arange(rows, device=device) ^ 1).clamp_max_(rows - 1)


def apply(image_BCHW: Tensor, index_B: Tensor, mix: Mix) -> tuple[Tensor, float]:
    """The mixed images, and the share of each that is its own by area. The images given may be changed."""
    other_BCHW = image_BCHW[index_B]
    if mix.centre is None:
        return image_BCHW.lerp_(other_BCHW, 1 - mix.own), mix.own
    height, width = image_BCHW.shape[-2:]
    rows = _stretch(mix.centre[0], mix.own, height)
    columns = _stretch(mix.centre[1], mix.own, width)
    image_BCHW[..., rows, columns] = other_BCHW[..., rows, columns]
    cut = (rows.stop - rows.start) * (columns.stop - columns.start)
    return image_BCHW, 1 - cut / (height * width)


def _stretch(centre: float, own: float, length: int) -> slice:
    """The pixels within half of sqrt(1 - own) of the centre, as far as they are in the image."""
    half = length * (1 - own) ** 0.5 / 2
    return slice(max(0, round(centre * length - half)), min(length, round(centre * length + half)))
