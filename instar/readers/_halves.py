"""Halves: the two files of a pair as arrays, and the part of each that a view shows.

A view is drawn once, on the first half, and carried over to the second by shares of the picture: what both cameras see
of a scene moves together, whatever their sizes. Colour is each half's own.

Legend: H W pixels, C channels, V views.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from instar import fields
from instar.errors import DataError
from instar.readers import _images, _pixels, _thermal, _varying, _views
from instar.readers._images import BadImage
from instar.readers._pixels import Form
from instar.readers._views import View

if TYPE_CHECKING:
    from instar.augment import Augment
    from instar.readers.image_pair import Half

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class Scale:
    """How the numbers of a half become what a network sees: (x - offset) * factor, one a channel of the file.

    pictures stay uint8, and their scale has no channel
    """

    offset: tuple[float, ...] = ()
    factor: tuple[float, ...] = ()


@dataclass(frozen=True)
class Region:
    """The part of a half that counts, in pixels of the upright picture."""

    left: float
    top: float
    width: float
    height: float


def whole(file: str | bytes | memoryview, name: str, half: "Half") -> "Image.Image | np.ndarray":
    """All of one half: a picture that was opened, or an array float32 HWC. Raises BadImage or DataError.

    file   its path, or its stored bytes
    name   what it is called; its ending says what it is, unless the bytes are an array's own
    """
    if isinstance(file, bytes | memoryview):
        if bytes(file[:6]) == b"\x93NUMPY":
            from instar import packed

            return _numbers(packed.of_npy(file), half)
        return _images.of_bytes(file) if not name.lower().endswith(_thermal.ENDING) else _table(bytes(file))
    if name.lower().endswith(PICTURES):
        return _images.of_bytes(_images.bytes_of(file))
    if name.lower().endswith(_thermal.ENDING):
        return _table(_images.bytes_of(file))
    return _numbers(fields.read(Path(file), half.data), half)


def _table(data: bytes) -> np.ndarray:
    return _thermal.read(data)[..., None]


def _numbers(array: np.ndarray, half: "Half") -> np.ndarray:
    """An array of a file, or one that was packed, as float32 HWC with the channels wanted."""
    flat = array.reshape(array.shape[-2:]) if array.ndim == 3 and array.shape[0] == 1 else array
    if flat.ndim == 2:
        flat = flat[..., None]
    if flat.ndim != 3 or flat.dtype.kind not in "iufb":
        raise BadImage(f"an array of {' x '.join(map(str, array.shape))} {array.dtype} is no picture")
    # The axis of channels is the shorter one of the first and the last.
    image_HWC = np.moveaxis(flat, 0, 2) if flat.shape[0] < flat.shape[2] else flat
    if half.take is not None:
        wrong = [one for one in half.take if one >= image_HWC.shape[2]]
        if wrong:
            raise BadImage(f"there is no channel {wrong[0]}: it has {image_HWC.shape[2]}, from 0 on")
        image_HWC = image_HWC[..., list(half.take)]
    made = np.ascontiguousarray(image_HWC, np.float32)
    if not np.isfinite(made.sum(dtype=np.float64)):
        raise BadImage(f"{int((~np.isfinite(made)).sum())} of its numbers are NaN or infinite")
    return made


def size(one: "Image.Image | np.ndarray") -> tuple[int, int]:
    """Width and height of a half, upright."""
    return _images.upright_size(one) if isinstance(one, Image.Image) else (one.shape[1], one.shape[0])


def region(width: int, height: int, half: "Half") -> Region:
    """What counts of a picture of this size: a side of it, and of that the middle that the field of view leaves."""
    left, across = {"whole": (0.0, width), "left": (0.0, width / 2), "right": (width / 2, width / 2)}[half.part]
    tall = height / half.zoom
    wide = across / half.zoom if half.aspect is None else min(across, tall * half.aspect)
    return Region(left + (across - wide) / 2, (height - tall) / 2, wide, tall)


def carried(view: View, first: Region, own: Region, *, ratio: float) -> View:
    """A view that was chosen in the first half's region, in pixels of a whole picture whose region is `own`.

    ratio   how much larger what comes out of it is than what comes out of the first half
    """
    across, down = own.width / first.width, own.height / first.height
    left, top, right, bottom = view.box
    box = (own.left + left * across, own.top + top * down, own.left + right * across, own.top + bottom * down)
    corners: Any = view.corners and tuple((round(x * ratio), round(y * ratio)) for x, y in view.corners)
    return replace(view, box=box, corners=corners, shift=(round(view.shift[0] * ratio), round(view.shift[1] * ratio)))


def drawn(view: "Augment", first: Region, draw: "np.random.Generator | None") -> View:
    """A view of the first half's region, as a training sees it this time; None for draw: as evaluation does."""
    width, height = max(1, round(first.width)), max(1, round(first.height))
    made = _views.evaluation(view, width, height) if draw is None else _views.training(view, width, height, draw)
    # The region may be a fraction of a pixel larger or smaller.
    across, down = first.width / width, first.height / height
    left, top, right, bottom = made.box
    return replace(made, box=(left * across, top * down, right * across, bottom * down))


