"""Fields: arrays of any number of channels with a class for each pixel, out of whatever store they lie in.

Legend: H W pixels, C channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from instar import fields
from instar.errors import DataError
from instar.fields import Unreadable
from instar.plugins import unknown
from instar.readers import _filling, _masks, _pixels, _varying
from instar.readers._images import BadImage
from instar.readers._masks import Codes
from instar.readers._stores import Files, Packs
from instar.readers._views import View

T = TypeVar("T")


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

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.data,) if isinstance(self.data, str) else self.data


def size(store: Files | Packs, file: str, mask: str, layout: Layout) -> tuple[int, int, int]:
    """Height, width and number of channels of a row, from its headers. Raises BadImage where they do not fit."""
    *parts, labels = _both(store.outlines, file, mask, layout)
    return _agreed(_together([shape for shape, _ in parts]), *labels, layout)


def _both(get: Callable[[str, Sequence[str]], list[T]], file: str, mask: str, layout: Layout) -> list[T]:
    """Something of each array of a row, that of its labels last."""
    if mask == file and not file.endswith(".npy"):
        return get(file, [*layout.datasets, layout.labels])
    return [*get(file, [""]), *get(mask, [""])]


def _together(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of all channels, of which each may be an array of its own."""
    if len(set(shapes)) > 1:
        raise BadImage(f"its channels have different shapes: {sorted(set(shapes))}")
    return (*shapes[0], len(shapes)) if len(shapes) > 1 else shapes[0]


class Row:
    """The arrays of one row: of all channels, or of one each; and of its classes. Nothing but headers is read."""

    def __init__(self, store: Files | Packs, file: str, mask: str, layout: Layout):
        *self.parts, self.labels = _both(store.arrays, file, mask, layout)
        shape, about = _together([part.about.shape for part in self.parts]), self.labels.about
        self.height, self.width, self.count = _agreed(shape, about.shape, about.dtype, layout)
        self.channels = numbers_of(layout, self.count)
        self._layout = layout

    def numbers(self) -> np.ndarray:
        """The class of each pixel as it stands in the file, HW of integers."""
        return self.labels.load()

    def classes(self, codes: Codes) -> np.ndarray:
        """class_HW, uint8. Raises BadImage for a number that is no class."""
        number_HW = self.numbers()
        kind = np.uint8 if number_HW.dtype.kind == "b" else number_HW.dtype.newbyteorder("=")
        return _masks.classes_of(number_HW.astype(kind, copy=False), codes)

    def image(self) -> np.ndarray:
        """image_HWC as it is in the file, float32, with the channels wanted. Raises BadImage for what is no number."""
        image_HWC = self.values()
        self.refuse_not_finite(image_HWC)
        return image_HWC

    def values(self) -> np.ndarray:
        """The same, whatever the numbers are."""
        data = self.parts[0].load() if len(self.parts) == 1 else np.stack([part.load() for part in self.parts], axis=-1)
        image_HWC = _channels_last(data, self.labels.about.shape, self._layout)
        if self.channels != list(range(self.count)):
            image_HWC = image_HWC[..., self.channels]
        # A file may be mapped, and what is mapped cannot be written to; then it is copied.
        return np.require(image_HWC, np.float32, ["C", "W"])

    def image_into(self, place_HWC: np.ndarray, *, roll: int = 0, vflip: bool = False) -> bool:
        """The same straight into its place, rolled to the right and then mirrored; False where that cannot be done.

        That is: where the file does not have these channels side by side, as float32, in one piece.
        """
        [first, *more] = self.parts
        plain = first.about.shape == (*self.labels.about.shape, self.count) and self._layout.axes != "CHW"
        if more or not plain or self.channels != list(range(self.count)) or not _filling.fits(first, place_HWC):
            return False
        if not _filling.fill(first, place_HWC, roll=roll, vflip=vflip):
            self.refuse_not_finite(place_HWC)
        return True

    def refuse_not_finite(self, image_HWC: np.ndarray) -> None:
        """Raise BadImage where a number is none."""
        # A sum is not finite if one of its numbers is not, and costs a tenth of asking each.
        if np.isfinite(image_HWC.sum(dtype=np.float64)):
            return
        wrong_C = (~np.isfinite(image_HWC)).sum((0, 1))
        if not wrong_C.any():
            return  # all are finite, and only their sum is not
        names = self._layout.names or (self._layout.data if isinstance(self._layout.data, tuple) else ())
        at = int(wrong_C.argmax())
        name = names[self.channels[at]] if names else str(self.channels[at])
        raise BadImage(f"{int(wrong_C.sum())} of its numbers are NaN or infinite, most of them in channel {name}")


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


def plainly(view: View) -> tuple[int, bool] | None:
    """How far all of a field is rolled and whether it is mirrored top to bottom; None for a view that does more."""
    assert view.frame is not None, "fields keep their pixels"
    all_of_it = (slice(0, view.frame.shape[0]), slice(0, view.frame.shape[1]))
    whole = view.box == (0, 0, view.frame.shape[1], view.frame.shape[0])
    return (view.frame.roll, view.vflip) if whole and _sliced(view) == all_of_it and not view.hflip else None


