"""The whole model: from the bytes of an image to an answer, as one PyTorch module that converters can take.

Legend: B batch, H W pixels, C channels, S the size the network sees.
"""

import torch
from torch import Tensor, nn

from instar.contract import Contract
from instar.networks import Learner


class Whole(nn.Module):
    """image_BHWC, as the contract says -> what the learner answers, by name."""

    def __init__(self, learner: Learner, contract: Contract):
        super().__init__()
        self.network = learner.module
        self.sight = Sight(contract) if contract.inside and contract.crop not in ("window", "whole") else nn.Identity()
        self._answer = learner.answer

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self._answer(self.sight(image))


class Sight(nn.Module):
    """uint8 image_BHWC of any size -> image_BSSC, the pixels that evaluation sees.

    Pillow's antialiased bilinear filter is one triangle for each pixel wanted, so resizing and cropping together are
    two products with matrices that follow from height and width alone: first across, then down, rounded to whole
    numbers after each as Pillow does. Runtimes have their own resizing operators, and each of those has its own idea of
    where pixels lie. Of a photograph 999 of 1000 numbers are Pillow's, the rest are 1 of 255 apart; of a small one that
    is enlarged 97 of 100 (Pillow 13 begins with the rows of a tall image).
    """

    def __init__(self, contract: Contract):
        super().__init__()
        self._size, self._resize, self._squash = contract.size, contract.resize, contract.crop == "squash"

    def forward(self, image_BHWC: Tensor) -> Tensor:
        height, width = image_BHWC.shape[1], image_BHWC.shape[2]
        # As tensors, so that a converter sees arithmetic on the size of an image and not the size of one image.
        height_1, width_1 = (torch.full((1,), side, dtype=torch.int64) for side in (height, width))
        short_1 = torch.minimum(height_1, width_1)
        across_SW, down_SH = self._weights(width, width_1, short_1), self._weights(height, height_1, short_1)
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(torch.float32)
        small = _rounded(torch.matmul(image_BCHW, across_SW.transpose(0, 1)))
        return _rounded(torch.matmul(down_SH, small)).to(torch.uint8).permute(0, 2, 3, 1)

    def _weights(self, side: int, side_1: Tensor, short_1: Tensor) -> Tensor:
        """How much each pixel of a side counts for each one wanted; float32 of S x side."""
        if self._squash:
            first_1, step_1 = torch.zeros(1, dtype=torch.float64), side_1.double() / self._size
        else:
            resized_1 = self._resize * side_1 // short_1
            over_1 = resized_1 - self._size
            half_1 = over_1 // 2
            left_1 = half_1 + (over_1 - 2 * half_1) * (half_1 % 2)  # half of what is over, rounded to the even number
            step_1 = side_1.double() / resized_1.double()
            first_1 = left_1.double() * step_1
        centre_S = first_1 + (torch.arange(self._size, dtype=torch.float64) + 0.5) * step_1
        pixel_N = torch.arange(side, dtype=torch.float64) + 0.5
        distance_SN = (pixel_N[None] - centre_S[:, None]).abs() / step_1.clamp_min(1.0)
        weight_SN = (1.0 - distance_SN).clamp_min(0.0)
        return (weight_SN / weight_SN.sum(1, keepdim=True)).float()


def _rounded(value: Tensor) -> Tensor:
    return torch.floor(value + 0.5).clamp(0.0, 255.0)
