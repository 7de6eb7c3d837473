"""Whole: a large data set whose folders are as they were is not looked through again.

What was made of it lies in the cache folder as one Arrow file, which is mapped into memory rather than read. It holds
while every folder that was read has the same time of change, and every table and list the same size and time. That
shows files that came, went or were renamed; a file that was written over in place it does not show, and says so.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

import instar
from instar import atomic
from instar import manifest as manifests
from instar.engine.scan import headers
from instar.engine.scan.listing import Listing, folder_state
from instar.errors import DataError
from instar.experiment import Data
from instar.manifest import Manifest

_BY_FOLDER = 20_000  # images from which the folders' times are looked at instead of every file's
_SETTLED_NS = 2_000_000_000  # of a folder that changed so lately, another change might have the same time
_VERSION = f"3 {instar.__version__}"


def by_file(recheck: str, num: int) -> bool:
    """Whether every file of a data set of this size is to be looked at."""
    return recheck == "files" or (recheck == "auto" and num <= _BY_FOLDER)


def recall(data: Data, seed: int) -> Manifest | None:
    """What was made of these data before, where nothing shows that they changed; None where it has to be made."""
    path = _file(data, seed)
    if path is None or data.recheck == "files" or not path.exists():
        return None
    try:
        table = pa.ipc.open_file(pa.memory_map(os.fspath(path))).read_all()
        about = json.loads(table.schema.metadata[b"instar.whole"])
        unchanged = all(list(folder_state(folder)) == state for folder, state in about["folders"].items())
        if by_file(data.recheck, len(table)) or not unchanged or about["files"] != _states(_named(data)):
            return None
        found = manifests.of_table(table)
    except (OSError, DataError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None  # it is made again, and written anew
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(about["time"]))
    note = f"no folder changed since {when}; files written over in place are not seen (data.recheck=files sees them)"
    known = replace(found, statistics={**found.statistics, "notes": [*found.statistics["notes"], note]})
    return known.with_hash(about["hash"]) if known.quick_hash() == about["quick"] else None


def remember(data: Data, seed: int, found: Listing, made: Manifest) -> None:
    """Keep what was made of these data. A cache that cannot be written is no error: it is made again the next time."""
    path = _file(data, seed)
    if path is None or by_file(data.recheck, len(made)) or not found.folders:
        return
    now = time.time_ns()
    if any(max(state[2:]) > now - _SETTLED_NS for state in found.folders.values()):
        return
    about = {
        "time": time.time(),
        "hash": made.hash,
        "quick": made.quick_hash(),
        "folders": found.folders,
        "files": _states(_named(data)),
    }
    metadata = {**manifests.metadata(made), "instar.whole": json.dumps(about)}
    table = made.table.combine_chunks().replace_schema_metadata(metadata)
    with (
        suppress(OSError, pa.ArrowException),
        atomic.writing(path, lasting=False) as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)


def _file(data: Data, seed: int) -> Path | None:
    """Where the manifest of these data lies; None for data whose rows no folder's time says anything about."""
    if data.pairs is not None or data.manifest is not None:
        return None
    said = data.model_dump(mode="json", exclude={"recheck"})
    said["root"] = os.path.realpath(data.root)
    name = hashlib.sha256(json.dumps([_VERSION, seed, said, os.fspath(data.root)]).encode()).hexdigest()[:32]
    return headers.cache_folder() / "manifests" / f"{name}.arrow"


def _named(data: Data) -> list[Path]:
    """Every file that the settings name."""
    index = [] if data.index is None else [data.index.train, data.index.val, data.index.test]
    return [path for path in (data.table, data.exclude, *index) if path is not None]


def _states(paths: Iterable[Path]) -> dict[str, Any]:
    return {os.fspath(path): list(headers.state(os.fspath(path))) for path in paths}
