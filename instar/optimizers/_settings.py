"""What every optimizer can be told."""

import sys
from typing import Annotated, Any

from pydantic import Field

from instar.settings import Settings

Groups = list[dict[str, Any]]
Share = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]


class OptimSettings(Settings):
    """The learning rate, and how weights and gradients are kept small."""

    lr: AboveZero = 1e-3
    """Learning rate, for the global batch; the schedule multiplies it."""
    weight_decay: NotNegative = 0.0
    """How strongly weights are pulled to zero."""
    decay_all: bool = False
    """Whether biases and normalisation weights are pulled to zero too."""
    clip: AboveZero | None = None
    """Largest norm of the whole gradient; null for no limit."""


def divided(groups: Groups) -> bool:
    """Whether the ranks hold a share of each weight (`train.parallel: fsdp`), which not every kernel can update."""
    # Importing DTensor takes more than a second, and nothing can be one before somebody did.
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and any(
        isinstance(weight, loaded.DTensor) for group in groups for weight in group["params"]
    )


def fused(groups: Groups) -> bool:
    """Whether one kernel may update all weights: it exists for the CPU and for CUDA, and gives the same every time."""
    return all(weight.device.type in ("cpu", "cuda") for group in groups for weight in group["params"])
