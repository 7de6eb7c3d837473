"""Exclusion lists: what is left out, by name or by content, without moving a file. Quarantine lists are such lists.

A list is a CSV file with a column `id`, `path` or `hash` (others, such as `reason`, are for people), or plain text with
one entry a line. A hash is xxh3-128 of the content in 32 hexadecimal digits, and leaves out every copy.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from instar.engine.scan import contents
from instar.engine.scan.listing import Listing, named
from instar.errors import DataError
from instar.run import write_atomically

COLUMNS = ("id", "path", "hash")
_HASH = re.compile(r"[0-9a-f]{32}")
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Excluded:
    """What a list leaves out: its entries, each an id, a path or a hash, and those that may be hashes."""

    path: Path
    entries: frozenset[str]
    hashes: frozenset[str]


def read(path: Path) -> Excluded:
    """The entries of a list. Raises DataError where it cannot be read, or a CSV file has no column that is known."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read(_MOST_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: this list cannot be read ({error}). Write UTF-8 text, one id or path a line."
        ) from error
    if path.suffix.lower() == ".csv":
        entries = _of_csv(path, text)
    else:
        lines = (line.removesuffix("\r") for line in text.split("\n"))
        entries = [line for line in lines if line.strip() and not line.startswith("#")]
    return Excluded(path, frozenset(entries), frozenset(filter(_HASH.fullmatch, entries)))


def left(found: Listing, excluded: Excluded, *, hashes: Callable[[], list[list[str]]] | None = None) -> Listing:
    """What is left of a listing, with notes on what went and on lines that name nothing.

    hashes   columns of what each row's contents may be called by; without it every byte of every file is read, once
    They are asked for only where the list holds a hash.
    """
    root = f"{os.fspath(found.root).rstrip('/')}/"
    entries = {entry.removeprefix(root).removeprefix("./") for entry in excluded.entries}
    known = [] if not excluded.hashes else hashes() if hashes else [of_files(found)]
    called = [found.files, *filter(None, (found.ids, found.others)), *known]
    rows = [row for row, names in enumerate(zip(*called, strict=True)) if entries.isdisjoint(names)]
    gone = len(found.files) - len(rows)
    notes = [f"{gone} images are left out as {excluded.path} says"]
    if strangers := entries.difference(*called, (one.file for one in found.skipped)):
        notes.append(f"{len(strangers)} lines of {excluded.path.name} name nothing here: {named(sorted(strangers))}")
    return replace(found.take(rows), excluded=gone, notes=[*found.notes, *notes])


def of_files(found: Listing) -> list[str]:
    """The hash of each row's file; '' where it cannot be read."""
    return contents.checksums(found.root, found.files, lenient=True)


def write(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write a list of ids with reasons, whole or not at all."""
    lines = io.StringIO(newline="")
    csv.writer(lines).writerows([("id", "reason"), *rows])
    try:
        write_atomically(path, lines.getvalue().encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise DataError(f"{path}: the list cannot be written ({error.strerror}). Name another place.") from error


def _of_csv(path: Path, text: str) -> list[str]:
    rows = csv.reader(io.StringIO(text, newline=""))
    head = [name.strip().lower() for name in next(rows, [])]
    column = next((head.index(name) for name in COLUMNS if name in head), None)
    if column is None:
        raise DataError(
            f"{path}: none of its columns is called {', '.join(COLUMNS)}; it has {named(head)}. Name one so."
        )
    return [row[column] for row in rows if len(row) > column and row[column].strip()]
