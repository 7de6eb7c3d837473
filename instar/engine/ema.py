"""A running average of the weights, which generalises better than where training happens to be.

Polyak and Juditsky 1992; the growing decay is TensorFlow's ExponentialMovingAverage.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from instar.engine.ranks.parallel import like


class Ema:
    """average <- d average + (1 - d) weights after every step, with d = min(decay, (1 + step) / (10 + step)).

    Only what learns is averaged. Buffers, such as the statistics of normalisation layers, are the module's own.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self._module = module
        learning = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self._names = list(learning)
        self._live: list[Tensor] = list(learning.values())
        self._average = [weight.detach().clone() for weight in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, self._live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages stand in the module inside the block; afterwards every bit is back where it was."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """A whole state dict of the module, with the averages in the place of the weights. Nothing is copied."""
        return {**self._module.state_dict(), **dict(zip(self._names, self._average, strict=True))}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back the averages that `state` gave."""
        for name, average in zip(self._names, self._average, strict=True):
            average.copy_(like(state[name], average))

    @torch.no_grad()
    def _swap(self) -> None:
        for live, average in zip(self._live, self._average, strict=True):
            held = live.clone()
            live.copy_(average)
            average.copy_(held)
