"""Stored: every row of packed data looked at to its last pixel, as files are; broken ones are named with their key.

Legend: N rows.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from instar import packed
from instar.engine.loading.cores import usable_cpus
from instar.engine.scan import inspection, labelled, look, patient
from instar.engine.scan.headers import Headers
from instar.engine.scan.inspection import Inspection
from instar.engine.scan.labelled import Labelled
from instar.engine.scan.listing import Listing
from instar.errors import DataError
from instar.experiment import Data
from instar.readers._packed import is_file


def inspect(
    found: Listing,
    heads: Headers,
    data: Data,
    reader: ModuleType,
    *,
    workers: int | None = None,
    patience: float = inspection.PATIENCE,
    progress: Callable[[int], None],
) -> Labelled:
    """Look at all members of every row. Nothing is remembered: what is packed does not change, but may break.

    heads   what the index says of the rows
    """
    processes = usable_cpus() if workers is None else workers
    look_at = partial(_members, found.root, workers=processes, patience=patience, progress=progress)
    if "mask" not in reader.gives:
        table, values = look_at(found.files), None
        reason_N = _reasons(table)
        if found.others is not None:
            second_N = [why and f"its second file: {why}" for why in _reasons(look_at(found.others)).tolist()]
            reason_N = _first(reason_N, np.array(second_N, object))
    else:
        pictures = look_at(found.files) if reader.packed_from == "folder" else None
        table = _with_labels(found, data, reader, pictures, workers=processes)
        reason_N, values = _reasons(table), labelled.values(table)
    looked = Inspection(table.select(look.SCHEMA.names), len(table))
    return Labelled(looked, values, replace(heads, reason_N=_first(heads.reason_N, reason_N)))


def _with_labels(
    found: Listing, data: Data, reader: ModuleType, pictures: pa.Table | None, *, workers: int
) -> pa.Table:
    assert found.others is not None, "the caller listed masks"
    examine = reader.examining(data.reader, found.root)

    def one(number: int, file: str, mask: str) -> dict[str, Any]:
        picture = None if pictures is None else pictures.slice(number, 1).to_pylist()[0]
        return labelled.row(found.root, file, mask, picture=picture, examine=examine, reader=reader)

    with ThreadPoolExecutor(workers) as threads:
        rows = list(threads.map(one, range(len(found.files)), found.files, found.others))
    return pa.Table.from_pylist(rows, pa.schema([*look.SCHEMA, *labelled.VALUES]))


def _members(
    folder: Path, names: Sequence[str], *, workers: int, patience: float, progress: Callable[[int], None]
) -> pa.Table:
    """What is in each of these members, by all processes, in their order."""
    look_at_each = partial(look_at, os.fspath(folder), patience=patience)
    rows: list[dict[str, Any]] = [{}] * len(names)
    done = 0
    for part, answers in inspection.looked_at(os.fspath(folder), look_at_each, names, list(range(len(names))), workers):
        for number, answer in zip(part, answers, strict=True):
            rows[number] = answer
        progress(done := done + len(part))
    return pa.Table.from_pylist(rows, look.SCHEMA)


def look_at(folder: str, names: Sequence[str], *, patience: float) -> list[dict[str, Any]]:
    """What there is to know about some members; one that does not come in time is named, and left."""
    pack, row_of = _opened(folder)
    return patient.answers(
        lambda name: _look(pack, row_of[name], name),
        names,
        patience=patience,
        given_up=lambda name: look.given_up(name, patient.TOO_LONG.format(patience)),
    )


@lru_cache(maxsize=1)  # a process looks at one pack
def _opened(folder: str) -> tuple[packed.Packed, dict[str, int]]:
    pack = packed.read(Path(folder))
    return pack, {name: row for row, name in enumerate(pack.index["source"].to_pylist())}


def _look(pack: packed.Packed, row: int, name: str) -> dict[str, Any]:
    """A row of `look.SCHEMA` about one member."""
    try:
        data = pack.stored(row)
        found = look.stored(name, data, None if is_file(pack, data) else pack.array(row, data))
        if bytes.fromhex(found["checksum"]) != pack.index["xxh3"][row].as_py():
            found = look.given_up(name, pack.not_those(row))
    except (DataError, OSError) as error:
        found = look.given_up(name, str(error))
    if not found["reason"]:
        return found
    key, part = (pack.index[column][row].as_py() for column in ("key", "part"))
    return found | {"reason": f"{found['reason']} (key {'.'.join(filter(None, (key, part)))})"}


def _reasons(table: pa.Table) -> np.ndarray:
    return table["reason"].to_numpy().astype(object)


def _first(one_N: np.ndarray, other_N: np.ndarray) -> np.ndarray:
    """Of two reasons against each row the first that is one."""
    return np.where(one_N == "", other_N, one_N)
