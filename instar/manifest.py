"""Manifest: what there is to learn from. One row a sample: its name, file, class, group and split; one Parquet file.

Legend: N rows.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from instar import atomic
from instar.errors import DataError

SPLITS = ("train", "val", "test")

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # unique; the path below the root with forward slashes
        ("file", pa.string()),  # where the bytes are, below the root
        ("target", pa.int32()),  # number of its class
        ("group", pa.string()),  # null where there are no groups
        ("split", pa.string()),
        ("width", pa.int32()),  # pixels of the upright image; 0 where unknown
        ("height", pa.int32()),
        ("content", pa.uint64()),  # fingerprint of size, beginning and end of the file; 0 where unknown
    ]
)
# Columns that only some manifests have, and that are null where a row has no such thing.
MORE = pa.schema(
    [
        ("other", pa.string()),  # the second file of a sample of two, below the root; the mask, where there are masks
        ("checksum", pa.string()),  # xxh3-128 of every byte of `file`, in hexadecimal
    ]
)


class Skipped(NamedTuple):
    """A file that was left out: its name, printable whatever its bytes, and the reason."""

    file: str
    reason: str


class Texts(Sequence[str]):
    """A column of text, read one at a time. It is not copied: ten million names stay where Arrow has them."""

    def __init__(self, column: pa.ChunkedArray):
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self._column.take(pa.array(range(len(self))[index], pa.int64())).to_pylist()
        return self._column[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.chunks:
            yield from chunk.to_pylist()


@dataclass(frozen=True, eq=False)
class Manifest:
    """The samples of one data set.

    root         folder that `file` is relative to
    table        one row a sample, with the columns of SCHEMA, and those of MORE that it needs
    classes      names of the classes, in the order of their numbers; any text
    skipped      files that were left out, with reasons
    statistics   plain JSON values: image sizes, broken files, imbalance, notes for the user
    """

    root: Path
    table: pa.Table
    classes: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    statistics: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def ids(self) -> Texts:
        """The name of each row."""
        return Texts(self.table["id"])

    @cached_property
    def targets(self) -> np.ndarray:
        """The number of each row's class, int32."""
        return self.table["target"].to_numpy()

    @cached_property
    def sizes(self) -> np.ndarray:
        """Width and height of each row, int32, N x 2."""
        return np.stack([self.table[name].to_numpy() for name in ("width", "height")], axis=1)

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split, int64, ascending."""
        return np.flatnonzero(pc.equal(self.table["split"], split).to_numpy())

    def path(self, row: int) -> Path:
        """The file of a row; the first, where it has two."""
        return self.root / self.table["file"][int(row)].as_py()

    def paths(self, row: int) -> tuple[Path, ...]:
        """All files of a row, one or two."""
        other = self.table["other"][int(row)].as_py() if "other" in self.table.column_names else None
        return (self.path(row), self.root / other) if other is not None else (self.path(row),)

    @cached_property
    def hash(self) -> str:
        """sha256 over names, contents, classes and splits, in hexadecimal; the folder they lie in is no part of it."""
        return self._digest(hashlib.sha256)

    def quick_hash(self) -> str:
        """xxh3-128 over the same, in a sixth of the time: for what may be damaged, but is not forged."""
        return self._digest(xxhash.xxh3_128)

    def with_hash(self, known: str) -> "Manifest":
        """The same, of which somebody has computed the hash already."""
        same = replace(self)
        vars(same)["hash"] = known
        return same

    def _digest(self, new: Callable[..., Any]) -> str:
        whole = new(json.dumps(self.classes).encode())
        for column in ("id", "split"):
            whole.update(_digest_of_texts(self.table[column], new))
        for column in ("target", "content"):
            whole.update(np.ascontiguousarray(self.table[column].to_numpy()).tobytes())
        for column in MORE.names:
            if column in self.table.column_names:
                whole.update(_digest_of_texts(pc.fill_null(self.table[column], ""), new))
        # Packed data whose bytes are not those of the files.
        whole.update(self.statistics.get("stored_as", "").encode())
        return str(whole.hexdigest())


def changes(old: Manifest, new: Manifest) -> dict[str, list[str]]:
    """The names of the samples that are gone, new, of the same content under another name, or of the same name with
    other contents, class or split."""
    place_N = pc.index_in(new.table["id"], value_set=old.table["id"])
    common_M = pc.is_valid(place_N)
    before, now = old.table.take(place_N.drop_null()), new.table.filter(common_M)

    def different(column: str) -> list[str]:
        return now["id"].filter(pc.not_equal(before[column], now[column])).to_pylist()

    classes = [np.array(manifest.classes, object) for manifest in (old, new)]
    names = [of[table["target"].to_numpy()] for of, table in zip(classes, (before, now), strict=True)]
    gone = old.table.filter(pc.invert(pc.is_in(old.table["id"], new.table["id"])))
    added = new.table.filter(pc.invert(common_M))
    known = {content for content in gone["content"].to_pylist() if content}
    moved = set(added["content"].to_pylist()) & known

    def named(table: pa.Table, *, moving: bool) -> list[str]:
        pairs = zip(table["id"].to_pylist(), table["content"].to_pylist(), strict=True)
        return [name for name, content in pairs if (content in moved) == moving]

    return {
        "gone": named(gone, moving=False),
        "new": named(added, moving=False),
        "under another name": named(added, moving=True),
        "with other contents": different("content"),
        "of another class": now["id"].filter(pa.array(names[0] != names[1])).to_pylist(),
        "in another split": different("split"),
    }


def _digest_of_texts(column: pa.ChunkedArray, new: Callable[..., Any]) -> bytes:
    """A digest of a column of text, however it is cut into chunks."""
    lengths, letters = new(), new()
    for chunk in column.chunks:
        lengths.update(pc.binary_length(chunk).to_numpy(zero_copy_only=False).astype(np.int32).tobytes())
        _, ends, data = chunk.buffers()
        if len(chunk):
            bounds = np.frombuffer(ends, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            letters.update(memoryview(data or b"")[bounds[0] : bounds[-1]])
    return bytes(lengths.digest() + letters.digest())


def metadata(manifest: Manifest) -> dict[str, str]:
    """All of a manifest that is not its table, as the metadata of that table's schema."""
    about = {
        "root": os.fspath(manifest.root),
        "classes": manifest.classes,
        "skipped": manifest.skipped,
        "statistics": manifest.statistics,
    }
    # JSON in ASCII: any name survives, also one that is not UTF-8.
    return {f"instar.{key}": json.dumps(value) for key, value in about.items()}


