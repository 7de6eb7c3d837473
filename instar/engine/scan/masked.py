"""Masked: images whose pixels have labels, listed with their masks and looked at.

A reader says by `find` which files belong together, and, where they are no pictures, by `looking` what their headers
say. A Listing's `others` are the files of the masks.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from instar.engine.loading.cores import usable_cpus
from instar.engine.scan import headers, tables
from instar.engine.scan.headers import Headers
from instar.engine.scan.listing import Listing, must_be_a_folder
from instar.experiment import Data
from instar.manifest import Skipped

EVERYTHING = "images with a mask"  # the label of a row whose pixels have labels


def listed(data: Data, reader: ModuleType) -> Listing:
    """Every image with its mask, from a table or as the reader finds them."""
    root = Path(os.path.abspath(data.root))  # noqa: PTH100 - links stay as they are written
    if data.table is not None:
        columns = data.columns
        more = {"group": columns.group, "split": columns.split}
        named = tables.of_table(data.table, root, path=columns.path, label=columns.mask, **more)
        return replace(named, labels=[EVERYTHING] * len(named.files), others=named.labels)
    must_be_a_folder(root)
    found = reader.find(data.reader, root)
    skipped = [Skipped(file, reason) for file, reason in found.skipped]
    return Listing(
        root,
        found.files,
        [EVERYTHING] * len(found.files),
        others=found.masks,
        splits=found.splits,
        skipped=skipped,
        ignored=found.ignored,
        notes=found.notes,
    )


def arrays(found: Listing, data: Data, reader: ModuleType) -> list[list[str]]:
    """Columns of names of the arrays of each field, those of its labels left out; no column where rows are pictures."""
    if reader.packed_from == "folder":
        return []
    assert found.others is not None, "the caller listed masks"
    members = [reader.members(data.reader, *both) for both in zip(found.files, found.others, strict=True)]
    return [[name for name, _ in column] for column in list(zip(*members, strict=True))[:-1]]


def look(found: Listing, data: Data, reader: ModuleType, *, progress: Callable[[int], None]) -> Headers:
    """Size and fingerprint of every image and mask together, and why some cannot be used."""
    assert found.others is not None, "the caller listed masks"
    looking = getattr(reader, "looking", None)
    if looking is None:
        return _of_pictures(found, reader, progress=progress)
    with ThreadPoolExecutor(min(32, 4 * usable_cpus())) as threads:
        looks = []
        for each in threads.map(looking(data.reader, found.root), found.files, found.others):
            looks.append(each)
            progress(len(looks))
    known = headers.of_both(*(headers.plain(found.root, side) for side in (found.files, found.others)))
    return replace(
        known,
        width_N=np.array([each.width for each in looks], np.int32),
        height_N=np.array([each.height for each in looks], np.int32),
        reason_N=np.array([each.reason for each in looks], object),
    )


def _of_pictures(found: Listing, reader: ModuleType, *, progress: Callable[[int], None]) -> Headers:
    images = headers.check(found.root, found.files, progress=progress)
    assert found.others is not None, "the caller listed masks"
    masks = headers.check(found.root, found.others)
    reasons = images.reason_N.copy()
    for row, file in enumerate(found.others):
        size, expected = ((int(one.width_N[row]), int(one.height_N[row])) for one in (masks, images))
        if not reasons[row] and masks.reason_N[row]:
            reasons[row] = f"mask {file}: {masks.reason_N[row]}"
        elif not reasons[row] and size != expected:
            reasons[row] = reader.unequal(file, size, expected)
    return replace(headers.of_both(images, masks), reason_N=reasons)
