"""Stores: where the arrays of a row lie, in files of their own or in packed data. None is read before it is asked for.

A row is named by the file of its data and that of its labels, in both kinds of store alike.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from instar import fields, packed
from instar.fields import Field, Unreadable
from instar.plugins import unknown
from instar.readers._images import BadImage, problems_named

TRUNCATED = "truncated: its file ends before it does"

Outline = tuple[tuple[int, ...], np.dtype]  # shape and type

T = TypeVar("T")


@dataclass(frozen=True)
class Array:
    """One array of a row.

    about    its shape and type, and the offset where its bytes lie in one piece in `path`; None where they do not
    load     gives all of its values, read-only perhaps; raises DataError
    head     where what `proof` is of begins in the file: before the values stands their header
    proof    xxh3-128 that head and values must have; None where nobody has to look
    proven   to be called when they had
    """

    path: Path
    about: Field
    load: Callable[[], np.ndarray]
    head: int = 0
    proof: bytes | None = None
    proven: Callable[[], None] = lambda: None


class Files:
    """Arrays in files below a folder, as they were made."""

    def __init__(self, root: Path):
        self._root = root

    def arrays(self, file: str, names: Sequence[str]) -> list[Array]:
        """These arrays of a file, '' for the one in an .npy file. Raises BadImage for a file that is none."""
        path = self._root / file
        try:
            found = fields.several(path, names)
        except Unreadable as error:
            raise BadImage(error.reason) from error.__cause__
        return [Array(path, one, partial(_loaded, path, one)) for one in found]

    def outlines(self, file: str, names: Sequence[str]) -> list[Outline]:
        """Shape and type of the same arrays."""
        return [(one.about.shape, one.about.dtype) for one in self.arrays(file, names)]

    def some(self, rows: Sequence[T], most: int) -> list[T]:
        """At most so many of the rows, from all over."""
        return list(rows[:: max(1, -(-len(rows) // most))])

    def beside(self, file: Path) -> Path | None:
        """A file that is of all rows; None where it is not there."""
        path = self._root / file
        return path if path.is_file() else None


class Packs:
    """Arrays in packed data, called `file:array` after where they came from."""

    def __init__(self, root: Path):
        self._pack = packed.read(root)

    def arrays(self, file: str, names: Sequence[str]) -> list[Array]:
        """These arrays of what was a file. Raises BadImage where one is not there, DataError for a broken shard."""
        return [self._array(self._row(file, name)) for name in names]

    def outlines(self, file: str, names: Sequence[str]) -> list[Outline]:
        """Shape and type of the same arrays, as the index says: no shard is asked, which may be far away."""
        rows = [self._row(file, name) for name in names]
        shapes = [tuple(column[row] for column in self._outlines[:3]) for row in rows]
        plain = [shape[:2] if shape[2] == 1 else shape for shape in shapes]
        return [(shape, np.dtype(self._outlines[3][row])) for shape, row in zip(plain, rows, strict=True)]

    def some(self, rows: Sequence[T], most: int) -> list[T]:
        """At most so many of the rows: from all over, or where shards are to be fetched first the ones that lie
        together."""
        return list(rows[:most] if self._pack.is_far else rows[:: max(1, -(-len(rows) // most))])

    def beside(self, file: Path) -> Path | None:
        """A file that is of all rows; None where it is not there."""
        return self._pack.beside(file.name)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._pack.index["source"].to_pylist())}

    @cached_property
    def _outlines(self) -> list[list[Any]]:
        return [self._pack.index[name].to_pylist() for name in ("height", "width", "channels", "dtype")]

    def _row(self, file: str, name: str) -> int:
        row = self._row_of.get(f"{file}:{name}")
        if row is None:
            there = [known.rpartition(":")[2] for known in self._row_of if known.rpartition(":")[0] == file]
            raise BadImage(f"{unknown(name, there, what='array')} (it has {', '.join(there) or 'none'})")
        return row

    def _array(self, row: int) -> Array:
        pack = self._pack
        path, offset, length = pack.lies(row)
        return Array(
            path,
            fields.within(path, offset, length),
            load=lambda: pack.array(row, pack.checked(row)),
            head=offset,
            proof=pack.proof(row),
            proven=lambda: pack.proven(row),
        )


def of(root: Path) -> Files | Packs:
    """The store that a folder is."""
    return Packs(root) if packed.is_packed(root) else Files(root)


def _loaded(path: Path, about: Field) -> np.ndarray:
    if about.offset is not None:  # the file need not be asked once more where it lies
        with problems_named():
            flat = np.fromfile(path, about.dtype, math.prod(about.shape), offset=about.offset)
        if flat.nbytes < about.size:
            raise BadImage(TRUNCATED)
        return flat.reshape(about.shape)
    try:
        return fields.read(path, about.name)
    except Unreadable as error:
        raise BadImage(error.reason) from error.__cause__
