"""One label a pixel, one of K classes.

    task: {kind: segmentation, loss: cross_entropy, also: dice}
    task: {kind: segmentation, weight_power: 0.125, frequencies: [0.98627, 0.00046, 0.01327]}

Needs image and mask, and a model that answers each pixel (smp, deeplab_xception, deeplabv3 and fcn of torchvision).
Evaluation sees whole images: what the network says is brought to the size of the mask in the file, and scored there. An
image of any size goes through, padded and cut back; one of more than `largest` pixels in tiles that overlap.
Legend: B batch, C channels, H W pixels, K classes.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from instar.errors import ConfigError
from instar.networks import Encoder, Learner
from instar.settings import Settings as Base
from instar.validation import conflict

if TYPE_CHECKING:
    import numpy as np

    from instar.manifest import Manifest
    from instar.masks import Masks
    from instar.plan import Plan
    from instar.report.blocks import Section
    from instar.report.methods import Aim

needs = frozenset({"image", "mask"})
METRIC = "mean_iou"
MODE = "max"


class Settings(Base):
    """One label a pixel."""

    kind: Literal["segmentation"] = "segmentation"
    """One label a pixel."""
    loss: Literal["cross_entropy", "focal", "dice", "lovasz"] = "cross_entropy"
    """What is minimised. `dice` and `lovasz` look at regions, so rare classes count as much as common ones."""
    also: Literal["none", "dice", "lovasz"] = "none"
    """A second loss that is added."""
    gamma: Annotated[float, Field(ge=0)] = 2.0
    """How much less an easy pixel counts, for `loss: focal`."""
    weight_power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of a class: its share of all pixels to the power of minus this; 0 for none, 1 for equal say of all."""
    frequencies: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None
    """Shares of all pixels, one a class; null to count them in the training masks."""
    boundary: Annotated[float, Field(gt=0, lt=0.5)] = 0.0075
    """How far a boundary may be off in the boundary score, as a share of the image's diagonal."""
    largest: Annotated[int, Field(ge=4096)] = 2**21
    """Most pixels that go through the network at once in evaluation; larger images are cut into tiles."""
    overlap: Annotated[int, Field(ge=0)] = 128
    """How many pixels a tile sees beyond what it answers for."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        found: list[tuple[tuple[str, ...], str]] = []
        if self.loss != "focal" and self.gamma != 2.0:
            found.append((("gamma", "loss"), f"says nothing to loss {self.loss!r}; set loss to focal, or leave it out"))
        if self.also == self.loss:
            found.append((("also", "loss"), f"is {self.also!r}, as loss is; choose another one, or leave it out"))
        if self.weight_power and self.loss in ("dice", "lovasz"):
            found.append((("weight_power", "loss"), f"says nothing to loss {self.loss!r}, which looks at regions"))
        if self.frequencies and not self.weight_power:
            found.append(
                (("frequencies", "weight_power"), "says nothing while weight_power is 0; set it, or leave it out")
            )
        if 4 * (2 * self.overlap) ** 2 > self.largest:
            found.append(
                (("overlap", "largest"), f"{self.overlap} leaves nothing of tiles of {self.largest} pixels; write less")
            )
        if found:
            raise conflict(found)
        return self


def learner(settings: Settings, encoder: Encoder, plan: "Plan") -> Learner:
    """The learner; raises ConfigError for a recipe that cannot be meant for this data."""
    if not encoder.stride:
        raise ConfigError(
            "task segmentation needs a model that answers each pixel, but this one answers once an image. Write "
            "model={kind: smp, name: unet, encoder: resnet18}, model=deeplab_xception, or model=deeplabv3_resnet50."
        )
    from instar.tasks._segmenter import Segmenter

    return Segmenter(settings, encoder, plan)


def class_weights(settings: Settings, manifest: "Manifest") -> list[float] | None:
    """What a mistake in each class costs; None where all cost the same.

    Raises ConfigError where the frequencies given do not fit the classes.
    """
    if not settings.weight_power:
        return None
    if settings.frequencies is not None:
        if len(settings.frequencies) != len(manifest.classes):
            raise ConfigError(
                f"task.frequencies has {len(settings.frequencies)} numbers, but there are {len(manifest.classes)} "
                f"classes ({', '.join(manifest.classes)}). Write one for each."
            )
        shares = list(settings.frequencies)
    else:
        pixels_K = manifest.statistics["pixels"]
        # A class that none of the counted masks has weighs as if it had one pixel.
        shares = [max(1, count) / max(1, sum(pixels_K)) for count in pixels_K]
    return [share**-settings.weight_power for share in shares]


def measure(columns: "Mapping[str, np.ndarray]") -> dict[str, float]:
    """What is watched while training: loss, mean IoU, IoU by row and accuracy of the pixels of a split.

    columns   label_N, counts_N3K and loss_N, as `kept` left them
    """
    from instar.metrics import pixels as metrics

    known_N = columns["label"] >= 0
    loss = float(columns["loss"][known_N].mean(dtype="float64")) if known_N.any() else float("nan")
    return {"loss": loss, **metrics.summary(columns["counts"][known_N])}


def kept(
    columns: "Mapping[str, np.ndarray]", batch: Mapping[str, Any], *, whole: bool, settings: Settings
) -> dict[str, Any]:
    """What is kept of the predictions of a batch: counts; and where they are to be stored, all that `Masks` holds."""
    from instar.metrics import pixels as metrics
    from instar.tasks import _keeping

    few = {name: columns[name] for name in ("row", "label", "loss")}
    if not whole:
        return {**few, "counts": metrics.counts_of(columns["confusion"])}
    return {**few, **_keeping.whole(columns, batch, boundary=settings.boundary)}


def stored() -> ModuleType:
    """The noun that predictions are stored as."""
    from instar import masks

    return masks


def scores(predictions: "Masks") -> dict[str, Any]:
    """All scores of predictions, by name; METRIC is among them."""
    from instar.metrics import pixels as metrics

    return metrics.scores(predictions)


def ahead(first: "Masks", second: "Masks") -> tuple[float, float, float]:
    """By how much METRIC is higher in `second`, on the same rows, with the interval of that difference."""
    from instar.metrics import pixels as metrics

    return metrics.ahead(first, second)


def sections(predictions: "Masks", scores: Mapping[str, Any]) -> "list[Section]":
    """What the run page shows of predictions; the first section, which has no title, opens the page."""
    from instar.report import pixels as show

    return show.sections(predictions, scores)


def aim(settings: Settings, classes: int) -> "Aim":
    """What the methods paragraph says of the task."""
    from instar.report.methods import Aim

    names = {"cross_entropy": "cross-entropy", "focal": "focal loss", "dice": "Dice loss", "lovasz": "Lovász loss"}
    loss = names[settings.loss]
    if settings.weight_power:
        loss += f", weighted by each class's share of all pixels to the power of -{settings.weight_power:g}"
    loss += f", plus {names[settings.also]}" if settings.also != "none" else ""
    return Aim(f"to tell {classes} classes of pixels apart,", loss)
