"""A two-layer network in float64: small enough that a kill costs nothing, exact enough that any slip shows."""

from typing import Any, Literal

from instar.settings import Settings


class Settings(Settings):
    """Two convolutions, dropout and a linear layer, in float64."""

    kind: Literal["tests.fakes.tiny_cnn"]
    norm: bool = False
    dropout: float = 0.1
    width: int = 8


def build(settings: Settings, *, channels: int, classes: int, size: int, load: bool = True) -> Any:
    import torch
    from torch import nn

    from instar.networks import Encoder

    class ToDouble(nn.Module):
        def forward(self, image_BCHW):
            return image_BCHW.to(torch.float64)

    network = nn.Sequential(
        ToDouble(),
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4) if settings.norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(4, settings.width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.width, classes),
    ).double()
    return Encoder(
        network, num_features=settings.width, mean=(0.5,) * channels, std=(0.5,) * channels, head="9", unmatched=[]
    )
