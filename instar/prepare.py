"""Prepare: files -> Manifest. List them, look at every header once, leave out what is bad or rare, divide, count.

Labels and splits come from a table; or from class folders, with index files somebody made before, or with train, val
and test folders around them. Nothing beside the images is written, and no image is touched.

Legend: N rows, K classes.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from instar import manifest as manifests
from instar import packed, plugins
from instar.engine.scan import (
    contents,
    division,
    exclusion,
    frozen,
    headers,
    listing,
    masked,
    paired,
    split,
    usable,
    whole,
)
from instar.engine.scan.frozen import Changes
from instar.engine.scan.headers import Headers
from instar.engine.scan.listing import Listing
from instar.engine.scan.rows import listed, masked_files, packed_rows
from instar.errors import DataError
from instar.experiment import Data
from instar.manifest import MORE, SCHEMA, SPLITS, Manifest, Skipped
from instar.run import write_atomically

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did.

    state    new (the file was written), same (it holds just that), grown (it was, and was added to or taken from)
    changes  names of what differs from the file that was there, by how it differs
    """

    manifest: Manifest
    state: str
    changes: Changes | None = None


def prepare(
    data: Data,
    seed: int,
    to: Path,
    *,
    accept: bool = False,
    checksum: bool = False,
    progress: Progress = lambda done, total: None,
) -> Prepared:
    """Write the manifest of a data set into a file; a split that stands in one is frozen.

    accept     go on where the data are not those of the manifest that is there: rows it knows, by name or by content,
               stay in their splits, and only new ones are placed
    checksum   note xxh3-128 of every byte of every file
    Raises DataError where the data changed, naming how, and `accept` is not given.
    """
    before = manifests.read(to) if to.exists() else None
    rows = manifest(data, seed, progress=progress)
    if checksum or (before is not None and "checksum" in before.table.column_names):
        files = rows.table["file"].to_pylist()
        hash_N = contents.checksums(rows.root, files, progress=lambda done: progress(done, len(files)))
        rows = replace(rows, table=rows.table.append_column(MORE.field("checksum"), pa.array(hash_N)))
    _list_left_out(rows, to)
    if before is None:
        manifests.write(rows, to)
        return Prepared(rows, "new")
    rows = frozen.with_splits_of(before, rows)
    changes = manifests.changes(before, rows)
    if before.hash == rows.hash:
        return Prepared(before, "same", changes)
    if not accept:
        raise DataError(frozen.refusal(to, changes, before, rows))
    manifests.write(rows, to)
    return Prepared(rows, "grown", changes)


def left_out_file(to: Path) -> Path:
    """Where the pairs that a manifest file leaves out are listed."""
    return to.with_suffix(".left-out.csv")


def _list_left_out(rows: Manifest, to: Path) -> None:
    """Write what is no pair, and why, beside the manifest; where rows are pairs, and some were left out."""
    if "other" in rows.table.column_names and rows.skipped and rows.statistics.get("halves"):
        text = io.StringIO()
        csv.writer(text).writerows([("path", "reason"), *rows.skipped])
        write_atomically(left_out_file(to), text.getvalue())


def manifest(data: Data, seed: int, *, progress: Progress = lambda done, total: None) -> Manifest:
    """What there is to learn from, checked and divided.

    seed       decides the division where nothing else does
    progress   told how many of how many files were looked at
    Raises DataError where a folder, table or index file is missing or contradicts itself, where too many files are
    bad, and where fewer than two classes are left.
    """
    if data.manifest is not None:
        return _as_prepared(data, data.manifest, progress)
    reader = plugins.load("readers", data.reader.kind)
    of_pixels = "mask" in reader.gives
    if packed.is_packed(data.root):
        found, heads, stored_as = packed_rows(data, reader)
        made = of_packed(found, heads, data, seed, reader)
        jpegs = stored_as.startswith(packed.JPEG256) if stored_as else made.statistics.get("jpegs", False)
        made = replace(made, statistics=made.statistics | {"stored_as": stored_as, "jpegs": jpegs})
        return _measured(made, data) if found.others is not None and not of_pixels else made
    if of_pixels:
        found = masked_files(data, reader)
        heads = masked.look(found, data, reader, progress=lambda done: progress(done, len(found.files)))
        return of_masks(found, heads, data, seed, reader)
    if "other" in reader.gives:
        return _of_pairs(data, seed, reader, progress)
    if (known := whole.recall(data, seed)) is not None:
        return known
    found, rare = listed(data, seed)
    heads = _looked_at(found.root, found.files, found.others, progress)
    made = of_listing(found, heads, data, seed, rare=rare)
    whole.remember(data, seed, found, made)
    return made


