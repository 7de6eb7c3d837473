"""Packed samples as pixels: the stored bytes of a row instead of a file, and then the same code."""

from collections.abc import Callable

import numpy as np

from instar import packed
from instar.packed import Packed
from instar.readers import _pixels as pixels
from instar.readers._pixels import Form
from instar.readers._views import View


def viewed(pack: Packed, row: int, choose: Callable[[int, int], View], form: Form) -> np.ndarray:
    """The chosen view of a packed row, uint8 of size x size x channels.

    Raises DataError where its bytes are not those that were packed, and BadImage where they are no image.
    """
    data = pack.checked(row)
    if pack.about.payload in (packed.ORIGINAL, packed.JPEG256) and data[:6] != b"\x93NUMPY":
        return pixels.viewed(pixels.of_bytes(data), choose, form, data=data)
    return pixels.viewed_array(pack.array(row, data), choose, form)
