"""Projectors: what stands behind an encoder while it learns, and is left behind afterwards."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def of(features: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with batch normalisation and ReLU between them; the last without bias. As VICReg's."""
    layers: list[nn.Module] = []
    sides = [features, *widths]
    for before, after in list(pairwise(sides))[:-1]:
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(sides[-2], sides[-1], bias=False))