def of_table(table: pa.Table) -> Manifest:
    """The manifest of a table with its metadata. Raises DataError where something is missing."""
    try:
        more = [name for name in MORE.names if name in table.column_names]
        about = _about(table.schema)
        return Manifest(
            Path(about["root"]),
            table.select([*SCHEMA.names, *more]).cast(pa.schema([*SCHEMA, *(MORE.field(name) for name in more)])),
            tuple(about["classes"]),
            tuple(Skipped(*one) for one in about["skipped"]),
            about["statistics"],
        )
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DataError(f"this is not a whole manifest ({error}).") from error


def write(manifest: Manifest, path: Path) -> None:
    """Write one Parquet file, whole or not at all."""
    with atomic.writing(path) as file:
        pq.write_table(manifest.table.replace_schema_metadata(metadata(manifest)), file, compression="zstd")


def read(path: Path) -> Manifest:
    """Read what `write` wrote. Raises DataError where there is no such file, or where it is not a whole manifest."""
    if not path.exists():
        raise DataError(f"{path}: no manifest is there. `instar prepare` writes one, and so does every training.")
    try:
        return of_table(pq.read_table(path, partitioning=None))
    except (OSError, DataError, pa.ArrowException) as error:
        raise DataError(f"{path}: is not a whole manifest ({error}). Remove it, and make it again.") from error


def read_root(path: Path) -> Path:
    """The folder that a manifest's files are relative to. Raises DataError where the file is no manifest."""
    try:
        return Path(_about(pq.read_schema(path))["root"])
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is no manifest ({error}). Name one that `instar prepare` wrote.") from error


def _about(schema: pa.Schema) -> dict[str, Any]:
    metadata = (schema.metadata or {}).items()
    return {
        key.removeprefix(b"instar.").decode(): json.loads(text) for key, text in metadata if key.startswith(b"instar.")
    }
