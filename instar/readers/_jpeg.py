"""JPEG: which library decodes it here, and what an ordinary one says about itself.

Three can, and all give the same bits: `instar_native` (our own, no more than a box), simplejpeg (the whole, in half of
Pillow's time) and Pillow, which reads whatever the others refuse and alone says what is wrong with a file. Why it is
so: docs/decisions/native.md.
"""

import importlib
import importlib.util
import struct
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from instar.readers import _native

_SEGMENT, _FRAME = struct.Struct(">HH"), struct.Struct(">BHHB")  # marker and length; bits, height, width, values
_MOST_HEADER = 4096  # bytes; ordinary ones have about 620


def decoder() -> str:
    """The library that decodes ordinary JPEGs here, with what decides its pixels: its version."""
    if _native.is_there():
        return f"instar_native ({_native.library()})"
    return "Pillow" if _simplejpeg() is None else f"simplejpeg {metadata.version('simplejpeg')}"


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
