"""A pixel model of a hundred numbers: sees 3 pixels around, at a stride of 4."""

from typing import Literal

from instar.settings import Settings as Base


class Settings(Base):
    """A few convolutions, one answer a pixel."""

    kind: Literal["tests.fakes.tiny_fcn"] = "tests.fakes.tiny_fcn"
    """A few convolutions, one answer a pixel."""
    norm: bool = True
    """Whether it normalises over the batch."""


def answers(settings):
    return "pixels"


def build(settings, *, channels, classes, size, load=True):
    from torch import nn

    from instar.networks import Encoder

    network = nn.Sequential(
        nn.Conv2d(channels, 8, 4, stride=4),
        nn.BatchNorm2d(8) if settings.norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, classes, 4, stride=4),
    )
    return Encoder(network, 0, (0.5,) * channels, (0.25,) * channels, head="5", stride=4)
