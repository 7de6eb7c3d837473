"""Shown: rows as small pictures for a page: an image, the first channel of a field, and in colours what a mask says.

Legend: H W pixels, C channels.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from instar.engine.scan.listing import Listing
from instar.errors import DataError
from instar.experiment import Data
from instar.readers import _masks
from instar.report import thumbnails
from instar.report.thumbnails import Thumbnail

Picture = Callable[[int], Thumbnail]


def pictures(found: Listing, data: Data, reader: ModuleType, codes: dict[str, Any] | None) -> tuple[Picture, Picture]:
    """What gives the picture of a row, and what gives that with its mask over it; the same where it has none.

    codes   what stands for each class, as in a manifest's statistics; None where nobody knows
    """
    others = found.others

    def image(row: int) -> Thumbnail:
        return thumbnails.of(found.root / found.files[row])

    if "mask" not in reader.gives or others is None:
        return image, image
    examine = reader.examining(data.reader, found.root)

    def both(row: int, *, over: bool) -> Thumbnail:
        try:
            image_HWC, value_HW = examine(found.files[row], others[row])
        except (DataError, OSError, ValueError):
            return Thumbnail("")
        class_HW = _classes(value_HW, codes) if over and codes else None
        if image_HWC is None:
            return thumbnails.of(found.root / found.files[row], class_HW=class_HW)
        return thumbnails.of_values(image_HWC[..., 0], class_HW=class_HW)

    plain = image if reader.packed_from == "folder" else lambda row: both(row, over=False)
    return plain, lambda row: both(row, over=True)


def _classes(value_HW: np.ndarray, saved: dict[str, Any]) -> np.ndarray | None:
    """The class of each pixel; None where one of them is of none."""
    colours, threshold = saved.get("colours", False), saved.get("threshold")
    codes = _masks.Codes(tuple(saved["values"]), tuple(saved["ignored"]), colours, threshold)
    try:
        return _masks.read(value_HW.astype(np.uint8) if value_HW.dtype.kind == "b" else value_HW, codes)
    except DataError:
        return None
