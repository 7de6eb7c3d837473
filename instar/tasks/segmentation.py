"""One label a pixel, one of K classes.

    task: {kind: segmentation, loss: cross_entropy, also: dice}
    task: {kind: segmentation, weight_power: 0.125, frequencies: [0.98627, 0.00046, 0.01327]}

Needs image and mask, and a model that answers each pixel (smp, deeplab_xception, deeplabv3 and fcn of torchvision).
Evaluation sees whole images: what the network says is brought to the size of the mask in the file, and scored there. An
image of any size goes through, padded and cut back; one of more than `largest` pixels in tiles that overlap.
Legend: B batch, C channels, H W pixels, K classes.
"""

from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from instar.errors import ConfigError
from instar.networks import Encoder, Learner, features, pixels
from instar.settings import Settings as Base
from instar.validation import conflict

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from instar.manifest import Manifest
    from instar.masks import Masks
    from instar.plan import Plan, Progress
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


class Segmenter(Learner):
    """Trains a network that gives logits_BKHW."""

    def __init__(self, settings: Settings, encoder: Encoder, plan: "Plan"):
        import torch

        from instar.tasks import _pixel_losses as losses

        classes = len(plan.classes)
        self.module = encoder.network
        self._head, self._width = encoder.head, encoder.num_features
        self.counts = {"confusion": torch.zeros(classes, classes, dtype=torch.int64)}
        self._settings, self._stride, self._classes = settings, encoder.stride, classes
        self._channels_last = plan.channels_last
        self._mean_C, self._std_C = torch.tensor(encoder.mean), torch.tensor(encoder.std)
        weights = plan.class_weights_K
        self._weight_K = None if weights is None else torch.tensor(weights, dtype=torch.float32)
        of_pixels: dict[str, Any] = {
            "cross_entropy": losses.cross_entropy,
            "focal": partial(losses.focal, gamma=settings.gamma),
        }
        self._of_pixels = of_pixels.get(settings.loss)
        wanted = (settings.loss, settings.also)
        self._of_regions = {name: getattr(losses, name) for name in ("dice", "lovasz") if name in wanted}

    def losses(self, batch: Mapping[str, Any], progress: "Progress") -> "dict[str, Tensor]":
        """The mean of each loss over the rows, and their sum."""
        from instar.tasks import _tiles

        image_BCHW, mask_BHW = self._seen(batch["image"]), batch["mask"]
        logits_BKHW = _tiles.padded(self.module, image_BCHW, stride=self._stride)
        parts: dict[str, Tensor] = {name: loss(logits_BKHW, mask_BHW).mean() for name, loss in self._of_regions.items()}
        if self._of_pixels is not None:
            parts[self._settings.loss] = self._of_pixels(logits_BKHW, mask_BHW, weight_K=self._weight_K).mean()
        self.counts["confusion"] += self._confusion(logits_BKHW.detach().argmax(1), mask_BHW).sum(0)
        total = sum(parts.values())
        return {"total": total, **(parts if len(parts) > 1 else {})}  # type: ignore[dict-item]

    def predict(self, batch: Mapping[str, Any]) -> "dict[str, Tensor]":
        """predicted_BHW (uint8, at the top left of the largest), its height_B and width_B, confusion_BKK and loss_B.

        loss_B is plain cross-entropy in nats, without weights, so that runs which differ in those can be compared.
        """
        import torch

        mask_BHW, known_B = batch["mask"], batch["label"] >= 0
        rows, device = len(mask_BHW), mask_BHW.device
        sizes = {name: self._sizes(batch, name, known_B) for name in ("height", "width", "image_height", "image_width")}
        found = {
            "predicted": torch.zeros_like(mask_BHW),
            "height": sizes["height"],
            "width": sizes["width"],
            "confusion": torch.zeros(rows, self._classes, self._classes, dtype=torch.int64, device=device),
            "loss": torch.full((rows,), float("nan"), device=device),
        }
        for height, width, image_height, image_width, group in _groups(sizes):
            if height == 0 or width == 0:
                continue
            for index in self._at_once(group, max(height * width, image_height * image_width)):
                image_BHWC = batch["image"][index, :image_height, :image_width]
                answer, loss_B = self._answered(image_BHWC, mask_BHW[index, :height, :width])
                found["predicted"][index, :height, :width] = answer
                found["confusion"][index] = self._confusion(answer, mask_BHW[index, :height, :width])
                found["loss"][index] = loss_B
        return found

    def answer(self, image_BHWC: "Tensor") -> "dict[str, Tensor]":
        """probability_BKHW and mask_BHW (uint8) at the size of the image, all of it at once."""
        import torch

        from instar.tasks import _tiles

        logits_BKHW = _tiles.padded(self.module, self._seen(image_BHWC), stride=self._stride).float()
        return {"probability": logits_BKHW.softmax(1), "mask": logits_BKHW.argmax(1).to(torch.uint8)}

    def embed(self, batch: Mapping[str, Any]) -> "dict[str, Tensor]":
        """What the classifier of pixels reads, averaged over each image; an image of more than `largest` pixels is
        made smaller for it. A row that could not be read has no features: not a number."""
        import torch
        from torch.nn import functional

        known_B = batch["label"] >= 0
        sizes = {name: self._sizes(batch, name, known_B) for name in ("image_height", "image_width")}
        found_BD: Tensor | None = None
        for height, width, index in _alike(sizes):
            if height == 0 or width == 0:
                continue
            for part in self._at_once(index, height * width):
                image_BCHW = self._seen(batch["image"][part, :height, :width])
                shrink = min(1.0, (self._settings.largest / (height * width)) ** 0.5)
                stride = max(1, self._stride)
                lands = [max(1, round(shrink * side / stride)) * stride for side in (height, width)]
                if tuple(lands) != (height, width):
                    image_BCHW = functional.interpolate(image_BCHW, lands, mode="bilinear", antialias=shrink < 1)
                feature_BD = features(self.module, self._head, image_BCHW)
                if found_BD is None:
                    found_BD = feature_BD.new_full((len(known_B), feature_BD.shape[1]), torch.nan)
                found_BD[part] = feature_BD
        if found_BD is None:
            found_BD = torch.full((len(known_B), self._width), torch.nan, device=known_B.device)
        return {"image": found_BD}

    def summary(self, counts: "Mapping[str, Tensor]") -> dict[str, float]:
        """Scores of the training rows, as they were seen, from summed counts."""
        from instar.metrics import pixels as metrics

        found = metrics.summary(metrics.counts_of(counts["confusion"].cpu().numpy()[None]))
        return {name: found[name] for name in ("mean_iou", "pixel_accuracy")}

    def _answered(self, image_BHWC: "Tensor", mask_BHW: "Tensor") -> "tuple[Tensor, Tensor]":
        """The class of each pixel at the size of the mask, uint8, and loss_B."""
        import torch
        from torch.nn import functional

        from instar.tasks import _pixel_losses, _tiles

        image_BCHW, size = self._seen(image_BHWC), tuple(mask_BHW.shape[1:])
        if image_BCHW.shape[2] * image_BCHW.shape[3] > self._settings.largest:
            answer, loss_B = _tiles.in_tiles(
                self.module,
                image_BCHW,
                mask_BHW,
                stride=self._stride,
                largest=self._settings.largest,
                overlap=self._settings.overlap,
            )
            return answer, loss_B
        logits_BKHW = _tiles.padded(self.module, image_BCHW, stride=self._stride).float()
        if logits_BKHW.shape[2:] != size:
            logits_BKHW = functional.interpolate(logits_BKHW, size, mode="bilinear", align_corners=False)
        loss_B = _pixel_losses.cross_entropy(logits_BKHW, mask_BHW, weight_K=None)
        return logits_BKHW.argmax(1).to(torch.uint8), loss_B

    def _at_once(self, group: list[int], size: int) -> list[list[int]]:
        """The rows of one size in parts that go through the network at once."""
        step = max(1, self._settings.largest // size)
        return [group[start : start + step] for start in range(0, len(group), step)]

    def _sizes(self, batch: Mapping[str, Any], name: str, known_B: "Tensor") -> "Tensor":
        """One side of each row; the whole array where the rows do not say, 0 for a row that could not be read."""
        if name not in batch:
            side = batch["image" if name.startswith("image") else "mask"].shape[1 if name.endswith("height") else 2]
            return known_B.long() * side
        return batch[name] * known_B

    def _seen(self, image_BHWC: "Tensor") -> "Tensor":
        if self._mean_C.device != image_BHWC.device:
            self._mean_C, self._std_C = self._mean_C.to(image_BHWC.device), self._std_C.to(image_BHWC.device)
            self._weight_K = None if self._weight_K is None else self._weight_K.to(image_BHWC.device)
        return pixels(image_BHWC, self._mean_C, self._std_C, channels_last=self._channels_last)

    def _confusion(self, answer_BHW: "Tensor", mask_BHW: "Tensor") -> "Tensor":
        """How often each class (rows) was taken for each other one in the known pixels of each row, int64 BKK."""
        import torch

        from instar.masks import IGNORE

        K, rows = self._classes, len(mask_BHW)
        cell_BHW = torch.add(answer_BHW.long(), mask_BHW.long(), alpha=K).masked_fill_(mask_BHW == IGNORE, K * K)
        found = torch.zeros(rows, K * K + 1, dtype=torch.int64, device=mask_BHW.device)
        cell_BP = cell_BHW.flatten(1)
        found.scatter_add_(1, cell_BP, torch.ones_like(cell_BP))
        return found[:, :-1].reshape(rows, K, K)


def learner(settings: Settings, encoder: Encoder, plan: "Plan") -> Segmenter:
    """The learner; raises ConfigError for a recipe that cannot be meant for this data."""
    if not encoder.stride:
        raise ConfigError(
            "task segmentation needs a model that answers each pixel, but this one answers once an image. Write "
            "model={kind: smp, name: unet, encoder: resnet18}, model=deeplab_xception, or model=deeplabv3_resnet50."
        )
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


def summary(counts: "Mapping[str, Tensor]") -> dict[str, float]:
    """Scores of the training rows, as they were seen, from summed counts."""
    from instar.metrics import pixels as metrics

    return metrics.summary(metrics.counts_of(counts["confusion"].cpu().numpy()[None]))


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


def _alike(sizes: "Mapping[str, Tensor]") -> "list[tuple[int, int, list[int]]]":
    """Images of one size together: height, width, and which rows."""
    found: dict[tuple[int, int], list[int]] = {}
    for row, size in enumerate(zip(*(side.tolist() for side in sizes.values()), strict=True)):
        found.setdefault(size, []).append(row)  # type: ignore[arg-type]
    return [(*size, rows) for size, rows in found.items()]


def _groups(sizes: "Mapping[str, Tensor]") -> "list[tuple[int, int, int, int, list[int]]]":
    """Rows of one size together: height, width, height and width of the image, and which rows."""
    found: dict[tuple[int, int, int, int], list[int]] = {}
    for row, size in enumerate(zip(*(side.tolist() for side in sizes.values()), strict=True)):
        found.setdefault(size, []).append(row)  # type: ignore[arg-type]
    return [(*size, rows) for size, rows in found.items()]


def aim(settings: Settings, classes: int) -> "Aim":
    """What the methods paragraph says of the task."""
    from instar.report.methods import Aim

    names = {"cross_entropy": "cross-entropy", "focal": "focal loss", "dice": "Dice loss", "lovasz": "Lovász loss"}
    loss = names[settings.loss]
    if settings.weight_power:
        loss += f", weighted by each class's share of all pixels to the power of -{settings.weight_power:g}"
    loss += f", plus {names[settings.also]}" if settings.also != "none" else ""
    return Aim(f"to tell {classes} classes of pixels apart,", loss)
