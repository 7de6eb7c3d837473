"""One file, looked at to its last pixel: whether it is whole, how large, what its values are, what it looks like.

Legend: C channels.
"""

import os
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from PIL import Image, ImageOps

from instar.engine.scan import headers, likeness, remembered
from instar.engine.scan.headers import state
from instar.readers import _images as images
from instar.readers._images import BadImage

VERSION = f"2 {Image.__version__} {images.MOST_PIXELS}"  # raise the number when what is found changes
SCHEMA = pa.schema(
    [
        *remembered.STATE,
        ("width", pa.int32()),  # pixels of the upright image; 0 for a bad file
        ("height", pa.int32()),
        ("content", pa.uint64()),  # the fingerprint that a manifest has
        ("checksum", pa.string()),  # xxh3-128 of every byte, hexadecimal; '' where it could not be read
        ("format", pa.string()),
        ("mode", pa.string()),  # Pillow's name of what a pixel is
        ("reason", pa.string()),  # why it is no usable image; '' for a good one
        ("likeness", pa.uint64()),  # 64 bits of how it looks; 0 for like nothing
        ("turned", pa.uint64()),  # the same, in a position that mirrored and turned copies share
        ("kind", pa.string()),  # which values the next columns are of: RGB, L, I;16 …
        ("num", pa.list_(pa.int64())),  # finite values of each channel
        ("mean", pa.list_(pa.float64())),
        ("squares", pa.list_(pa.float64())),  # sum of squared distances from that mean
        ("low", pa.list_(pa.float64())),
        ("high", pa.list_(pa.float64())),
        ("none", pa.list_(pa.int64())),  # values that are no number, or infinite
    ]
)
_EMPTY: dict[str, Any] = {
    "width": 0, "height": 0, "content": 0, "checksum": "", "format": "", "mode": "", "reason": "", "likeness": 0,
    "turned": 0,
    "kind": "", "num": [], "mean": [], "squares": [], "low": [], "high": [], "none": [],
}  # fmt: skip
_BLOCK = 1 << 20  # bytes hashed in one go
_EIGHT_BITS = ("L", "LA", "RGB", "RGBA")
_LEVELS = np.arange(65536, dtype=np.int64)


def look(root: str, file: str) -> dict[str, Any]:
    """Everything there is to know about one file, a row of SCHEMA. Never raises for what is wrong with the file."""
    path = f"{root}/{file}"
    size, changed_ns = state(path)
    found = {"file": file, "bytes": size, "changed_ns": changed_ns, **_EMPTY}
    try:
        with images.opened(path) as (image, descriptor):
            status = os.fstat(descriptor)
            found |= {"bytes": status.st_size, "changed_ns": status.st_mtime_ns, "checksum": checksum(descriptor)}
            width, height = images.upright_size(image)
            known = {"width": width, "height": height, "format": image.format, "mode": images.kind(image)}
            with images.problems_named():
                image.load()
            known["content"] = headers.fingerprint(*headers.ends(descriptor, status.st_size), status.st_size)
            return found | known | _values(image, str(known["mode"]))
    except BadImage as error:
        return found | {"reason": str(error)}


def stored(file: str, data: bytes | memoryview, array: np.ndarray | None) -> dict[str, Any]:
    """The same about the bytes that were packed of a file; `array` is what they hold, where that is one."""
    found = {"file": file, "bytes": len(data), "changed_ns": -1, **_EMPTY, "checksum": xxhash.xxh3_128_hexdigest(data)}
    try:
        if array is not None and array.ndim == 3 and array.shape[2] > 1 and array.dtype != np.uint8:
            return found | field(array) | {"format": "NPY"}
        image = images.of_bytes(data) if array is None else images.of_array(array)
        width, height = images.upright_size(image)
        known = {"width": width, "height": height, "format": image.format or "NPY", "mode": images.kind(image)}
        with images.problems_named():
            image.load()
        return found | known | _values(image, str(known["mode"]))
    except BadImage as error:
        return found | {"reason": str(error)}


def field(image_HWC: np.ndarray) -> dict[str, Any]:
    """What there is to know of numbers of any channels; numbers that are none are a reason not to use them."""
    height, width, channels = image_HWC.shape
    per_channel = [of_numbers(values) for values in image_HWC.reshape(-1, channels).T]
    columns = {name: [value for one in per_channel for value in one[name]] for name in per_channel[0]}
    none, worst = sum(columns["none"]), int(np.argmax(columns["none"]))
    return {
        **columns,
        **_alike(grey(image_HWC[..., 0])),
        "width": width,
        "height": height,
        "mode": f"{channels} channels",
        "kind": f"{channels} channels",
        "reason": f"{none} of its numbers are NaN or infinite, most of them in channel {worst}" if none else "",
    }


