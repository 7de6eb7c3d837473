"""Segmenter: the learner of the task `segmentation`. What it trains on, and what it answers about images of any size.

Legend: B batch, C channels, H W pixels, K classes.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from instar.masks import IGNORE
from instar.metrics import pixels as metrics
from instar.networks import Encoder, Learner, features, pixels
from instar.plan import Plan, Progress
from instar.tasks import _pixel_losses, _tiles

if TYPE_CHECKING:
    from instar.tasks.segmentation import Settings


class Segmenter(Learner):
    """Trains a network that gives logits_BKHW."""

    def __init__(self, settings: "Settings", encoder: Encoder, plan: Plan):
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
            "cross_entropy": _pixel_losses.cross_entropy,
            "focal": partial(_pixel_losses.focal, gamma=settings.gamma),
        }
        self._of_pixels = of_pixels.get(settings.loss)
        wanted = (settings.loss, settings.also)
        self._of_regions = {name: getattr(_pixel_losses, name) for name in ("dice", "lovasz") if name in wanted}

    def losses(self, batch: Mapping[str, Any], progress: Progress) -> dict[str, Tensor]:
        """The mean of each loss over the rows, and their sum."""
        image_BCHW, mask_BHW = self._seen(batch["image"]), batch["mask"]
        logits_BKHW = _tiles.padded(self.module, image_BCHW, stride=self._stride)
        parts: dict[str, Tensor] = {name: loss(logits_BKHW, mask_BHW).mean() for name, loss in self._of_regions.items()}
        if self._of_pixels is not None:
            parts[self._settings.loss] = self._of_pixels(logits_BKHW, mask_BHW, weight_K=self._weight_K).mean()
        self.counts["confusion"] += self._confusion(logits_BKHW.detach().argmax(1), mask_BHW).sum(0)
        total = sum(parts.values())
        return {"total": total, **(parts if len(parts) > 1 else {})}  # type: ignore[dict-item]

    def predict(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """predicted_BHW (uint8, at the top left of the largest), its height_B and width_B, confusion_BKK and loss_B.

        loss_B is plain cross-entropy in nats, without weights, so that runs which differ in those can be compared.
        """
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
        for (height, width, image_height, image_width), group in _alike(sizes):
            if height == 0 or width == 0:
                continue
            for index in self._at_once(group, max(height * width, image_height * image_width)):
                image_BHWC = batch["image"][index, :image_height, :image_width]
                answer, loss_B = self._answered(image_BHWC, mask_BHW[index, :height, :width])
                found["predicted"][index, :height, :width] = answer
                found["confusion"][index] = self._confusion(answer, mask_BHW[index, :height, :width])
                found["loss"][index] = loss_B
        return found

    def answer(self, image_BHWC: Tensor) -> dict[str, Tensor]:
        """probability_BKHW and mask_BHW (uint8) at the size of the image, all of it at once."""
        logits_BKHW = _tiles.padded(self.module, self._seen(image_BHWC), stride=self._stride).float()
        return {"probability": logits_BKHW.softmax(1), "mask": logits_BKHW.argmax(1).to(torch.uint8)}

    def embed(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the classifier of pixels reads, averaged over each image; an image of more than `largest` pixels is
        made smaller for it. A row that could not be read has no features: not a number."""
        known_B = batch["label"] >= 0
        sizes = {name: self._sizes(batch, name, known_B) for name in ("image_height", "image_width")}
        found_BD: Tensor | None = None
        for (height, width), index in _alike(sizes):
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

    def summary(self, counts: Mapping[str, Tensor]) -> dict[str, float]:
        """Scores of the training rows, as they were seen, from summed counts."""
        found = metrics.summary(metrics.counts_of(counts["confusion"].cpu().numpy()[None]))
        return {name: found[name] for name in ("mean_iou", "pixel_accuracy")}

    def _answered(self, image_BHWC: Tensor, mask_BHW: Tensor) -> tuple[Tensor, Tensor]:
        """The class of each pixel at the size of the mask, uint8, and loss_B."""
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

    def _sizes(self, batch: Mapping[str, Any], name: str, known_B: Tensor) -> Tensor:
        """One side of each row; the whole array where the rows do not say, 0 for a row that could not be read."""
        if name not in batch:
            side = batch["image" if name.startswith("image") else "mask"].shape[1 if name.endswith("height") else 2]
            return known_B.long() * side
        return batch[name] * known_B

    def _seen(self, image_BHWC: Tensor) -> Tensor:
        if self._mean_C.device != image_BHWC.device:
            self._mean_C, self._std_C = self._mean_C.to(image_BHWC.device), self._std_C.to(image_BHWC.device)
            self._weight_K = None if self._weight_K is None else self._weight_K.to(image_BHWC.device)
        return pixels(image_BHWC, self._mean_C, self._std_C, channels_last=self._channels_last)

    def _confusion(self, answer_BHW: Tensor, mask_BHW: Tensor) -> Tensor:
        """How often each class (rows) was taken for each other one in the known pixels of each row, int64 BKK."""
        K, rows = self._classes, len(mask_BHW)
        cell_BHW = torch.add(answer_BHW.long(), mask_BHW.long(), alpha=K).masked_fill_(mask_BHW == IGNORE, K * K)
        found = torch.zeros(rows, K * K + 1, dtype=torch.int64, device=mask_BHW.device)
        cell_BP = cell_BHW.flatten(1)
        found.scatter_add_(1, cell_BP, torch.ones_like(cell_BP))
        return found[:, :-1].reshape(rows, K, K)


def _alike(sizes: Mapping[str, Tensor]) -> list[tuple[tuple[int, ...], list[int]]]:
    """Rows whose sides are all the same together: the sides, and which rows."""
    found: dict[tuple[int, ...], list[int]] = {}
    for row, size in enumerate(zip(*(side.tolist() for side in sizes.values()), strict=True)):
        found.setdefault(size, []).append(row)
    return list(found.items())
