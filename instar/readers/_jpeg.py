"""JPEG: which library decodes it here, and no more of it than a box where our own extension is installed.

Three can, and all give the same bits: `instar_jpeg` (native/instar_jpeg, a box), simplejpeg (the whole, in half of
Pillow's time) and Pillow, which reads whatever the others refuse and alone says what is wrong with a file. Why it is
so: docs/decisions/jpeg.md.
"""

import importlib
import importlib.util
import io
import struct
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
from PIL import Image

_SEGMENT, _FRAME = struct.Struct(">HH"), struct.Struct(">BHHB")  # marker and length; bits, height, width, values
_MOST_HEADER = 4096  # bytes; ordinary ones have about 620
_TRIAL = (17, 9, 83, 60)  # left, top, right, bottom of a box that begins and ends inside blocks


def decoder() -> str:
    """The library that decodes ordinary JPEGs here, with what decides its pixels: its version."""
    if (ours := _ours()) is not None:
        return f"instar_jpeg ({ours.library})"
    return "Pillow" if _simplejpeg() is None else f"simplejpeg {metadata.version('simplejpeg')}"


def by_region() -> bool:
    """Whether a box can be decoded alone."""
    return _ours() is not None


def ordinary(data: bytes | memoryview) -> tuple[int, int, int] | None:
    """Width, height and values a pixel of a JPEG of which nothing else need be known; None for others.

    That is one baseline frame of grey or three colours with JFIF's header, and no EXIF, profile or maker's notes.
    Pillow would say the same of it, in ten times the time; about any other it is asked.
    """
    head = bytes(data[:_MOST_HEADER])
    size, at = None, 2
    try:
        if _SEGMENT.unpack_from(head) != (0xFFD8, 0xFFE0):
            return None
        while True:
            marker, length = _SEGMENT.unpack_from(head, at)
            first, after = at + 4, at + 2 + length
            if length < 2 or after > len(head):
                return None
            if marker == 0xFFC0:
                bits, height, width, values = _FRAME.unpack_from(head, first)
                if size or bits != 8 or values not in (1, 3) or length != 8 + 3 * values:
                    return None
                size = width, height, values
            elif marker == 0xFFDA:
                return size
            elif not _says_nothing_else(marker, head[first:after]):
                return None
            at = after
    except struct.error:
        return None


def _says_nothing_else(marker: int, content: bytes) -> bool:
    if marker == 0xFFDB:  # tables of 8 bits, each with its number before it
        return len(content) % 65 == 0 and max(content[::65], default=0) < 16
    if marker == 0xFFE0:
        return len(content) >= 14 and content.startswith(b"JFIF\0")
    return marker in (0xFFC4, 0xFFDD, 0xFFFE)  # codes, restarts, a comment


def region(data: bytes | memoryview, into_HWC: np.ndarray, *, left: int, top: int, scale: int) -> bool:
    """Fill an array with the pixels from column `left` and row `top` on; False where that is not for our extension.

    into_HWC   uint8 of 1 (brightness) or 3 values (RGB) a pixel, those of a row side by side
    left, top  in the image made `scale` times smaller: 1, 2, 4 or 8
    """
    try:
        _ours().region(data, into_HWC, left, top, scale)
    except ValueError:  # Pillow decides whether it is broken, and says why
        return False
    return True


def whole(data: bytes | memoryview) -> np.ndarray | None:
    """All pixels of a colour JPEG, H x W x 3, by simplejpeg; None where it is not installed, or not for this file."""
    jpeg = _simplejpeg()
    try:
        return None if jpeg is None else jpeg.decode_jpeg(data)
    except ValueError:
        return None


@cache
def _simplejpeg() -> Any:
    return importlib.import_module("simplejpeg") if importlib.util.find_spec("simplejpeg") else None


@cache
def _ours() -> Any:
    """Our extension, where it is installed, can be loaded, and gives Pillow's bits on a trial; else None."""
    if not importlib.util.find_spec("instar_jpeg"):
        return None
    try:
        found = importlib.import_module("instar_jpeg")
    except ImportError:  # built on a machine with another libjpeg-turbo than this one has
        return None
    return found if _agrees(found) else None


def _agrees(found: Any) -> bool:
    """Whether a box of a picture made here is what Pillow decodes, as it is and at half the scale."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((180, 131), Image.Resampling.BILINEAR).save(file, "JPEG", quality=90)
    left, top, right, bottom = _TRIAL
    into_HWC = np.empty((bottom - top, right - left, 3), np.uint8)
    for scale in (1, 2):
        with Image.open(file) as image:
            image.draft(None, (image.width // scale, image.height // scale))
            expected_HWC = np.asarray(image)[top:bottom, left:right]
        try:
            found.region(file.getvalue(), into_HWC, left, top, scale)
        except ValueError:
            return False
        if not np.array_equal(into_HWC, expected_HWC):
            return False
    return True
