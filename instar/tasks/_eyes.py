"""Eyes: what networks without labels see of a batch, and how far two of them are apart.

Legend: B batch, V views, H W pixels, C channels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from instar.networks import Encoder, pixels


class Eyes:
    """Brings batches into the form that networks see: normalised float32 image_BCHW."""

    def __init__(self, encoders: Mapping[str, Encoder], *, channels_last: bool):
        self._channels_last = channels_last
        self._moments = {name: (torch.tensor(one.mean), torch.tensor(one.std)) for name, one in encoders.items()}

    def see(self, image_BHWC: Tensor, name: str) -> Tensor:
        """What the network called `name` sees; of numbers, which the reader normalised, only the order changes."""
        if image_BHWC.is_floating_point():
            layout = torch.channels_last if self._channels_last else torch.contiguous_format
            return image_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout)
        mean_C, std_C = self._moments[name]
        if mean_C.device != image_BHWC.device:
            self._moments[name] = mean_C, std_C = mean_C.to(image_BHWC.device), std_C.to(image_BHWC.device)
        return pixels(image_BHWC, mean_C, std_C, channels_last=self._channels_last)


def views(batch: Mapping[str, Any], name: str) -> list[Tensor]:
    """The views of one branch, image_BHWC each; one where the loader was asked for one."""
    found: Tensor = batch[name]
    return [found] if found.ndim == 4 else list(found.unbind(1))


def distance(first: nn.Module, second: nn.Module) -> float | None:
    """How far the weights of two networks are apart, as a share of their length; None where their shapes differ."""
    pairs = list(zip(first.parameters(), second.parameters(), strict=False))
    same = len(list(first.parameters())) == len(list(second.parameters()))
    if not same or any(one.shape != two.shape for one, two in pairs):
        return None
    apart = sum(float((one.detach() - two.detach()).square().sum()) for one, two in pairs)
    length = sum(float(one.detach().square().sum()) for one, _ in pairs)
    return (apart / length) ** 0.5 if length else 0.0
