"""Masks: files whose pixels are names of classes, and how those names are written in them.

A class is written as a grey value or palette index, as a colour, or as everything from a threshold on.
Legend: H W pixels, K classes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from instar.errors import DataError
from instar.masks import IGNORE, MOST_CLASSES
from instar.readers import _images, _pixels, _varying
from instar.readers._images import BadImage
from instar.readers._views import View

_SHOWN = 4
_MOST_FOUND = 64  # values that are taken for classes where nobody named them; more look like a photograph


@dataclass(frozen=True)
class Codes:
    """How classes are written.

    values      what stands for each class: a grey value or palette index, or a colour as 0xRRGGBB
    ignored     what stands for "nobody knows"
    colours     whether values are colours
    threshold   the smallest grey value of class 1, instead of values
    """

    values: tuple[int, ...]
    ignored: tuple[int, ...] = ()
    colours: bool = False
    threshold: int | None = None


def read(value_HW: np.ndarray, codes: Codes) -> np.ndarray:
    """The class of each pixel from its value, uint8 HW, IGNORE where nobody knows. Raises BadImage for no class."""
    if codes.threshold is not None:
        return (value_HW >= codes.threshold).astype(np.uint8)
    return classes_of(value_HW, codes)


def classes_of(value_HW: np.ndarray, codes: Codes) -> np.ndarray:
    """The class behind each value, uint8; IGNORE where nobody knows. Raises BadImage for a value that is no class."""
    known = np.array([*codes.values, *codes.ignored], np.int64)
    names = np.array([*range(len(codes.values)), *[IGNORE] * len(codes.ignored)], np.uint8)
    if value_HW.dtype != np.uint8 and value_HW.size and value_HW.min() >= 0 and value_HW.max() < 256:
        value_HW = value_HW.astype(np.uint8)  # a table is five times as fast as a search
    if value_HW.dtype == np.uint8:
        if codes.values == tuple(range(len(codes.values))) and value_HW.max(initial=0) < len(codes.values):
            return value_HW  # the values are the classes, which is nearly always so
        table = np.full(256, -1, np.int16)
        table[known[known < 256]] = names[known < 256]
        found_HW = table[value_HW]
        wrong_HW = found_HW < 0
    else:
        order = np.argsort(known)
        place_HW = np.searchsorted(known[order], value_HW).clip(max=len(known) - 1)
        found_HW = names[order][place_HW]
        wrong_HW = known[order][place_HW] != value_HW
    if wrong_HW.any():
        raise BadImage(_outside(value_HW[wrong_HW], codes))
    return found_HW.astype(np.uint8)


def values(path: str | Path, *, colours: bool) -> np.ndarray:
    """What stands in each pixel: uint8 or int32 HW; colours as 0xRRGGBB. Raises BadImage where it cannot be said."""
    with _images.opened(path) as (image, _):
        return values_of(image, colours=colours)


def values_of(image: Image.Image, *, colours: bool) -> np.ndarray:
    """The same of an image that was opened."""
    with _images.problems_named():
        image.load()
        return _values(image, colours=colours)


def _values(image: Image.Image, *, colours: bool) -> np.ndarray:
    if colours:
        rgb_HW3 = np.asarray(image.convert("RGB"), np.int32)
        return rgb_HW3[..., 0] << 16 | rgb_HW3[..., 1] << 8 | rgb_HW3[..., 2]
    if image.mode in ("L", "P", "1"):
        return np.asarray(image).astype(np.uint8)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.int32)
    if image.mode in ("LA", "La"):
        return np.asarray(image)[..., 0]
    if image.mode in ("RGB", "RGBA"):
        rgb_HW3 = np.asarray(image.convert("RGB"))
        if (rgb_HW3 == rgb_HW3[..., :1]).all():
            return rgb_HW3[..., 0]
        raise BadImage("a mask in colours; say which is which: data.reader.classes={background: '#000000', …}")
    raise BadImage(f"a mask of {image.mode} pixels, which are no names of classes")


def _outside(value_M: np.ndarray, codes: Codes) -> str:
    found, count = np.unique(value_M, return_counts=True)
    order = np.argsort(-count)[:_SHOWN]
    shown = ", ".join(f"{shown_value(int(found[at]), codes.colours)} ({count[at]} pixels)" for at in order)
    more = f" and {len(found) - len(order)} more" if len(found) > len(order) else ""
    allowed = ", ".join(shown_value(value, codes.colours) for value in codes.values[:8])
    return (
        f"its mask holds {shown}{more}, but the classes are {allowed}{' …' if len(codes.values) > 8 else ''}; "
        f"name all of them in data.reader.classes, or what to leave out in data.reader.ignore"
    )


def shown_value(value: int, colours: bool) -> str:
    """A value as one would write it: 7, or #ff8000."""
    return f"#{value:06x}" if colours else str(value)


def counted(value_of: Callable[[str], np.ndarray], names: Sequence[str]) -> tuple[Counter[int], list[str]]:
    """How many pixels each value has in these masks, and why some of them could not be read."""
    total: Counter[int] = Counter()
    wrong: list[str] = []
    for name in names:
        try:
            value_HW = value_of(name)
        except (DataError, OSError) as error:
            wrong.append(str(error))
            continue
        if value_HW.dtype == np.uint8:  # counting is ten times as fast as sorting
            count = np.bincount(value_HW.ravel(), minlength=256)
            found = np.flatnonzero(count)
            count = count[found]
        else:
            found, count = np.unique(value_HW, return_counts=True)
        total.update(dict(zip(found.tolist(), count.tolist(), strict=True)))
    return total, wrong


def guessed(found: Counter[int], *, ignored: Sequence[int], where: str) -> tuple[tuple[str, ...], Codes]:
    """Names and codes of classes that nobody named, from the values that masks hold.

    0 and one other value are background and foreground; 255 beside others means "nobody knows", as it does in most data
    sets. Raises DataError where the values do not look like classes.
    """
    left = sorted(set(found) - set(ignored))
    if not ignored and len(left) > 2 and left[-1] == IGNORE and left[-2] < 128:
        left, ignored = left[:-1], (IGNORE,)
    if len(left) < 2:
        raise DataError(
            f"{where}: the masks hold one value, {left[0] if left else 'none'}, so there is nothing to tell apart. Are "
            f"these the masks? Name their folder in data.reader.masks."
        )
    if len(left) > min(_MOST_FOUND, MOST_CLASSES):
        raise DataError(
            f"{where}: the masks hold {len(left)} different values, which looks like pictures. Write "
            f"data.reader.threshold=128 for a mask with soft edges, name the classes in data.reader.classes, or name "
            f"the folder of the masks in data.reader.masks."
        )
    names = ("background", "foreground") if len(left) == 2 and left[0] == 0 else tuple(str(value) for value in left)
    return names, Codes(tuple(left), tuple(ignored))


def seen(class_HW: np.ndarray, view: View, size: int) -> np.ndarray:
    """What a view shows of a mask, uint8: of the view's frame, or size x size. What it uncovers is IGNORE."""
    image = Image.fromarray(class_HW)
    if view.frame is not None:
        small = _pixels.framed(image, view, IGNORE, Image.Resampling.NEAREST)
    else:
        small = image.resize((size, size), Image.Resampling.NEAREST, view.box)
    return np.asarray(_varying.vary(small, view, IGNORE, labels=True))