def of_listing(found: Listing, heads: Headers, data: Data, seed: int, *, rare: dict[str, int]) -> Manifest:
    """The manifest of files that were listed and looked at.

    rare   classes that were left out already, with their sizes
    """
    good, skipped = usable.rows(found, heads, data)
    found, heads = found.take(good), heads.take(good)
    if data.index is None:
        large, rare = usable.large_enough(found.labels, data.min_per_class)
        found, heads = found.take(large), heads.take(large)
    classes, target_N = usable.classes(found, rare, data)
    split_N, notes = division.divided(found, heads, target_N, classes, shares=data.split, seed=seed)
    columns = {
        "id": found.ids or found.files,
        "file": found.files,
        "target": target_N,
        "group": found.groups or pa.nulls(len(target_N), pa.string()),
        "split": np.array(SPLITS, object)[split_N],
        "width": heads.width_N,
        "height": heads.height_N,
        "content": heads.content_N,
        **({} if found.others is None else {"other": found.others}),
    }
    schema = pa.schema([*SCHEMA, *(MORE.field(name) for name in columns if name in MORE.names)])
    statistics = _statistics(heads, target_N, split_N) | _about(found, skipped, data, seed) | {"left_out": rare}
    statistics["notes"] = [*found.notes, *usable.alike(classes), *notes, *filter(None, [heads.note])]
    statistics["jpegs"] = any(file.lower().endswith((".jpg", ".jpeg")) for file in found.files)
    return Manifest(found.root, pa.table(columns, schema=schema), classes, tuple(skipped), statistics)


def of_masks(found: Listing, heads: Headers, data: Data, seed: int, reader: ModuleType) -> Manifest:
    """The manifest of images and masks that were listed and looked at: a row an image, all of one target, 0."""
    good, skipped = usable.rows(found, heads, data)
    if not good:
        raise DataError(
            f"{found.root}: not one usable image with a mask. The first: {skipped[0] if skipped else 'none'}"
        )
    found, heads = found.take(good), heads.take(good)
    target_N, everything = np.zeros(len(good), np.int32), (masked.EVERYTHING,)
    split_N, notes = division.divided(found, heads, target_N, everything, shares=data.split, seed=seed)
    train = np.flatnonzero(split_N == split.TRAIN).tolist()
    trained = found.take(train)
    survey = reader.survey(data.reader, found.root, trained.files, trained.others)
    table = pa.table(
        {
            "id": found.files,
            "file": found.files,
            "target": target_N,
            "group": found.groups or pa.nulls(len(target_N), pa.string()),
            "split": np.array(SPLITS, object)[split_N],
            "width": heads.width_N,
            "height": heads.height_N,
            "content": heads.content_N,
            "other": found.others,
        },
        schema=pa.schema([*SCHEMA, MORE.field("other")]),
    )
    statistics = _statistics(heads, target_N, split_N) | survey.statistics | _about(found, skipped, data, seed)
    statistics |= {"classes": len(survey.classes), "imbalance": None, "pixels": survey.pixels_K, "left_out": {}}
    alike = usable.alike(survey.classes)
    statistics["notes"] = [*found.notes, *survey.notes, *alike, *notes, *filter(None, [heads.note])]
    return Manifest(found.root, table, survey.classes, tuple(skipped), statistics)


def of_packed(found: Listing, heads: Headers, data: Data, seed: int, reader: ModuleType) -> Manifest:
    """The manifest of packed rows that were looked at."""
    if "mask" in reader.gives:
        return of_masks(found, heads, data, seed, reader)
    return of_listing(found, heads, data, seed, rare={})


