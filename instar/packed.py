"""Packed: many samples in a few large files. Ordinary tar shards, or one array, and an index of what lies where.

A shard is an uncompressed tar of members `000000017.jpg` (the bytes of a sample) and `000000017.cls` (the number of its
class), so `tar xf` and WebDataset read it too. `index.parquet` has one row a sample. What is read is found by its
offset: any row at once, in any order, by any number of processes. Images of one small size may be one array instead,
`images.npy` of N x H x W x C, with the same index.

Legend: N rows, H W pixels, C channels.
"""

import contextlib
import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from instar import atomic, remote
from instar.errors import DataError
from instar.fields import of_npy
from instar.remote import Wanted

INDEX = "index.parquet"
ARRAY = "images.npy"
ORIGINAL, JPEG256, RAW256, ARRAYS = "original", "jpeg256", "raw256", "array"
PAYLOADS = (ORIGINAL, JPEG256, RAW256, ARRAYS)
HALVES = ("image", "other")  # the parts of a sample of two files
_VERSION = 1
_OPEN = 256  # shards held open at once; a process may have 1024 files

SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # its name in the shard, before the first dot
        ("part", pa.string()),  # which of several arrays of the key; '' where there is one
        ("source", pa.string()),  # the file it was made from, below the folder or archive it came from
        ("shard", pa.int32()),  # number of the file it lies in
        ("offset", pa.int64()),  # where its bytes begin there
        ("length", pa.int64()),  # and how many there are
        ("label", pa.string()),  # name of its class; null without labels
        ("group", pa.string()),  # null without groups
        ("split", pa.string()),  # train, val or test; null where nobody divided the samples
        ("width", pa.int32()),  # pixels of what is stored, upright; 0 where it has none
        ("height", pa.int32()),
        ("channels", pa.int32()),
        ("dtype", pa.string()),  # NumPy's name of one value
        ("mode", pa.string()),  # what a pixel of the source was, as the scan says it
        ("size", pa.int64()),  # bytes of the source
        ("content", pa.uint64()),  # fingerprint of the source, as the scan takes it
        ("xxh3", pa.binary(16)),  # xxh3-128 of the stored bytes
        ("id", pa.string()),  # what the sample is called, such as a pair; null where that is its source
    ]
)


@dataclass(frozen=True)
class Shard:
    """One file with samples in it: its name in the folder (or its path, where it was indexed in place)."""

    name: str
    size: int
    xxh3: str


@dataclass(frozen=True)
class About:
    """What is true of all rows.

    payload    original, jpeg256, raw256 or array
    bare       stored bytes are pixels without a header: rows of one large array
    skipped    (file, reason) of what was left out
    plan       fingerprint of what was packed and how
    notes      sentences for the user
    beside     files that are of all samples, such as statistics, as they were
    """

    payload: str
    shards: tuple[Shard, ...]
    bare: bool = False
    skipped: tuple[tuple[str, str], ...] = ()
    plan: str = ""
    notes: tuple[str, ...] = ()
    beside: tuple[Shard, ...] = ()

    @property
    def files(self) -> tuple[Shard, ...]:
        """All files but the index."""
        return (*self.shards, *self.beside)


def is_packed(folder: Path) -> bool:
    """Whether packed data lie in this folder, or are said to lie at this address."""
    return remote.is_address(folder) or (folder / INDEX).is_file()


