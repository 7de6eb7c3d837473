"""One array: small images of one size and type as one .npy file that can be mapped."""

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from instar import atomic, packed
from instar.engine.loading.cores import usable_cpus
from instar.engine.packing import shards
from instar.engine.packing.packer import Options, Packer, index_rows
from instar.engine.packing.pool import Piece, written
from instar.engine.packing.sources import Sources
from instar.errors import DataError
from instar.packed import About, Shard

_TINY = 128  # pixels a side up to which images of one size become one array


class _Mixed(Exception):
    """Not all images have one size and type."""


def one_array(
    found: Sources, folder: Path, options: Options, *, progress: Callable[[int, int], None]
) -> tuple[pa.Table, About] | None:
    """Write images of one small size as one array; its index, or None where they are not of one size."""
    part = folder / f".{packed.ARRAY}.part"
    part.unlink(missing_ok=True)
    chunks = shards.planned(np.zeros_like(found.size_N), found.size_N, most=1)
    packer = Packer(found, options, chunks, bare=True)
    if not _first_is_tiny(packer, found):
        return None
    head = len(_npy_head((1, 1, 1, 1), "uint8"))
    gathered, done, kinds = [], 0, set()
    try:
        pieces = [Piece(number, 0, os.fspath(part)) for number in range(len(chunks))]
        for one in written(pieces, packer.make, processes=options.processes or usable_cpus(), begin=head):
            gathered.append(one)
            for _, *rest in one.facts:
                if len(rest) == 3:
                    kinds.add(tuple(rest[2][name] for name in ("height", "width", "channels", "dtype")))
            if len(kinds) > 1:
                raise _Mixed
            done += chunks[one.piece.number].last - chunks[one.piece.number].first
            progress(done, len(found))
    except _Mixed:
        part.unlink(missing_ok=True)
        return None
    rows, skipped = index_rows(gathered, found, number=0)
    height, width, channels, dtype = kinds.pop()
    with open(part, "r+b") as file:
        file.write(_npy_head((len(rows), height, width, channels), dtype))
        file.flush()
        os.fsync(file.fileno())
    about = Shard(packed.ARRAY, part.stat().st_size, packed.xxh3_of(part))
    part.replace(folder / packed.ARRAY)
    atomic.sync(folder)
    return rows, About("", (about,), skipped=skipped)


def _first_is_tiny(packer: Packer, found: Sources) -> bool:
    for row in range(min(len(found), 16)):
        if found.names[row].lower().endswith(".npy"):
            return False
        with suppress(DataError, OSError):
            facts = packer.stored(row).facts
            return max(facts["width"], facts["height"]) <= _TINY
    return False


def _npy_head(shape: tuple[int, ...], dtype: str) -> bytes:
    """The beginning of an .npy file; NumPy leaves room in it, so it is as long for one row as for any number."""
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()
