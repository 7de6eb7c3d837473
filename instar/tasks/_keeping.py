"""Keeping: what is stored of predicted masks. Everything a page needs is in it, so it never asks for the images again.

Legend: N rows of a batch, K classes, H W pixels.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash
from PIL import Image

from instar import masks
from instar.metrics import pixels as metrics
from instar.tasks import _previews

SIDE = 224  # pixels of the longer side of a preview: sharp at the size it is shown


def whole(columns: Mapping[str, np.ndarray], batch: Mapping[str, Any], *, boundary: float) -> dict[str, Any]:
    """The columns of `Masks` for the rows of a batch."""
    rows, K = len(columns["row"]), columns["confusion"].shape[1]
    image_NHWC, true_NHW = batch["image"].numpy(), batch["mask"].numpy()
    kept: dict[str, Any] = {name: [] for name in ("mask", "confusion", "image_preview", "truth_preview")}
    truth_N, boundary_N4K = np.zeros(rows, np.uint64), np.zeros((rows, 4, K), np.int64)
    for row in range(rows):
        height, width = int(columns["height"][row]), int(columns["width"][row])
        class_HW = np.ascontiguousarray(columns["predicted"][row, :height, :width])
        true_HW = np.ascontiguousarray(true_NHW[row, :height, :width])
        kept["mask"].append(masks.encoded(class_HW))
        kept["confusion"].append(_cells(columns["confusion"][row]))
        if class_HW.size == 0:
            kept["image_preview"].append(b"")
            kept["truth_preview"].append(b"")
            continue
        tall = int(batch["image_height"][row]) if "image_height" in batch else image_NHWC.shape[1]
        wide = int(batch["image_width"][row]) if "image_width" in batch else image_NHWC.shape[2]
        kept["image_preview"].append(_previews.jpeg(image_NHWC[row, :tall, :wide], side=SIDE))
        kept["truth_preview"].append(masks.encoded(small(true_HW)))
        truth_N[row] = xxhash.xxh3_64_intdigest(true_HW.tobytes() + bytes(str(true_HW.shape), "ascii"))
        allowed = boundary * math.hypot(height, width)
        boundary_N4K[row] = metrics.boundary_counts(class_HW, true_HW, K, pixels=allowed)
    as_columns = {name: np.array([*values, None], object)[:-1] for name, values in kept.items()}
    return {**as_columns, "truth": truth_N, "boundary": boundary_N4K}


def small(class_HW: np.ndarray) -> np.ndarray:
    """A mask at the size of a preview, by its nearest pixels."""
    height, width = class_HW.shape
    share = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(class_HW).resize(size, Image.Resampling.NEAREST))


def _cells(confusion_KK: np.ndarray) -> bytes:
    """The cells that are not 0, as int64 pairs (cell, pixels)."""
    flat = confusion_KK.reshape(-1)
    cell_C = np.flatnonzero(flat)
    return np.stack([cell_C, flat[cell_C]], axis=1).astype(np.int64).tobytes()