def shown(one: "Image.Image | np.ndarray", views: Sequence[View], form: Form) -> np.ndarray:
    """The views of a picture, uint8 V x size x size x channels."""
    if isinstance(one, Image.Image):
        if len(views) == 1:
            return _pixels.viewed(one, lambda width, height: views[0], form)[None]
        # Decoded once for all its views, at a scale that has a pixel for every one that is wanted.
        width, height = _images.upright_size(one)
        sides = [min(view.box[2] - view.box[0], view.box[3] - view.box[1]) for view in views]
        room = max(1.0, min(sides) / form.size)
        decoded = np.asarray(_pixels.upright(one, form, short=max(1, round(min(width, height) / room))))
        across, down = decoded.shape[1] / width, decoded.shape[0] / height
        views = [
            replace(view, box=tuple(side * by for side, by in zip(view.box, (across, down) * 2, strict=True)))  # type: ignore[arg-type]
            for view in views
        ]
        one = decoded
    return np.stack([_pixels.viewed_array(one, lambda width, height, view=view: view, form) for view in views])  # type: ignore[misc]


def measured(image_HWC: np.ndarray, view: View, side: int, scale: Scale, bounds: Sequence[float] | None) -> np.ndarray:
    """One view of an array of numbers, float32 side x side x channels (three of one, where it has bounds)."""
    planes = []
    for channel in range(image_HWC.shape[2]):
        image = Image.fromarray(np.ascontiguousarray(image_HWC[..., channel]))
        small = image.resize((side, side), Image.Resampling.BILINEAR, view.box)
        uncovered = _middle(image_HWC[..., channel], view)
        planes.append(np.asarray(_varying.vary(small, replace(view, colour=()), uncovered)))
    seen_SSC = np.stack(planes, axis=-1).astype(np.float32)
    if bounds is not None:
        return _in_three(seen_SSC[..., 0], bounds, scale)
    seen_SSC = (seen_SSC - np.asarray(scale.offset, np.float32)) * np.asarray(scale.factor, np.float32)
    for name, by in view.colour:
        if name == "brightness":
            seen_SSC += np.float32(by - 1)
        elif name == "contrast":
            middle = np.float32(seen_SSC.mean(dtype=np.float64))
            seen_SSC = middle + (seen_SSC - middle) * np.float32(by)
    return np.ascontiguousarray(seen_SSC, np.float32)


def _middle(plane_HW: np.ndarray, view: View) -> Any:
    """What turning and moving uncovers: the mean, as nobody measured anything there."""
    turns = view.corners is not None or view.angle or view.shift != (0, 0)
    return round(float(plane_HW.mean())) if turns else 0


def _in_three(value_HW: np.ndarray, bounds: Sequence[float], scale: Scale) -> np.ndarray:
    """Temperatures as three channels: up to the lower bound, between both, and above; 0 where it is another's.

    Each goes from near 0 at the coldest of its range to 1 at the warmest, so that no channel is all of one number.
    """
    low, high = bounds
    least = scale.offset[0]
    most = least + 1 / scale.factor[0]
    edges = (min(least, low), low, high, max(most, high))
    made = np.zeros((*value_HW.shape, 3), np.float32)
    for channel, (begin, end) in enumerate(pairwise(edges)):
        inside = (value_HW <= end) if channel == 0 else (value_HW > begin) & ((value_HW <= end) | (channel == 2))
        share = (value_HW - begin) / (end - begin) if end > begin else np.ones_like(value_HW)
        made[..., channel] = np.where(inside, share.clip(0, 1) * 0.9 + 0.1, 0)
    return made


class Sums:
    """Least, largest, mean and deviation of each channel over some arrays."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def add(self, image_HWC: np.ndarray) -> None:
        wide = image_HWC.reshape(-1, image_HWC.shape[2]).astype(np.float64)
        self._parts.append(np.stack([wide.min(0), wide.max(0), wide.mean(0), (wide**2).mean(0)]))

    def __bool__(self) -> bool:
        return bool(self._parts)

    def scale(self, span: Sequence[float] | None, *, to_one: bool) -> tuple[Scale, tuple[float, float]]:
        """The scale to mean 0 and deviation 1, or of a span to 0 to 1; and the least and the largest number.

        to_one   the least number becomes 0 and the largest 1
        """
        parts = np.stack(self._parts)
        low_C, high_C = parts[:, 0].min(0), parts[:, 1].max(0)
        mean_C = parts[:, 2].mean(0)
        std_C = np.sqrt(np.maximum(parts[:, 3].mean(0) - mean_C**2, 0))
        ends = (float(low_C.min()), float(high_C.max()))
        if span is not None:
            low_C, high_C, to_one = np.full_like(low_C, span[0]), np.full_like(high_C, span[1]), True
        offset_C, length_C = (low_C, high_C - low_C) if to_one else (mean_C, std_C)
        length_C = np.where(length_C > 0, length_C, 1.0)
        return Scale(tuple(offset_C.tolist()), tuple((1 / length_C).tolist())), ends


def npy(image_HWC: np.ndarray) -> bytes:
    """The bytes of an .npy file of one half."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(image_HWC), version=(1, 0), allow_pickle=False)
    return file.getvalue()


__all__ = ["BadImage", "DataError", "Region", "Scale", "Sums", "carried", "drawn", "measured", "region", "shown"]
