"""Many small pictures in a few: what a page of thousands of points can carry.

Legend: S side of a stamp.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from instar.report import addresses

SHEET = 2048  # pixels a side of one sheet: any browser decodes it at once
_LOSSLESS = 1_500_000  # pixels of all stamps that are kept as they are; above, they are JPEGs
QUALITY = 76


@dataclass(frozen=True)
class Sheets:
    """Sheets of stamps, and which place each has, counted along rows, then sheets; None where it has none."""

    sources: tuple[str, ...]
    number: tuple[int | None, ...]
    side: int
    columns: int
    rows: int


def sheets(stamps: Sequence[bytes], *, side: int) -> Sheets:
    """The stamps, S x S x 3 bytes each or b"", laid out."""
    columns = max(1, SHEET // side)
    there = [stamp for stamp in stamps if stamp]
    numbers = iter(range(len(there)))
    number = tuple(next(numbers) if stamp else None for stamp in stamps)
    each = columns * columns
    form = "PNG" if len(there) * side * side <= _LOSSLESS else "JPEG"
    sources = tuple(
        address(_sheet(there[start : start + each], side=side, columns=columns), form)
        for start in range(0, len(there), each)
    )
    return Sheets(sources, number, side, columns, columns)


def picture(stamp: bytes, *, side: int, tiny: bool) -> str:
    """One stamp as a data: address; "" where there is none."""
    if not stamp:
        return ""
    return address(np.frombuffer(stamp, np.uint8).reshape(side, side, 3), "PNG" if tiny else "JPEG")


def address(image_HW3: np.ndarray, form: str) -> str:
    """An image as a data: address."""
    return addresses.of_image(Image.fromarray(image_HW3), form, quality=QUALITY)


def _sheet(stamps: Sequence[bytes], *, side: int, columns: int) -> np.ndarray:
    rows = -(-len(stamps) // columns)
    across = columns if rows > 1 else len(stamps)
    sheet_HW3 = np.zeros((rows * side, across * side, 3), np.uint8)
    for at, stamp in enumerate(stamps):
        top, left = at // columns * side, at % columns * side
        sheet_HW3[top : top + side, left : left + side] = np.frombuffer(stamp, np.uint8).reshape(side, side, 3)
    return sheet_HW3
