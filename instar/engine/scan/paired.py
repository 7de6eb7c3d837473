"""Paired: samples of two files for a reader that reads both, listed and looked at. What is no pair is left out by name.

The list of what was left out stands in the manifest; nothing is moved, and no limit on broken files counts pairs that
were never meant to be any: names that disagree, a partner that is missing, the same pair twice.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np

from instar.engine.loading.cores import usable_cpus
from instar.engine.scan import headers, pairs
from instar.engine.scan.headers import Headers
from instar.engine.scan.listing import ENDINGS, Listing, must_be_a_folder, printable
from instar.errors import DataError
from instar.experiment import Data, Pairs
from instar.manifest import Skipped

COPY = "the same two files as"


def listed(data: Data, reader: ModuleType) -> Listing:
    """Every pair: from pair files where there are some, else as the reader finds them."""
    root = Path(os.path.abspath(data.root))  # noqa: PTH100 - links stay as they are written
    if data.table is not None or data.index is not None:
        raise DataError("data.table and data.index name single files, but a row is two here. Write data.pairs.")
    must_be_a_folder(root)
    usual = data.pairs or Pairs()
    parts = (usual.files, usual.first, usual.second)
    if data.pairs is not None or (not _says_where(data) and all((root / part).is_dir() for part in parts)):
        return _once(pairs.of_pairs(root, usual))
    found = reader.find(data.reader, root)
    return _once(
        Listing(
            root,
            found.files,
            [label or "all" for label in found.labels],
            ids=found.ids,
            others=found.masks,
            skipped=[Skipped(printable(file), reason) for file, reason in found.skipped],
            notes=found.notes,
        )
    )


def _says_where(data: Data) -> bool:
    """Whether the reader's settings name the folders or arrays of the halves."""
    halves = (data.reader.image, data.reader.other)
    return any(half.folder or half.data for half in halves)


def _once(found: Listing) -> Listing:
    """The listing with every two files once."""
    assert found.others is not None, "pairs have second files"
    names = found.ids or [f"{file} + {other}" for file, other in zip(found.files, found.others, strict=True)]
    keys = list(zip(found.files, found.others, strict=True)) if not _tiled(found) else [(name, "") for name in names]
    first: dict[tuple[str, str], int] = {}
    keep = []
    for row, key in enumerate(keys):
        if key in first:
            found.skipped.append(Skipped(printable(names[row]), f"{COPY} {printable(names[first[key]])}"))
        else:
            first[key] = row
            keep.append(row)
    return found.take(keep) if len(keep) < len(keys) else found


def _tiled(found: Listing) -> bool:
    return found.ids is not None and found.others == found.files


def look(found: Listing, data: Data, reader: ModuleType, *, progress: Callable[[int], None]) -> Headers:
    """Size of the first half, a fingerprint of both, and why some pairs cannot be used.

    Of pictures the headers are read, of tables and arrays all, so that a bad one is known before training.
    """
    assert found.others is not None, "the caller listed pairs"
    sides = [_side(found.root, files) for files in (found.files, found.others)]
    heads = headers.of_both(*sides)
    reasons = heads.reason_N.copy()
    width_N, height_N = heads.width_N.copy(), heads.height_N.copy()
    if not all(_are_pictures(files) for files in (found.files, found.others)):
        with ThreadPoolExecutor(min(8, usable_cpus())) as threads:
            looks = threads.map(partial(reader.look, data.reader, found.root), found.files, found.others)
            for row, one in enumerate(looks):
                reasons[row] = reasons[row] or one.reason
                width_N[row], height_N[row] = one.width, one.height
                progress(row + 1)
    content_N = heads.content_N
    if _tiled(found):  # squares of one file differ by where they are
        assert found.ids is not None, "squares have names"
        at = [headers.fingerprint(name.encode(), b"", int(one)) for name, one in zip(found.ids, content_N, strict=True)]
        content_N = np.array(at, np.uint64)
    return replace(heads, reason_N=_without_copies(found, content_N, reasons), width_N=width_N, height_N=height_N,
                   content_N=content_N)  # fmt: skip


def _side(root: Path, files: list[str]) -> Headers:
    return headers.check(root, files) if _are_pictures(files) else headers.plain(root, files)


def _are_pictures(files: list[str]) -> bool:
    return all(file.lower().endswith(ENDINGS) for file in files)


def _without_copies(found: Listing, content_N: np.ndarray, reasons: np.ndarray) -> np.ndarray:
    """The reasons, and one for each pair whose two files have the bytes of an earlier one's."""
    first: dict[int, int] = {}
    for row, content in enumerate(content_N.tolist()):
        if reasons[row] or not content:
            continue
        if content in first:
            reasons[row] = f"{COPY} {printable((found.ids or found.files)[first[content]])}"
        else:
            first[content] = row
    return reasons