class Packed:
    """Packed data, open for reading. May be handed to any number of forked processes.

    access   mmap, whose pages all processes of a machine share; or pread, where a file system dislikes mmap
    """

    def __init__(self, folder: Path, about: About, *, access: Literal["mmap", "pread"] = "mmap"):
        self.folder, self.about = folder, about
        self._open = _mapped if access == "mmap" else _descriptor
        self._shards: dict[int, Any] = {}
        where = _columns(folder / INDEX, ("shard", "offset", "length"))  # the rest is read when it is asked for
        # Shared with the processes that are forked from this one: each would look at every row again.
        self._checked_N = np.frombuffer(mmap.mmap(-1, len(where) + 1), bool)
        self._shard_N, self._offset_N, self._length_N = (column.to_numpy() for column in where.columns)

    @cached_property
    def index(self) -> pa.Table:
        """One row a sample, with the columns of SCHEMA."""
        return read_index(self.folder)[0]

    def __len__(self) -> int:
        return len(self._shard_N)

    def stored(self, row: int) -> bytes:
        """The stored bytes of a row."""
        return bytes(self._view(row))

    def checked(self, row: int) -> memoryview | bytes:
        """The stored bytes of a row, not copied; raises DataError where they are not those that were packed.

        Looked at the first time a process, or one forked from it, reads a row; a sum over all bytes every time would
        cost as much as a resize.
        """
        data = self._view(row)
        if self._checked_N[row]:
            return data
        if xxhash.xxh3_128_digest(data) != self._xxh3[row].as_py():
            raise DataError(self.not_those(row))
        self._checked_N[row] = True
        return data

    @property
    def is_far(self) -> bool:
        """Whether shards are fetched from elsewhere when they are wanted."""
        return remote.is_here_only_in_part(self.folder)

    def lies(self, row: int) -> tuple[Path, int, int]:
        """The file that the stored bytes of a row lie in, where they begin and how many they are.

        For who reads them into memory of its own, and then compares them with `proof`. Raises DataError where the file
        is not as long as it was.
        """
        number = self._shard_N.item(row)
        path, size = self._in_folder(number), self.about.shards[number].size
        if problem := _problem(path, size, str(path)):
            raise DataError(f"{problem}. Copy or pack it again.")
        return path, self._offset_N.item(row), self._length_N.item(row)

    def proof(self, row: int) -> bytes | None:
        """xxh3-128 that the stored bytes of a row must have; None where this process has looked already."""
        return None if self._checked_N[row] else self._xxh3[row].as_py()

    def proven(self, row: int) -> None:
        """Note that they have it."""
        self._checked_N[row] = True

    def not_those(self, row: int) -> str:
        """What to say where they have not."""
        return f"its bytes in {self.about.shards[self._shard_N.item(row)].name} are not those that were packed"

    def beside(self, name: str) -> Path | None:
        """A file that was packed with the samples, but is of all of them; None where there is none of this name."""
        found = next((one for one in self.about.beside if one.name == name), None)
        if found is None:
            return None
        if self.is_far:
            return remote.located(self.folder, Wanted(found.name, found.size, found.xxh3))
        return self.folder / name

    def _view(self, row: int) -> memoryview | bytes:
        number = self._shard_N.item(row)
        shard = self._shards.get(number) or self._opened(number)
        offset = self._offset_N.item(row)
        data: memoryview | bytes = shard[offset : offset + self._length_N.item(row)]
        return data

    def array(self, row: int, data: memoryview | bytes | None = None) -> np.ndarray:
        """The array of a row, not copied. Rows that are not arrays raise DataError.

        data   its bytes, where they are at hand
        """
        data = self._view(row) if data is None else data
        if self._dtype is not None:
            # Its shape is in the index; to parse a header takes longer than to resize a small image.
            shape = tuple(self._shape_N3[row].tolist())
            size = shape[0] * shape[1] * shape[2] * self._dtype.itemsize
            return np.frombuffer(data, self._dtype, offset=len(data) - size).reshape(shape)
        return of_npy(data)

    def rows_of(self, sources: pa.ChunkedArray) -> np.ndarray:
        """The rows that these sources are at, int64; raises DataError for one that is not there."""
        known = _columns(self.folder / INDEX, ("source",))["source"].combine_chunks()
        rows = pc.index_in(sources, value_set=known)
        if rows.null_count:
            gone = sources.filter(pc.is_null(rows))[0].as_py()
            raise DataError(f"{self.folder}: {rows.null_count} samples are not in its index, for example {gone!r}.")
        return rows.to_numpy().astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # every process opens its own

    @cached_property
    def _shape_N3(self) -> np.ndarray:
        found = _columns(self.folder / INDEX, ("height", "width", "channels"))
        return np.stack([column.to_numpy() for column in found.columns], 1)

    @cached_property
    def _dtype(self) -> np.dtype | None:
        """The type of all rows that are pixels at the end of their bytes; None where each row says its own."""
        if not self.about.bare and self.about.payload != RAW256:
            return None
        found = pc.unique(_columns(self.folder / INDEX, ("dtype",))["dtype"]).to_pylist()
        return np.dtype(found[0]) if len(found) == 1 else None

    @cached_property
    def _xxh3(self) -> pa.Array:
        return _columns(self.folder / INDEX, ("xxh3",))["xxh3"].combine_chunks()

    def _opened(self, number: int) -> Any:
        if len(self._shards) >= _OPEN:
            self._shards.pop(next(iter(self._shards)))
        path, size = self._in_folder(number), self.about.shards[number].size
        try:
            opened = self._open(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: this shard cannot be read ({error}). Is it still there, whole?") from error
        if len(opened) != size:  # reading behind the end of a mapped file would kill the process
            raise DataError(f"{path}: has {len(opened)} bytes, but {size} were packed. Copy or pack it again.")
        self._shards[number] = opened
        return opened

    def _in_folder(self, number: int) -> Path:
        shard = self.about.shards[number]
        if self.is_far:
            return remote.located(self.folder, Wanted(shard.name, shard.size, shard.xxh3))
        return self.folder / shard.name


class _Descriptor:
    """A file that is sliced as if it were mapped."""

    def __init__(self, number: int):
        self._number = number

    def __len__(self) -> int:
        return os.fstat(self._number).st_size

    def __getitem__(self, wanted: slice) -> bytes:
        return os.pread(self._number, wanted.stop - wanted.start, wanted.start)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._number)


