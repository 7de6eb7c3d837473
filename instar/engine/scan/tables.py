"""Tables: labels from a CSV or Parquet file, and splits from NumPy index files somebody made before."""

import csv
import os
import posixpath
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from instar.engine.scan.listing import SPLIT_NAMES, FolderState, Listing, folder_state, named
from instar.errors import DataError
from instar.manifest import Skipped
from instar.plugins import unknown

TWICE = "the table names it twice"

_SHOWN = 5


def of_table(
    table: Path, root: Path, *, path: str, label: str, group: str | None = None, split: str | None = None
) -> Listing:
    """One row an image. Every value is text: 007 stays 007, and NA is a label like any other.

    path, label, group, split   names of the columns; one named `group` or `split` is used without being asked for
    Paths are relative to `root`, or to the table's own folder where `root` has none of them.
    Raises DataError where the table cannot be read, lacks a column or a label, leaves the root, or contradicts itself.
    """
    asked = {"group": group, "split": split}
    columns = _read(
        table,
        [path, label, *filter(None, asked.values())],
        optional=[name for name, named_so in asked.items() if named_so is None],
    )
    paths, labels = columns[path].to_pylist(), _trimmed(columns[label])
    groups = columns.get(group or "group")
    splits = columns.get(split or "split")
    _all_filled(table, path, paths)
    _all_filled(table, label, labels)
    base = _base(table, root, paths)
    files = [_below(name, base) for name in paths]
    if outside := [f"row {row + 2}: {paths[row]!r}" for row, file in enumerate(files) if file is None]:
        raise DataError(
            f"{table}: {len(outside)} paths lead out of {base}: {'; '.join(outside[:_SHOWN])}. "
            f"Write a folder that holds all of them as data.root."
        )
    listing = Listing(base)
    listing.files, listing.labels = [str(file) for file in files], labels
    listing.groups = None if groups is None else [text or None for text in _trimmed(groups)]
    listing.splits = None if splits is None else _splits(table, split or "split", _trimmed(splits))
    listing.folders = _folders(base, listing.files)
    return _without_repeated(table, listing)


def of_index(files: Mapping[str, Path], rows: int, listed: str) -> dict[str, np.ndarray]:
    """The positions each index file names, int64, in the file's order.

    rows     how many positions there are
    listed   what they are positions in, for messages
    Raises DataError where a file is no array of whole numbers, or names a position that is not there or taken.
    """
    parts = {split: _positions(path) for split, path in files.items()}
    taken = np.full(rows, "", dtype="<U5")
    for split, positions in parts.items():
        where = f"data.index.{split}: {files[split]}"
        if outside := positions[(positions < 0) | (positions >= rows)].tolist():
            raise DataError(
                f"{where} names position {outside[0]} ({len(outside)} such), but there are {rows} positions in "
                f"{listed}. Was it made from another folder, or with another data.min_per_class?"
            )
        if len(np.unique(positions)) < len(positions):
            twice = np.sort(positions)[:-1][np.diff(np.sort(positions)) == 0]
            raise DataError(
                f"{where} names position {twice[0]} more than once ({len(twice)} such). Remove repetitions."
            )
        if shared := positions[taken[positions] != ""].tolist():
            raise DataError(
                f"{where} names position {shared[0]} ({len(shared)} such), which is in the {taken[shared[0]]} split "
                f"too. Keep each position in one file."
            )
        taken[positions] = split
    return parts


def _read(table: Path, needed: list[str], *, optional: list[str]) -> dict[str, pa.ChunkedArray]:
    """The needed columns, and the optional ones that are there, as text."""
    try:
        if table.suffix.lower() in (".parquet", ".pq"):
            names, delimiter = {name.strip(): name for name in pq.read_schema(table).names}, ""
        else:
            names, delimiter = _header(table)
        for name in needed:
            if name not in names:
                hint = unknown(name, list(names), what="column")
                raise DataError(f"{table}: {hint}. Name the columns under data.columns.")
        wanted = [*needed, *(name for name in optional if name in names)]
        raw = [names[name] for name in wanted]
        if not delimiter:
            loaded = pq.read_table(table, columns=raw, partitioning=None)
        else:
            loaded = pa.csv.read_csv(
                table,
                parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=raw, column_types=dict.fromkeys(raw, pa.string()), strings_can_be_null=False
                ),
            )
        return {name: pc.fill_null(loaded[names[name]].cast(pa.string()), "") for name in wanted}
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{table}: cannot be read as a table ({error}). Write UTF-8 CSV or Parquet.") from error