def classes_seen(class_HW: np.ndarray, view: View) -> np.ndarray:
    """What a view shows of the classes; what it uncovers is of none that is known."""
    rolled_HW, view = _rolled(class_HW, view)
    return _masks.seen(rolled_HW, view, 0)


def seen(image_HWC: np.ndarray, view: View, zero_C: np.ndarray) -> np.ndarray:
    """What a view shows of a field; what it uncovers is `zero_C`."""
    image_HWC, view = _rolled(image_HWC, view)
    if (part := _sliced(view)) is not None:
        image_HWC = image_HWC[part]
        image_HWC = image_HWC[:, ::-1] if view.hflip else image_HWC
        return image_HWC[::-1] if view.vflip else image_HWC
    assert view.frame is not None, "it was one before the roll"
    moved = np.empty((*view.frame.shape, image_HWC.shape[2]), np.float32)
    for channel, zero in enumerate(zero_C):
        image = Image.fromarray(image_HWC[..., channel] - zero)
        small = _pixels.framed(image, view, 0, Image.Resampling.BILINEAR)
        moved[..., channel] = np.asarray(_varying.vary(small, view)) + zero
    return moved


def _rolled(array: np.ndarray, view: View) -> tuple[np.ndarray, View]:
    """An array after the roll that a view asks for, and what is left of the view."""
    assert view.frame is not None, "fields keep their pixels"
    if not view.frame.roll:
        return array, view
    return np.roll(array, view.frame.roll, axis=1), replace(view, frame=replace(view.frame, roll=0))


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
    path: Path | None, kind: str, sums: "Moments", chosen: Sequence[int], count: int
) -> tuple[list[float], list[float], list[str]]:
    """Offset and scale of each chosen channel, and notes: (x - offset) / scale is what the network sees.

    path    a file of statistics over all channels; None: those of `sums`, the fields that were read
    kind    minmax, meanstd, auto (minmax from a file that has it, else meanstd) or none
    Raises DataError where the file lacks what is asked for.
    """
    if kind == "none":
        return [0.0] * len(chosen), [1.0] * len(chosen), []
    low: np.ndarray | None
    high: np.ndarray | None
    mean: np.ndarray | None
    std: np.ndarray | None
    if path is None:
        low, high, mean, std = sums.low, sums.high, sums.mean, sums.std
        kind = "meanstd" if kind == "auto" else kind
        notes = [f"channels are normalised by {sums.fields} fields, for want of a file of statistics"]
    else:
        found, notes = _statistics(path, count), []
        low, high, mean, std = (None if one is None else one[list(chosen)] for one in found)
        if kind == "auto":
            kind = "minmax" if low is not None and high is not None else "meanstd"
    offset, length = (low, None if low is None or high is None else high - low) if kind == "minmax" else (mean, std)
    if offset is None or length is None:
        wanted = "minval and maxval" if kind == "minmax" else "mean, and std or sqmean"
        raise DataError(f"{path}: holds no {wanted}. Write another data.reader.normalise, or mend the file.")
    flat = length <= 0
    if flat.any():
        notes.append(f"channels {np.array(chosen)[flat].tolist()} are the same everywhere and become 0")
    return offset.tolist(), np.where(flat, 1.0, length).tolist(), notes


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


def _statistics(path: Path, count: int) -> list[np.ndarray | None]:
    """Minimum, maximum, mean and deviation of each channel out of a file; None for what it lacks."""
    try:
        found = _of_file(path, ("minval", "maxval", "min", "max", "mean", "std", "sqmean"))
    except Unreadable as error:
        raise DataError(f"{error}. Name the file of statistics in data.reader.stats.") from error
    for name, one in found.items():
        if one.shape != (count,):
            raise DataError(f"{path}: {name} has the shape {one.shape}, but the fields have {count} channels.")
        if not np.isfinite(one).all():
            raise DataError(f"{path}: {name} holds what is no number. Make the statistics again.")
    std = found.get("std")
    if std is None and "mean" in found and "sqmean" in found:
        std = np.sqrt(np.maximum(found["sqmean"] - found["mean"] ** 2, 0))
    return [found.get("minval", found.get("min")), found.get("maxval", found.get("max")), found.get("mean"), std]


def _of_file(path: Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the wanted arrays that a file of statistics holds (HDF5 or .npz), by their last name; float64."""
    if path.suffix.lower() != ".npz":
        there = {one.name.rpartition("/")[2]: one.name for one in fields.fields(path)}
        return {name: fields.read(path, there[name]).astype(np.float64) for name in wanted if name in there}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name], np.float64) for name in wanted if name in archive}
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise Unreadable(path, f"not a file of statistics (HDF5 or .npz): {error}") from error


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