def _descriptor(path: Path) -> _Descriptor:
    return _Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _mapped(path: Path) -> memoryview:
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read(folder: Path, *, access: Literal["mmap", "pread"] = "mmap") -> Packed:
    """Open packed data. Raises DataError where the index is not whole, or a shard is not there or not as long."""
    if remote.is_address(folder):
        folder = remote.here(folder, INDEX)
    about = read_about(folder)
    if remote.is_here_only_in_part(folder):
        return Packed(folder, about, access=access)
    problems = [problem for shard in about.files if (problem := _problem(folder / shard.name, shard.size, shard.name))]
    if problems:
        shown = "; ".join(problems[:5]) + (f" and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise DataError(f"{folder}: {shown}. Copy the folder again, or pack again.")
    return Packed(folder, about, access=access)


def read_about(folder: Path) -> About:
    """What is true of all rows of packed data, without a look at rows or shards."""
    if not (folder / INDEX).is_file():
        raise DataError(f"{folder}: no packed data are here. Make them: instar pack FOLDER to={folder}")
    return _about(folder / INDEX)


def read_index(folder: Path) -> tuple[pa.Table, About]:
    """The index of packed data, without a look at the shards."""
    about = read_about(folder)
    return _columns(folder / INDEX, SCHEMA.names), about


def read_index_file(path: Path) -> tuple[pa.Table, About]:
    """An index by its path: that of all shards, or of one that was finished before a kill."""
    return _columns(path, SCHEMA.names), _about(path)


def _columns(path: Path, names: Sequence[str]) -> pa.Table:
    schema = pa.schema([SCHEMA.field(name) for name in names])
    try:
        # The index of an earlier version has no ids.
        there = [name for name in names if name != "id" or name in pq.read_schema(path).names]
        found = pq.read_table(path, columns=there, partitioning=None).replace_schema_metadata(None)
        if len(there) < len(names):
            found = found.append_column("id", pa.nulls(len(found), pa.string())).select(names)
        return found.cast(schema)
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DataError(_not_whole(path, error)) from error


def _about(path: Path) -> About:
    try:
        said = json.loads((pq.read_schema(path).metadata or {})[b"instar.pack"])
        if said.pop("version") != _VERSION:
            raise ValueError("another version of Instar wrote it")
        said["shards"] = tuple(Shard(**shard) for shard in said["shards"])
        said["beside"] = tuple(Shard(**file) for file in said.get("beside", ()))
        said["skipped"] = tuple((file, reason) for file, reason in said["skipped"])
        return About(**{**said, "notes": tuple(said["notes"])})
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DataError(_not_whole(path, error)) from error


def _not_whole(path: Path, error: Exception) -> str:
    return f"{path}: is not a whole index ({error}). Pack again."


def write_index(path: Path, rows: pa.Table, about: About) -> None:
    """Write an index, whole or not at all."""
    said = {name: getattr(about, name) for name in About.__dataclass_fields__}
    text = json.dumps({"version": _VERSION, **said}, default=vars)
    with atomic.writing(path) as file:
        pq.write_table(rows.cast(SCHEMA).replace_schema_metadata({"instar.pack": text}), file, compression="zstd")
    atomic.sync(path.parent)


def xxh3_of(path: Path) -> str:
    """xxh3-128 of a file, in hexadecimal."""
    whole, buffer = xxhash.xxh3_128(), memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while got := file.readinto(buffer):
            whole.update(buffer[:got])
    return whole.hexdigest()


def at_path(path: Path) -> tuple[Packed, int] | None:
    """The packed data and the row that a path stands for, `PACKED/name of the source`; None where it is none."""
    for folder in path.parents:
        if (folder / INDEX).is_file():
            pack = _remembered(folder, (folder / INDEX).stat().st_mtime_ns)
            row = _rows_by_source(pack).get(str(path.relative_to(folder)))
            return None if row is None else (pack, row)
    return None


@lru_cache(maxsize=2)
def _remembered(folder: Path, changed_ns: int) -> Packed:
    return read(folder)


@lru_cache(maxsize=2)
def _rows_by_source(pack: Packed) -> dict[str, int]:
    return {name: row for row, name in enumerate(pack.index["source"].to_pylist())}


def _problem(path: Path, size: int, name: str) -> str:
    try:
        found = path.stat().st_size
    except OSError:
        return f"{name} is not there"
    return "" if found == size else f"{name} has {found} bytes, but {size} were packed"
