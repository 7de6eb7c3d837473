"""Packed samples as pixels: the stored bytes of a row instead of a file, and then the same code."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from instar import packed
from instar.packed import Packed
from instar.readers import _images as images
from instar.readers import _masks
from instar.readers import _pixels as pixels
from instar.readers._pixels import Form, Show
from instar.readers._views import View


def viewed(
    pack: Packed, row: int, choose: Callable[[int, int], View], form: Form, into_HWC: np.ndarray | None = None
) -> np.ndarray:
    """The chosen view of a packed row, uint8 of size x size x channels.

    into_HWC   where it may be put, if that spares a copy; otherwise it is a new array
    Raises DataError where its bytes are not those that were packed, and BadImage where they are no image.
    """
    data = pack.checked(row)
    if is_file(pack, data):
        return pixels.viewed_bytes(data, choose, form, into_HWC)
    return pixels.viewed_array(pack.array(row, data), choose, form, into_HWC)


def begun(pack: Packed, row: int, choose: Callable[[int, int], View], form: Form) -> Show | None:
    """What will show the view of a packed row that is chosen now; None where more of it must be looked at for that.

    Raises as `viewed` does.
    """
    data = pack.checked(row)
    if is_file(pack, data):
        return pixels.begun(data, choose, form)
    return pixels.begun_array(pack.array(row, data), choose, form)


def is_file(pack: Packed, data: bytes | memoryview) -> bool:
    """Whether the bytes of a member are an image file, not an array."""
    return pack.about.payload in (packed.ORIGINAL, packed.JPEG256) and data[:6] != b"\x93NUMPY"


def mask_values(pack: Packed, row: int, *, colours: bool) -> np.ndarray:
    """What stands in each pixel of a packed mask; raises as `viewed` does."""
    return _masks.values_of(images.of_bytes(pack.checked(row)), colours=colours)


def masks_of(root: Path, names: Sequence[str], *, colours: bool) -> tuple[Callable[[str], np.ndarray], bool]:
    """What gives the values of a mask by its name, packed or not; and whether all of them are at hand."""
    if not packed.is_packed(root):
        return (lambda name: _masks.values(f"{root}/{name}", colours=colours)), True
    pack = packed.read(root)
    rows = dict(zip(names, pack.rows_of(pa.chunked_array([pa.array(names, pa.string())])).tolist(), strict=True))
    value_of = partial(mask_values, pack, colours=colours)
    return (lambda name: value_of(rows[name])), not pack.is_far
