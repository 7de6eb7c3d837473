"""The layers of `deeplab_xception`.

Legend: B batch, C channels, H W pixels, K classes. Sizes in brackets are shares of the image's side.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_RATES = (1, 6, 12, 18)  # of the branches that look around, for output stride 16


class DeepLabXception(nn.Module):
    """image_BCHW -> logits_BKHW; height and width are multiples of 16."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.xception = Xception(channels)
        self.bottleneck = Bottleneck(2048, 256)
        self.conv2 = nn.Conv2d(128, 48, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(48)
        self.upsample = Upsample(classes)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        deep, shallow = self.xception(image_BCHW)
        return self.upsample(self.bottleneck(deep), torch.relu_(self.bn2(self.conv2(shallow))))


class Xception(nn.Module):
    """image_BCHW -> features of 2048 channels (1/16), and those of its first block, 128 channels (1/4)."""

    def __init__(self, channels: int):
        super().__init__()
        self.stem = nn.Sequential(
            *_normed(nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=False)),
            *_normed(nn.Conv2d(32, 64, 3, padding=1, bias=False)),
        )
        self.block1 = Block([64, 128, 128], stride=2)
        self.block2 = Block([128, 256, 256], stride=2)
        self.block3 = Block([256, 728, 728], stride=2)
        self.middle = nn.Sequential(*(Block([728] * 4) for _ in range(16)))
        self.exit = Block([728, 728, 1024], last=True, rectify=False)
        self.head = nn.Sequential(
            *(_normed(_separable(1024, 1536, dilation=2))),
            *(_normed(_separable(1536, 1536, dilation=2))),
            *(_normed(_separable(1536, 2048, dilation=2))),
        )
        _kaiming(self)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        # The benchmark rectifies the first block's answer in place, so the low-level features are rectified too.
        shallow = self.block1(self.stem(image_BCHW))
        deep = self.middle(self.block3(self.block2(shallow)))
        return self.head(self.exit(deep)), shallow


class Block(nn.Module):
    """Separable convolutions through these widths, around them a path of its own.

    stride    by which the last convolution, one more, and the path make the image smaller
    last      whether one more convolution follows although the image stays as large
    rectify   whether negative sums become 0
    """

    def __init__(self, widths: Sequence[int], *, stride: int = 1, last: bool = False, rectify: bool = True):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += _normed(_separable(before, after))
        layers.pop()  # no rectifier before the sum
        if stride > 1 or last:
            layers.append(_separable(widths[-1], widths[-1], stride=stride))
        self.layers = nn.Sequential(*layers)
        self.path: nn.Module = nn.Identity()
        if stride > 1 or widths[0] != widths[-1]:
            convolution = nn.Conv2d(widths[0], widths[-1], 1, stride=stride, bias=False)
            self.path = nn.Sequential(convolution, nn.BatchNorm2d(widths[-1]))
        self._rectify = rectify

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        both = self.layers(feature_BCHW) + self.path(feature_BCHW)
        return torch.relu_(both) if self._rectify else both


class Bottleneck(nn.Module):
    """Looks around at four distances and at the whole image (atrous spatial pyramid pooling)."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.around = nn.ModuleList(nn.Sequential(*_normed(_atrous(before, after, rate))) for rate in _RATES)
        _kaiming(self.around)
        self.whole = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(before, after, 1, bias=False), Affine(after), nn.ReLU()
        )
        self.join = nn.Sequential(*_normed(nn.Conv2d(5 * after, after, 1, bias=False)))

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        seen = [branch(feature_BCHW) for branch in self.around]
        # Expanded to the features' own size: the benchmark's fixed (48, 72) only fits images of 768 x 1152.
        whole_BCHW = self.whole(feature_BCHW).expand(-1, -1, *feature_BCHW.shape[2:])
        return self.join(torch.cat([*seen, whole_BCHW], dim=1))


class Affine(nn.Module):
    """A trained factor and summand for each channel, where normalising one number an image would give nothing."""

    def __init__(self, channels: int):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        return self.weights * feature_BCHW + self.bias


class Upsample(nn.Module):
    """Features of 256 channels (1/16) and 48 channels (1/4) -> logits_BKHW."""

    def __init__(self, classes: int):
        super().__init__()
        self.first = nn.Sequential(*_normed(_doubling(256, 256)), *_normed(_doubling(256, 256)))
        self.join = nn.Sequential(
            *_normed(nn.Conv2d(304, 256, 3, padding=1, bias=False)),
            *_normed(nn.Conv2d(256, 256, 3, padding=1, bias=False)),
            nn.Conv2d(256, 256, 1),
        )
        self.second = nn.Sequential(*_normed(_doubling(256, 256)))
        self.answer = _doubling(256, classes)

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        return self.answer(self.second(self.join(torch.cat([self.first(deep), shallow], dim=1))))


def _separable(before: int, after: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Each channel by itself, then all channels of a pixel."""
    each = nn.Conv2d(before, before, 3, stride=stride, padding=dilation, dilation=dilation, groups=before, bias=False)
    return nn.Sequential(each, nn.Conv2d(before, after, 1, bias=False))


def _atrous(before: int, after: int, rate: int) -> nn.Conv2d:
    if rate == 1:
        return nn.Conv2d(before, after, 1, bias=False)
    return nn.Conv2d(before, after, 3, padding=rate, dilation=rate, bias=False)


def _doubling(before: int, after: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1, bias=False)


def _normed(layer: nn.Module) -> list[nn.Module]:
    """The layer, its normalisation, and a rectifier."""
    convolutions = [part for part in layer.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]
    return [layer, nn.BatchNorm2d(convolutions[-1].out_channels), nn.ReLU(inplace=True)]


def _kaiming(module: nn.Module) -> None:
    """He et al. 2015, fan in, as the benchmark does for its encoder and its pyramid; the rest keeps PyTorch's."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
