"""Native: our own extension (native/instar_native), where it is installed and gives the bits of the others here.

Every function is False where that is not sure, and its caller then does the same with NumPy, Pillow or PyTorch, which
also say what is wrong with a file. Why it is so: docs/decisions/native.md.
"""

import importlib
import importlib.util
import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from instar.readers._views import Box

_BOX = (17, 9, 83, 60)  # of the trial: begins and ends inside the blocks of a JPEG


def is_there() -> bool:
    return _module() is not None


def library() -> str:
    """Who decodes for it, with the version."""
    return str(_module().library)


def jpeg(
    data: bytes | memoryview,
    into_HWC: np.ndarray,
    box: Box,
    *,
    scale: int,
    pytorch: bool,
    mirrored: bool = False,
    upside_down: bool = False,
) -> bool:
    """Fill an array with what is under a box of a JPEG, resized, decoding no more than that.

    into_HWC  uint8 of 1 (brightness) or 3 values (RGB) a pixel, those of a row side by side
    box       in the image made `scale` times smaller: 1, 2, 4 or 8
    pytorch   to PyTorch's bits, from whole pixels of which none beside the box is seen; else to Pillow's
    """
    return _done("jpeg", data, into_HWC, box, pytorch, mirrored, upside_down, scale)


def array(
    from_HWC: np.ndarray,
    into_HWC: np.ndarray,
    box: Box,
    *,
    pytorch: bool,
    mirrored: bool = False,
    upside_down: bool = False,
) -> bool:
    """As `jpeg`, from pixels that are in memory."""
    return _done("array", from_HWC, into_HWC, box, pytorch, mirrored, upside_down)


def table(text: bytes | memoryview, into_HW: np.ndarray) -> bool:
    """Fill float32 of H x W with plain decimal numbers, ; between those of a line and each line ended."""
    return _done("table", text, into_HW)


def _done(name: str, *arguments: Any) -> bool:
    if (module := _module()) is None:
        return False
    try:
        getattr(module, name)(*arguments)
    except ValueError:  # whose work it is then decides whether something is wrong, and says what
        return False
    return True


@cache
def _module() -> Any:
    """The extension, where it is installed, can be loaded, and gives Pillow's and PyTorch's bits on a trial."""
    if not importlib.util.find_spec("instar_native"):
        return None
    try:
        found = importlib.import_module("instar_native")
    except ImportError:  # built on a machine with another libjpeg-turbo than this one has
        return None
    try:
        return found if _agrees(found) else None
    except ValueError:
        return None


def _agrees(found: Any) -> bool:
    """Whether boxes of a picture made here are what Pillow decodes and resizes, as it is and at half the scale."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((180, 131), Image.Resampling.BILINEAR).save(file, "JPEG", quality=90)
    left, top, right, bottom = _BOX
    as_it_is_HWC = np.empty((bottom - top, right - left, 3), np.uint8)
    small_HWC = np.empty((37, 41, 3), np.uint8)
    for scale in (1, 2):
        with Image.open(file) as image:
            image.draft(None, (image.width // scale, image.height // scale))
            whole_HWC = np.asarray(image)
            box = (left + 0.3, top, right, bottom + 0.7)
            resized = image.resize((41, 37), Image.Resampling.BILINEAR, box)
        found.jpeg(file.getvalue(), as_it_is_HWC, _BOX, True, False, False, scale)
        found.jpeg(file.getvalue(), small_HWC, box, False, False, False, scale)
        if not np.array_equal(as_it_is_HWC, whole_HWC[top:bottom, left:right]):
            return False
        if not np.array_equal(small_HWC, np.asarray(resized)):
            return False
    return True
