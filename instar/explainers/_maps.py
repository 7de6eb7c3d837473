"""What an explainer gives, and what explainers share.

Legend: B batch, H W pixels or patches, L maps of one image.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


@dataclass(frozen=True, eq=False)
class Maps:
    """What mattered in one image, place by place.

    branch      what of a row was looked at: image or other
    names       one a map, in the words of a page; the first is seen first
    value_LHW   float32, 0 or more, coarser than the image; nothing is scaled, so maps of a kind can be compared
    note        how it was made, in a sentence
    """

    branch: str
    names: tuple[str, ...]
    value_LHW: "np.ndarray"
    note: str


@contextmanager
def asking(module: "nn.Module") -> Iterator[None]:
    """The module in evaluation mode with gradients for all of its weights, frozen or not; and as it was, afterwards."""
    from instar.networks import train_mode

    training = module.training
    frozen = [weight for weight in module.parameters() if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    module.eval()
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        train_mode(module, training)
