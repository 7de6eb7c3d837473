"""Keeping: what is stored of predicted masks. Everything a page needs is in it, so it never asks for the images again.

Legend: N rows of a batch, K classes, H W pixels.
"""

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash
from PIL import Image

from instar import masks
from instar.metrics import pixels as metrics

SIDE = 224  # pixels of the longer side of a preview: sharp at the size it is shown
QUALITY = 78
# From dark to light, for numbers that are no colours: as readable in grey and to the colour-blind.
_SCALE = np.array([[13, 27, 62], [30, 92, 130], [92, 160, 150], [214, 216, 160], [252, 250, 232]], np.float32)


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
        kept["image_preview"].append(_picture(image_NHWC[row, :tall, :wide]))
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


def _picture(image_HWC: np.ndarray) -> bytes:
    """A small JPEG of an image; of a field, its first channel from dark to light."""
    if image_HWC.dtype == np.uint8 and image_HWC.shape[2] in (1, 3):
        image = Image.fromarray(image_HWC[..., 0] if image_HWC.shape[2] == 1 else np.ascontiguousarray(image_HWC))
    else:
        image = Image.fromarray(_coloured(image_HWC[..., 0].astype(np.float32)))
    image.thumbnail((SIDE, SIDE), reducing_gap=2.0)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _coloured(value_HW: np.ndarray) -> np.ndarray:
    """Numbers as colours, from the 1st to the 99th of a hundred; uint8 HW3."""
    low, high = np.percentile(value_HW, (1, 99))
    place_HW = ((value_HW - low) / (high - low if high > low else 1)).clip(0, 1) * (len(_SCALE) - 1)
    below_HW = place_HW.astype(int).clip(max=len(_SCALE) - 2)
    share_HW1 = (place_HW - below_HW)[..., None]
    return np.rint(_SCALE[below_HW] * (1 - share_HW1) + _SCALE[below_HW + 1] * share_HW1).astype(np.uint8)
