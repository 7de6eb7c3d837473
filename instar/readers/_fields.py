"""Fields: arrays of any number of channels with a class for each pixel, out of HDF5 or NumPy files.

Legend: H W pixels, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from instar.errors import DataError
from instar.plugins import unknown
from instar.readers import _hdf5, _masks, _pixels
from instar.readers._masks import Codes
from instar.readers._pixels import BadImage
from instar.readers._views import View


@dataclass(frozen=True)
class Layout:
    """Where the numbers are.

    data      the dataset of a file; or several, each one channel
    labels    the dataset of its classes
    names     names of the channels; empty where nobody named them
    channels  which of them are read, by number or name; None for all
    axes      HWC, CHW, or auto to see it from the shape of the labels
    """

    data: str | tuple[str, ...]
    labels: str
    names: tuple[str, ...] = ()
    channels: tuple[int | str, ...] | None = None
    axes: str = "auto"


def size(file: str, mask: str, layout: Layout) -> tuple[int, int, int]:
    """Height, width and number of channels of a row, from its headers. Raises BadImage where they do not fit."""
    if file.endswith(_hdf5.HDF5):
        with _hdf5.opened(file) as opened:
            shape = _shape(opened, layout)
            labels = _hdf5.dataset(opened, layout.labels)
            return _agreed(shape, labels.shape, labels.dtype, layout)
    data, labels = _hdf5.array(file), _hdf5.array(mask)
    return _agreed(data.shape, labels.shape, labels.dtype, layout)


def classes(file: str, mask: str, layout: Layout) -> np.ndarray:
    """The numbers of the classes as they stand in the file, HW of integers."""
    if not file.endswith(_hdf5.HDF5):
        return np.array(_hdf5.array(mask))
    with _hdf5.opened(file) as opened:
        return np.asarray(_hdf5.dataset(opened, layout.labels))


def read(file: str, mask: str, layout: Layout, codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """image_HWC as it is in the file, float32, with the channels wanted; and class_HW, uint8.

    Raises BadImage for what is no number, or no class.
    """
    if file.endswith(_hdf5.HDF5):
        with _hdf5.opened(file) as opened:
            labels = np.asarray(_hdf5.dataset(opened, layout.labels))
            data = _stacked(opened, layout)
    else:
        data, labels = _hdf5.array(file), np.asarray(_hdf5.array(mask))
    _, _, count = _agreed(data.shape, labels.shape, labels.dtype, layout)
    image_HWC = _channels_last(data, labels.shape, layout)
    chosen = numbers_of(layout, count)
    if chosen != list(range(count)):
        image_HWC = image_HWC[..., chosen]
    # A NumPy file is mapped and cannot be written to; then it is copied.
    image_HWC = np.require(image_HWC, np.float32, ["C", "W"])
    # A sum is not finite if one of its numbers is not, and costs a tenth of asking each.
    if not np.isfinite(image_HWC.sum(dtype=np.float64)):
        _refuse_not_finite(image_HWC, layout, chosen)
    kind = np.uint8 if labels.dtype.kind == "b" else labels.dtype if labels.dtype == np.uint8 else np.int64
    return image_HWC, _masks.classes_of(labels.astype(kind, copy=False), codes)


def numbers_of(layout: Layout, count: int) -> list[int]:
    """The numbers of the channels that are wanted; raises BadImage for one that is not there."""
    names = layout.names or (layout.data if isinstance(layout.data, tuple) else ())
    if layout.names and len(layout.names) != count:
        raise BadImage(f"{count} channels, but data.reader.names has {len(layout.names)} names")
    found = []
    for channel in range(count) if layout.channels is None else layout.channels:
        if isinstance(channel, str):
            if channel not in names:
                raise BadImage(f"{unknown(channel, list(names), what='channel')}; name them in data.reader.names")
            found.append(list(names).index(channel))
        elif 0 <= channel < count:
            found.append(channel)
        else:
            raise BadImage(f"there is no channel {channel}: it has {count}, from 0 to {count - 1}")
    return found


def seen(image_HWC: np.ndarray, class_HW: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """What a view shows of a field and of its classes. What it uncovers is 0, and a class nobody knows."""
    assert view.frame is not None, "fields keep their pixels"
    if view.frame.roll:
        image_HWC, class_HW = (np.roll(one, view.frame.roll, axis=1) for one in (image_HWC, class_HW))
        view = replace(view, frame=replace(view.frame, roll=0))
    class_HW = _masks.seen(class_HW, view, 0)
    if (part := _sliced(view)) is not None:
        image_HWC = image_HWC[part]
        image_HWC = image_HWC[:, ::-1] if view.hflip else image_HWC
        image_HWC = image_HWC[::-1] if view.vflip else image_HWC
        return np.ascontiguousarray(image_HWC), class_HW
    assert view.frame is not None, "it was one before the roll"
    moved = np.empty((*view.frame.shape, image_HWC.shape[2]), np.float32)
    for channel in range(image_HWC.shape[2]):
        image = Image.fromarray(np.ascontiguousarray(image_HWC[..., channel]))
        small = _pixels.framed(image, view, 0, Image.Resampling.BILINEAR)
        moved[..., channel] = np.asarray(_pixels.vary(small, view))
    return moved, class_HW


def _sliced(view: View) -> tuple[slice, slice] | None:
    """The part of the field that a view takes as it is; None where it asks for more."""
    assert view.frame is not None, "the caller looked"
    frame, (left, top, right, bottom) = view.frame, view.box
    exact = left == int(left) and top == int(top) and (right - left, bottom - top) == frame.lands
    plain = exact and frame.lands == (frame.shape[1], frame.shape[0])
    if plain and view.corners is None and not view.angle and view.shift == (0, 0):
        return slice(int(top), int(bottom)), slice(int(left), int(right))
    return None


def scaling(
    path: str, kind: str, sums: "Moments", chosen: Sequence[int], count: int
) -> tuple[list[float], list[float], list[str]]:
    """Offset and factor of each chosen channel, and notes: (x - offset) * factor is what the network sees.

    path    a file of statistics over all channels, '' for none: then those of `sums`, the fields that were read
    kind    minmax, meanstd, auto (minmax from a file that has it, else meanstd) or none
    Raises DataError where the file lacks what is asked for.
    """
    if kind == "none":
        return [0.0] * len(chosen), [1.0] * len(chosen), []
    low: np.ndarray | None = sums.low
    high: np.ndarray | None = sums.high
    mean: np.ndarray | None = sums.mean
    std: np.ndarray | None = sums.std
    notes = [f"channels are normalised by {sums.fields} fields, for want of a file of statistics"]
    if path:
        found, notes = _statistics(path, count), []
        low, high, mean, std = (None if one is None else one[list(chosen)] for one in found)
        if kind == "auto":
            kind = "minmax" if low is not None and high is not None else "meanstd"
    elif kind == "auto":
        kind = "meanstd"
    offset, length = (low, None if low is None or high is None else high - low) if kind == "minmax" else (mean, std)
    if offset is None or length is None:
        wanted = "minval and maxval" if kind == "minmax" else "mean, and std or sqmean"
        raise DataError(f"{path}: holds no {wanted}. Write another data.reader.normalise, or mend the file.")
    flat = length <= 0
    if flat.any():
        notes.append(f"channels {np.array(chosen)[flat].tolist()} are the same everywhere and become 0")
    return offset.tolist(), np.where(flat, 1.0, 1 / np.where(flat, 1.0, length)).tolist(), notes


class Moments:
    """Minimum, maximum, mean and deviation of each channel over some fields."""

    def __init__(self) -> None:
        self.fields = 0
        self._parts: list[np.ndarray] = []

    def add(self, image_HWC: np.ndarray) -> None:
        wide = image_HWC.reshape(-1, image_HWC.shape[2]).astype(np.float64)
        self._parts.append(np.stack([wide.min(0), wide.max(0), wide.mean(0), (wide**2).mean(0)]))
        self.fields += 1

    @property
    def low(self) -> np.ndarray:
        return np.min(self._parts, axis=0)[0]

    @property
    def high(self) -> np.ndarray:
        return np.max(self._parts, axis=0)[1]

    @property
    def mean(self) -> np.ndarray:
        return np.mean(self._parts, axis=0)[2]

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(np.mean(self._parts, axis=0)[3] - self.mean**2, 0))


def _statistics(path: str, count: int) -> list[np.ndarray | None]:
    """Minimum, maximum, mean and deviation of each channel out of a file; None for what it lacks."""
    from pathlib import Path

    try:
        found = _hdf5.numbers(Path(path), ("minval", "maxval", "min", "max", "mean", "std", "sqmean"))
    except BadImage as error:
        raise DataError(f"{path}: {error}. Name the file of statistics in data.reader.stats.") from error
    for name, one in found.items():
        if one.shape != (count,):
            raise DataError(f"{path}: {name} has the shape {one.shape}, but the fields have {count} channels.")
        if not np.isfinite(one).all():
            raise DataError(f"{path}: {name} holds what is no number. Make the statistics again.")
    std = found.get("std")
    if std is None and "mean" in found and "sqmean" in found:
        std = np.sqrt(np.maximum(found["sqmean"] - found["mean"] ** 2, 0))
    return [found.get("minval", found.get("min")), found.get("maxval", found.get("max")), found.get("mean"), std]


def _shape(opened: object, layout: Layout) -> tuple[int, ...]:
    if isinstance(layout.data, str):
        return _hdf5.dataset(opened, layout.data).shape
    shapes = {_hdf5.dataset(opened, name).shape for name in layout.data}
    if len(shapes) > 1:
        raise BadImage(f"its channels have different shapes: {sorted(shapes)}")
    return (*shapes.pop(), len(layout.data))


def _stacked(opened: object, layout: Layout) -> np.ndarray:
    if isinstance(layout.data, str):
        return np.asarray(_hdf5.dataset(opened, layout.data))
    _shape(opened, layout)
    return np.stack([np.asarray(_hdf5.dataset(opened, name)) for name in layout.data], axis=-1)


def _agreed(shape: tuple[int, ...], labels: tuple[int, ...], kind: np.dtype, layout: Layout) -> tuple[int, int, int]:
    """Height, width and channels, where the numbers and their classes fit each other."""
    if len(labels) != 2 or kind.kind not in "iub":
        raise BadImage(f"its labels are {kind} of shape {labels}, not whole numbers of height x width")
    if shape == labels:
        return (*labels, 1)
    fits = {"HWC": len(shape) == 3 and shape[:2] == labels, "CHW": len(shape) == 3 and shape[1:] == labels}
    axes = next((one for one in fits if fits[one] and layout.axes in (one, "auto")), "")
    if not axes:
        raise BadImage(f"its data has the shape {shape}, its labels {labels} (data.reader.layout is {layout.axes})")
    return (*labels, shape[2] if axes == "HWC" else shape[0])


def _channels_last(data: np.ndarray, labels: tuple[int, ...], layout: Layout) -> np.ndarray:
    if data.ndim == 2:
        return data[..., None]
    return data if layout.axes != "CHW" and data.shape[:2] == labels else np.moveaxis(data, 0, 2)


def _refuse_not_finite(image_HWC: np.ndarray, layout: Layout, chosen: Sequence[int]) -> None:
    wrong_C = (~np.isfinite(image_HWC)).sum((0, 1))
    names = layout.names or (layout.data if isinstance(layout.data, tuple) else ())
    at = int(wrong_C.argmax())
    name = names[chosen[at]] if names else str(chosen[at])
    raise BadImage(f"{int(wrong_C.sum())} of its numbers are NaN or infinite, most of them in channel {name}")
