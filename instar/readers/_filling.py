"""Filling: a field from its file straight into its place in a batch, with no copy of it in between.

Rows of the file are scattered by the system call that reads them, so to roll and to mirror a field costs nothing; what
has been read is compared and checked while it is still in the processor's cache. Legend: H W pixels, C channels.
"""

import os
from typing import Any

import numpy as np
import xxhash

from instar.readers._images import BadImage, problems_named
from instar.readers._stores import TRUNCATED, Array

_AT_ONCE = 1 << 20  # bytes: measured, what is read stays in the cache until it was checked
_PIECES = 1024  # that one system call may take


def fits(array: Array, place_HWC: np.ndarray) -> bool:
    """Whether the bytes of this array can stand in this place as they are."""
    rows = place_HWC[0] if len(place_HWC) else place_HWC
    return (
        array.about.offset is not None
        and array.about.dtype == place_HWC.dtype
        and array.about.dtype.isnative
        and array.about.shape == place_HWC.shape
        and rows.flags.c_contiguous
    )


def fill(array: Array, place_HWC: np.ndarray, *, roll: int, vflip: bool) -> bool:
    """Read all of an array; whether all its numbers are finite.

    roll    columns that it is moved to the right, what leaves coming in again on the left
    vflip   whether it is then mirrored top to bottom
    Raises BadImage where it cannot be read, ends too early, or has not the bytes that were packed.
    """
    assert array.about.offset is not None, "the caller asked whether it fits"
    height, row_bytes = len(place_HWC), place_HWC[0].nbytes
    step = max(1, min(_PIECES // 2, _AT_ONCE // row_bytes))
    target_HWC = place_HWC[::-1] if vflip else place_HWC
    whole = xxhash.xxh3_128()
    finite = True
    with problems_named():
        file = os.open(array.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if array.proof is not None:
                whole.update(os.pread(file, array.about.offset - array.head, array.head))
            for top in range(0, height, step):
                block_HWC = target_HWC[top : top + step]
                pieces = _pieces(block_HWC, roll)
                _read(file, pieces, array.about.offset + top * row_bytes, block_HWC.nbytes)
                if array.proof is not None:
                    for piece in pieces:
                        whole.update(piece)
                finite = finite and bool(np.isfinite(block_HWC).all())
        finally:
            os.close(file)
    if array.proof is not None:
        if whole.digest() != array.proof:
            raise BadImage(f"its bytes in {array.path.name} are not those that were packed")
        array.proven()
    return finite


def _pieces(block_HWC: np.ndarray, roll: int) -> list[Any]:
    """Where the bytes of some rows belong, in the order they have in the file."""
    if roll:
        return [part for row_WC in block_HWC for part in (row_WC[roll:], row_WC[:roll])]
    return [block_HWC] if block_HWC.flags.c_contiguous else list(block_HWC)


def _read(file: int, pieces: list[Any], offset: int, size: int) -> None:
    if os.preadv(file, pieces, offset) == size:
        return
    for piece in pieces:  # a read may stop short, of very many bytes or on a network file system
        view = memoryview(piece).cast("B")
        while view:
            more = os.preadv(file, [view], offset)
            if not more:
                raise BadImage(TRUNCATED)
            view, offset = view[more:], offset + more
