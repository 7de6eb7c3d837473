"""The two network contracts: a model gives an Encoder, a task makes a Learner of it.

An encoder answers once an image (logits_BK), or once a pixel (logits_BKHW); `stride` says which.
Legend: B batch, H W pixels, C channels, K classes, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from instar.errors import ConfigError

if TYPE_CHECKING:  # nouns load without torch; whoever calls the functions below has it loaded already
    from torch import Tensor, nn

    from instar.plan import Progress


@dataclass(frozen=True)
class Encoder:
    """A network and what one has to know to feed it and to read it.

    network        normalised float image_BCHW -> logits_BK, or feature_BD where it was built without classes; with a
                   `stride`, logits_BKHW of the image's own height and width
    num_features   D, the width of what the classifier reads
    mean, std      of each channel, in pixels of 0 to 1, or in units of their own where numbers are no pixels; what the
                   network's weights were trained with
    head           name of the classifier inside `network`, '' where there is none
    unmatched      what of the given weights did not fit, one sentence each
    stride         0 where the network answers once an image; else it answers each pixel, and height and width of its
                   images must be multiples of this (1: any size)
    """

    network: nn.Module
    num_features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    head: str = ""
    unmatched: list[str] = field(default_factory=list)
    stride: int = 0


class Learner(ABC):
    """What a task trains: a module, its losses, and what it says about rows.

    module   everything that is trained and saved
    counts   integer sums that `losses` adds into; the engine moves them to the device, sums them over ranks and
             sets them back to zero
    cuts     whether a batch may be cut into micro-batches; where it may not, because its rows are compared with each
             other, normalisation is over all ranks together too
    """

    module: nn.Module
    counts: dict[str, Tensor]
    cuts: bool = True

    @abstractmethod
    def losses(self, batch: Mapping[str, Any], progress: Progress) -> dict[str, Tensor]:
        """Scalars by name, each a mean over the rows of the batch; "total" is what is minimised.

        In the place of another scalar there may be the numbers it is the mean of, one a row: the engine takes the mean
        when somebody looks, for the rows of many steps at once.
        A mean over rows, and nothing else, is what stays right when a batch is cut into ranks and micro-batches. A loss
        over the rows of all ranks (`cuts` is false) gathers them itself, and is the same number on every rank.
        """

    @abstractmethod
    def predict(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Tensors by name, aligned with the rows of the batch."""

    def embed(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """feature_BD of each branch by the name of what it looks at ("image", "other"), float32, aligned with the rows.

        Raises ConfigError where the task has nothing of the kind.
        """
        raise ConfigError("this task gives no embeddings: its rows have no single feature vector")

    def answer(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        """What is said about images alone, in float32, by operations on tensors only, so that it can be exported.

        "probability" of BK; or "probability" of BKHW with "mask" of BHW, uint8; or, unless a task says otherwise, what
        `embed` gives, as "embedding" of BD. Raises ConfigError where rows are more than one image.
        """
        feature = self.embed({"image": image_BHWC})
        if set(feature) != {"image"}:
            raise ConfigError(f"this task looks at {' and '.join(sorted(feature))} together; one image is no row of it")
        return {"embedding": feature["image"].float()}

    @abstractmethod
    def summary(self, counts: Mapping[str, Tensor]) -> dict[str, float]:
        """Scores over the training rows since the counts were last zero."""

    def seen(self, counts: Mapping[str, Tensor]) -> list[int]:
        """Rows of each class that were trained on since the counts were last zero; nothing where rows have no class."""
        return []

    def after_step(self, progress: Progress) -> None:  # noqa: B027 - most tasks have nothing to do here
        """Called after each optimiser step."""


def pixels(
    image_BHWC: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor, *, channels_last: bool = False
) -> Tensor:
    """Normalised float32 image_BCHW on the same device: the first thing done to a batch.

    image_BHWC   any integer type, whose largest value counts as 1, or floating point as it is
    mean, std    one number a channel; tensors on the image's device save a copy
    """
    import torch

    largest = 1 if image_BHWC.is_floating_point() else torch.iinfo(image_BHWC.dtype).max
    options: dict[str, Any] = {"dtype": torch.float32, "device": image_BHWC.device}
    mean_C11 = torch.as_tensor(mean, **options).reshape(-1, 1, 1)
    std_C11 = torch.as_tensor(std, **options).reshape(-1, 1, 1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # Measured: one copy into the layout that is wanted, and the rest in place, is twice as fast as arithmetic on BHWC.
    image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout, copy=True)
    if image_BHWC.is_floating_point():  # of any size: 100,000 Pa, of which only the last few hundred change
        return image_BCHW.sub_(mean_C11).mul_(1 / std_C11)
    return image_BCHW.mul_(1 / (largest * std_C11)).sub_(mean_C11 / std_C11)


def features(network: nn.Module, head: str, image_BCHW: Tensor) -> Tensor:
    """feature_BD, float32: what the classifier `head` of a network reads, or what a network without one gives.

    Where the classifier reads a map, D is its channels, each averaged over the pixels.
    """
    read: list[Tensor] = []
    if not head:
        read.append(network(image_BCHW))
    else:
        hook = network.get_submodule(head).register_forward_pre_hook(lambda module, given: read.append(given[0]))
        try:
            network(image_BCHW)
        finally:
            hook.remove()
    found = read[0].flatten(2).mean(2) if read[0].ndim == 4 else read[0]
    if found.ndim != 2:
        raise ConfigError(
            f"the classifier of this network reads {tuple(found.shape[1:])} numbers an image, and no single row of "
            "features. Use another model for embeddings."
        )
    return found.float()


def train_mode(module: nn.Module, training: bool = True) -> None:
    """Put `module` into training or evaluation mode; the statistics of frozen normalisation layers stand still."""
    from torch.nn.modules.batchnorm import _NormBase

    module.train(training)
    for part in module.modules():
        if isinstance(part, _NormBase) and part.affine and not part.weight.requires_grad:
            part.eval()