def ended(root: str, file: str, reason: str) -> dict[str, Any]:
    """The row of a file that is no picture, or none that could be looked at."""
    size, changed_ns = state(f"{root}/{file}")
    return {"file": file, "bytes": size, "changed_ns": changed_ns, **_EMPTY, "reason": reason}


def given_up(file: str, reason: str) -> dict[str, Any]:
    """The row of a file that does not come. Its size, which may hang too, is not asked for: it is looked at again."""
    return {"file": file, "bytes": -1, "changed_ns": -1, **_EMPTY, "reason": reason}


def checksum(descriptor: int) -> str:
    """xxh3-128 of every byte of an open file, in hexadecimal."""
    digest, at = xxhash.xxh3_128(), 0
    while block := os.pread(descriptor, _BLOCK, at):
        digest.update(block)
        at += len(block)
    return digest.hexdigest()


def _values(image: Image.Image, mode: str) -> dict[str, Any]:
    """Likeness and the statistics of each channel, of the image as it is trained on."""
    with images.problems_named():
        if "exif" in image.info or "xmp" in image.info:
            ImageOps.exif_transpose(image, in_place=True)
        if mode in ("I;16", "I", "F"):
            value_HW = np.asarray(image)
            return {"kind": mode, **_alike(grey(value_HW)), **_of_deep(value_HW, mode)}
        if image.mode not in _EIGHT_BITS:
            transparent = image.has_transparency_data
            image = image.convert("L" if mode == "1" else "RGBA" if transparent else "RGB")
        return {"kind": image.mode, **_alike(image.convert("L")), **_of_bytes(image)}


def _alike(image: Image.Image) -> dict[str, Any]:
    return {"likeness": likeness.likeness(image), "turned": likeness.turned(image)}


def _of_bytes(image: Image.Image) -> dict[str, Any]:
    """From the histogram of each channel: sums of whole numbers, so nothing is rounded."""
    count_CV = np.array(image.histogram(), np.int64).reshape(-1, 256)
    return _of_counts(count_CV)


def _of_counts(count_CV: np.ndarray) -> dict[str, Any]:
    level_V = _LEVELS[: count_CV.shape[1]]
    num_C, sum_C = count_CV.sum(1), count_CV @ level_V
    mean_C = sum_C / num_C
    square_C = [int(count @ (level_V * level_V)) for count in count_CV]
    # n times the sum of squares minus the square of the sum, in whole numbers of any size.
    squares = [
        (n * square - total * total) / n
        for n, square, total in zip(num_C.tolist(), square_C, sum_C.tolist(), strict=True)
    ]
    seen = [np.flatnonzero(count) for count in count_CV]
    return {
        "num": num_C.tolist(),
        "mean": mean_C.tolist(),
        "squares": squares,
        "low": [float(levels[0]) for levels in seen],
        "high": [float(levels[-1]) for levels in seen],
        "none": [0] * len(num_C),
    }


def _of_deep(value_HW: np.ndarray, mode: str) -> dict[str, Any]:
    """Of one channel of more than eight bits; values that are no number are counted and left out."""
    if mode == "I;16":
        return _of_counts(np.bincount(value_HW.astype(np.int64).clip(0, 65535).ravel(), minlength=65536)[None])
    return of_numbers(value_HW)


def of_numbers(value_N: np.ndarray) -> dict[str, Any]:
    """Of one channel of numbers of any size; those that are none are counted and left out."""
    value_M = value_N[np.isfinite(value_N)].astype(np.float64)
    none = [int(value_N.size - value_M.size)]
    if not value_M.size:
        return {"num": [0], "mean": [0.0], "squares": [0.0], "low": [0.0], "high": [0.0], "none": none}
    mean = float(value_M.mean())
    return {
        "num": [int(value_M.size)],
        "mean": [mean],
        "squares": [float(np.square(value_M - mean).sum())],
        "low": [float(value_M.min())],
        "high": [float(value_M.max())],
        "none": none,
    }


def grey(value_HW: np.ndarray) -> Image.Image:
    """Deep values stretched over the 256 levels of mode L."""
    value_HW = np.nan_to_num(value_HW.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(value_HW.min()), float(value_HW.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return Image.fromarray(((value_HW - low) * scale).astype(np.uint8))
