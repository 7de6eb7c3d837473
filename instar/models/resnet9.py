"""A residual network of nine layers for small images (about 24 to 96 pixels), where the large zoos have none.

Sources: Page 2018, "How to train your ResNet" (layout, scaled logits); Jordan 2024, arXiv 2404.00498 (pooling before
the normalisation, GELU).

    model: {kind: resnet9, width: 32}
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from instar.settings import Settings as Base

if TYPE_CHECKING:
    from instar.networks import Encoder


class Settings(Base):
    """A small residual network for small images."""

    kind: Literal["resnet9"]
    """A small residual network for small images."""
    width: Annotated[int, Field(ge=4)] = 32
    """Channels of the first layer; the deepest has four times as many."""
    scale: Annotated[float, Field(gt=0)] = 0.125
    """What the logits are multiplied with."""


def answers(settings: Settings) -> Literal["image", "pixels"]:
    """What gets an answer of its own."""
    return "image"


def build(settings: Settings, *, channels: int, classes: int | None, size: int, load: bool = True) -> "Encoder":
    """The network; without `classes` it ends in its features, 4 x width of them."""
    from torch import nn

    from instar.networks import Encoder

    width = settings.width
    features = 4 * width

    def convolve(before: int, after: int, *, pool: bool = False) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Conv2d(before, after, 3, padding=1, bias=False)]
        layers += [nn.MaxPool2d(2)] if pool else []
        return nn.Sequential(*layers, nn.BatchNorm2d(after), nn.GELU())

    class Residual(nn.Sequential):
        def forward(self, image_BCHW):  # type: ignore[no-untyped-def]
            return image_BCHW + super().forward(image_BCHW)

    class Scaled(nn.Linear):
        def forward(self, feature_BD):  # type: ignore[no-untyped-def]
            return super().forward(feature_BD) * settings.scale

    network = nn.Sequential()
    network.add_module("stem", convolve(channels, width))
    network.add_module("layer1", convolve(width, 2 * width, pool=True))
    network.add_module("residual1", Residual(convolve(2 * width, 2 * width), convolve(2 * width, 2 * width)))
    network.add_module("layer2", convolve(2 * width, 4 * width, pool=True))
    network.add_module("layer3", convolve(4 * width, 4 * width, pool=True))
    network.add_module("residual3", Residual(convolve(4 * width, 4 * width), convolve(4 * width, 4 * width)))
    network.add_module("pool", nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()))
    if classes is not None:
        network.add_module("head", Scaled(features, classes, bias=False))
    return Encoder(
        network=network,
        num_features=features,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        head="head" if classes is not None else "",
        unmatched=[],
    )