# --- which files ---------------------------------------------------------------------------------------------------


def _of_pairs(data: Data, seed: int, reader: ModuleType, progress: Callable[[int, int], None]) -> Manifest:
    """What there is to learn from where a sample is two files and both are read."""
    found = paired.listed(data, reader)
    if data.exclude is not None:
        found = exclusion.left(found, exclusion.read(data.exclude))
    heads = paired.look(found, data, reader, progress=lambda done: progress(done, len(found.files)))
    return _measured(of_listing(found, heads, data, seed, rare={}), data)


def _measured(rows: Manifest, data: Data) -> Manifest:
    """The manifest of pairs with what the numbers of each half are like."""
    reader = plugins.load("readers", data.reader.kind)
    if "other" not in reader.gives:
        raise DataError(f"{rows.root}: holds packed pairs. Write data.reader=image_pair.")
    survey = reader.survey(data.reader, rows)
    statistics = rows.statistics | survey.statistics
    return replace(rows, statistics={**statistics, "notes": [*statistics["notes"], *survey.notes]})


def _looked_at(root: Path, files: Sequence[str], others: Sequence[str] | None, progress: Progress) -> Headers:
    """The headers of pictures; of other files, which only pairs have, that they are there."""
    if others is None:
        return headers.check(root, files, progress=lambda done: progress(done, len(files)))
    sides = [
        headers.check(root, side, progress=lambda done: progress(done, len(files)))
        if all(file.lower().endswith(listing.ENDINGS) for file in side)
        else headers.plain(root, side)
        for side in (files, others)
    ]
    return headers.of_both(*sides)


def _as_prepared(data: Data, path: Path, progress: Progress) -> Manifest:
    """The rows of a manifest file, below the root that is given; its files are looked at again as `recheck` says."""
    rows = replace(manifests.read(path), root=Path(os.path.abspath(data.root)))  # noqa: PTH100 - links stay as written
    statistics = {**rows.statistics, "notes": []}
    if packed.is_packed(data.root):
        found, heads, stored_as = packed_rows(data, plugins.load("readers", data.reader.kind))
        return frozen.as_packed(rows, found, heads, data, statistics | {"stored_as": stored_as})
    if not whole.by_file(data.recheck, len(rows)):
        statistics["notes"] = [f"the files of {path.name} were not looked at again; data.recheck=files does"]
        return replace(rows, statistics=statistics)
    others = rows.table["other"].to_pylist() if "other" in rows.table.column_names else None
    heads = _looked_at(rows.root, rows.table["file"].to_pylist(), others, progress)
    return frozen.held_to(rows, heads.reason_N, heads.content_N, data, statistics)


# --- what is told --------------------------------------------------------------------------------------------------


def _about(found: Listing, skipped: list[Skipped], data: Data, seed: int) -> dict[str, Any]:
    """What became of what was listed, and how it was divided."""
    return {
        "broken": usable.broken(skipped),
        "ignored": found.ignored,
        "excluded": found.excluded,
        "divided": found.splits is not None,
        "division": {"seed": seed, **data.split.model_dump(mode="json")},
    }


def _statistics(heads: Headers, target_N: np.ndarray, split_N: np.ndarray) -> dict[str, Any]:
    counts_K = np.bincount(target_N)
    return {
        "images": len(target_N),
        "classes": len(counts_K),
        "median_width": int(np.median(heads.width_N)),
        "median_height": int(np.median(heads.height_N)),
        "imbalance": round(float(counts_K.max() / counts_K.min()), 2),
        "modes": dict(Counter(heads.mode_N.tolist()).most_common()),
        "splits": {name: int((split_N == number).sum()) for number, name in enumerate(SPLITS)},
        "duplicates": _duplicates(heads.content_N, split_N),
    }


def _duplicates(content_N: np.ndarray, split_N: np.ndarray) -> int:
    """Images of which the same bytes are in another split too: what is trained on is then tested on."""
    content, number_N = np.unique(content_N, return_inverse=True)
    in_split = np.zeros((len(content), len(SPLITS)), bool)
    in_split[number_N, split_N] = True
    return int((in_split.sum(1) > 1)[number_N].sum())