def _header(table: Path) -> tuple[dict[str, str], str]:
    """Columns of a CSV file, trimmed name to name as it stands, and the delimiter: the commonest in the first line."""
    with open(table, encoding="utf-8-sig", newline="") as file:
        first = file.readline(1 << 20)
        delimiter = max(",;\t", key=first.count)
        file.seek(0)
        names = next(csv.reader(file, delimiter=delimiter), [])
    if not names:
        raise DataError(f"{table}: an empty file. Write a header line and one row an image.")
    return {name.strip(): name for name in names}, delimiter


def _folders(base: Path, files: list[str]) -> dict[str, FolderState]:
    """Every folder that a file lies in, and those above it, with their states; none where one is not there."""
    names = {file.rpartition("/")[0] for file in files}
    names |= {name[:at] for name in names for at, letter in enumerate(name) if letter == "/"} | {""}
    try:
        return {folder: folder_state(folder) for name in names for folder in [f"{base}/{name}".rstrip("/")]}
    except (OSError, ValueError):
        return {}


def _trimmed(column: pa.ChunkedArray) -> list[str]:
    return pc.utf8_trim_whitespace(column).to_pylist()


def _all_filled(table: Path, name: str, values: list[str]) -> None:
    if not values:
        raise DataError(f"{table}: a header, but no rows. Write one row an image.")
    if empty := [row + 2 for row, value in enumerate(values) if not value]:
        shown = ", ".join(map(str, empty[:_SHOWN]))
        raise DataError(f"{table}: {len(empty)} rows have no {name!r}: row {shown}. Fill them, or remove the rows.")


def _base(table: Path, root: Path, paths: list[str]) -> Path:
    """The folder the paths are relative to: the root, or the table's own where more of the first files are there."""
    some = [path for path in paths[:100] if "\0" not in path]
    found = [sum(os.path.lexists(base / path) for path in some) for base in (root, table.parent)]
    return Path(os.path.abspath(table.parent if found[1] > found[0] else root))  # noqa: PTH100 - links stay as written


def _below(name: str, base: Path) -> str | None:
    """A path as it is written below the base, or None where it leads out."""
    if not name.startswith(("/", ".")) and "//" not in name and "/." not in name:
        return name  # nothing to tidy, which is nearly every row
    file = posixpath.normpath(posixpath.join(os.fspath(base), name))
    above = os.fspath(base).rstrip("/") + "/"
    return file.removeprefix(above) if file.startswith(above) else None


def _splits(table: Path, column: str, values: list[str]) -> list[str]:
    if wrong := {value for value in values if value.lower() not in SPLIT_NAMES}:
        raise DataError(
            f"{table}: the column {column!r} holds {named(sorted(wrong))}. Write train, val or test in every row, or "
            f"name the column differently to have the rows divided."
        )
    return [SPLIT_NAMES[value.lower()] for value in values]


def _without_repeated(table: Path, listing: Listing) -> Listing:
    """The first row of each file; raises DataError where a later one says something else."""
    first: dict[str, int] = {}
    again = [row for row, file in enumerate(listing.files) if first.setdefault(file, row) != row]
    if not again:
        return listing
    sides = [side for side in (listing.labels, listing.groups, listing.splits) if side is not None]
    if torn := [row for row in again if any(side[row] != side[first[listing.files[row]]] for side in sides)]:
        row = torn[0]
        raise DataError(
            f"{table}: rows {first[listing.files[row]] + 2} and {row + 2} are the same file, {listing.files[row]!r}, "
            f"with another label, group or split ({len(torn)} such). Keep one of them."
        )
    listing.skipped += [Skipped(listing.files[row], TWICE) for row in again]
    return listing.take(sorted(first.values()))


def _positions(path: Path) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            positions = np.lib.format.read_array(file, allow_pickle=False)  # a pickle could run anything
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read as an index file ({error}). Write a NumPy array of whole numbers."
        ) from error
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise DataError(f"{path}: is no one-dimensional array of whole numbers. Write one with numpy.save.")
    return positions.astype(np.int64)
