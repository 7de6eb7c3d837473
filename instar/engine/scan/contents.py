"""Contents: xxh3-128 of every byte of many files, in threads, remembered like inspections - and taken from those.

Legend: N files.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from instar import fields
from instar.engine.loading.cores import usable_cpus
from instar.engine.packing import payloads
from instar.engine.scan import look, remembered
from instar.engine.scan.headers import state
from instar.errors import DataError

_SCHEMA = pa.schema([*remembered.STATE, ("checksum", pa.string())])
_AT_ONCE = 1024  # files between two calls of progress


def checksums(
    root: Path,
    files: Sequence[str],
    *,
    lenient: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """xxh3-128 of each file below the root, 32 hexadecimal digits. Raises DataError where one cannot be read.

    lenient    give '' for such a file instead
    progress   told how many files are done, now and then
    """
    found = np.full(len(files), "", object)
    for kind, schema, version in (("inspections", look.SCHEMA, look.VERSION), ("checksums", _SCHEMA, "1")):
        known, place_N = remembered.Remembered(kind, root, schema, version=version).read(files)
        held = np.flatnonzero(remembered.holding(root, files, known, np.where(found == "", place_N, -1)))
        found[held] = known["checksum"].take(pa.array(place_N[held])).to_pylist()
    todo = np.flatnonzero(found == "").tolist()
    rows = []
    with ThreadPoolExecutor(min(32, 2 * usable_cpus())) as threads:
        for done, row in enumerate(threads.map(lambda number: _of(root, files[number], lenient), todo), start=1):
            rows.append(row)
            if done % _AT_ONCE == 0 or done == len(todo):
                progress(len(files) - len(todo) + done)
    found[todo] = [row["checksum"] for row in rows]
    rows = [row for row in rows if row["checksum"]]
    if rows:
        kept = remembered.Remembered("checksums", root, _SCHEMA, version="1")
        kept.add(pa.Table.from_pylist(rows, _SCHEMA))
    return found.tolist()


def of_arrays(root: Path, names: Sequence[str]) -> list[str]:
    """The same of arrays in files, `file:array`: of the .npy file that each would be; '' where one cannot be read.

    That is what is stored of it where it is packed or converted, so the same numbers have one hash wherever they lie.
    """
    files = [name.rpartition(":")[0] for name in names]
    kept = remembered.Remembered("arrays", root, _SCHEMA, version="1")
    known, place_N = kept.read(names)
    held_N = remembered.holding(root, files, known, place_N)
    hash_N = np.full(len(names), "", object)
    hash_N[held_N] = known["checksum"].take(pa.array(place_N[held_N])).to_pylist()
    new = np.flatnonzero(~held_N).tolist()
    with ThreadPoolExecutor(usable_cpus()) as threads:
        rows = list(threads.map(lambda number: _of_array(root, files[number], names[number]), new))
    hash_N[new] = [row["checksum"] for row in rows]
    if rows := [row for row in rows if row["checksum"]]:
        kept.add(pa.Table.from_pylist(rows, _SCHEMA))
    return hash_N.tolist()


def _of_array(root: Path, file: str, name: str) -> dict[str, object]:
    size, changed_ns = state(f"{root}/{file}")
    try:
        data = payloads.npy(fields.read(root / file, name.removeprefix(f"{file}:")))
        checksum = xxhash.xxh3_128_hexdigest(data)
    except (DataError, OSError):
        checksum = ""
    return {"file": name, "bytes": size, "changed_ns": changed_ns, "checksum": checksum}


def _of(root: Path, file: str, lenient: bool) -> dict[str, object]:
    path = f"{root}/{file}"
    size, changed_ns = state(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return {"file": file, "bytes": size, "changed_ns": changed_ns, "checksum": look.checksum(descriptor)}
        finally:
            os.close(descriptor)
    except OSError as error:
        if lenient:
            return {"file": file, "bytes": size, "changed_ns": changed_ns, "checksum": ""}
        raise DataError(f"{path}: cannot be read ({error.strerror}). Bring it back, or take it out.") from error
