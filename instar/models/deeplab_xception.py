"""DeepLabv3+ with the modified aligned Xception, output stride 16: the network of the MLPerf HPC benchmark DeepCAM.

    model: {kind: deeplab_xception}

56,454,720 trained numbers for 16 channels and 3 classes. Layers and their initial weights are those of the benchmark
(https://github.com/mlcommons/hpc, deepcam); the size of the image is not part of it: any multiple of 16 goes.

Chen et al. 2018, https://arxiv.org/abs/1802.02611. Normalisation layers are plain BatchNorm2d.
"""

from typing import TYPE_CHECKING, Literal

from instar.models._settings import ModelSettings

if TYPE_CHECKING:
    from instar.networks import Encoder

STRIDE = 16


class Settings(ModelSettings):
    """DeepLabv3+ with the modified aligned Xception, for pixel labels."""

    kind: Literal["deeplab_xception"] = "deeplab_xception"
    """DeepLabv3+ with the modified aligned Xception, for pixel labels."""
    name: Literal["deeplab_xception"] = "deeplab_xception"
    """The only one."""


def answers(settings: Settings) -> Literal["image", "pixels"]:
    """What gets an answer of its own."""
    return "pixels"


def build(settings: Settings, *, channels: int, classes: int | None, size: int, load: bool = True) -> "Encoder":
    """The network. Pixels go in as they come: it was never trained on photographs, so mean 0 and deviation 1."""
    from instar.models import _deeplab_xception, _encoder

    _encoder.refuse(settings.args, {name: "the benchmark" for name in settings.args})
    return _encoder.finish(
        _deeplab_xception.DeepLabXception(channels, classes or 1),
        settings,
        heads=["upsample.answer"],
        channels=channels,
        classes=classes,
        size=size,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        load=load,
        stride=STRIDE,
    )
