"""Packs: the rows of packed data, as if they were listed and looked at where they came from.

Legend: N rows.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from instar import packed
from instar.engine.scan import headers
from instar.engine.scan.headers import Headers
from instar.engine.scan.listing import Listing
from instar.engine.scan.masked import EVERYTHING
from instar.errors import DataError
from instar.experiment import Data
from instar.manifest import Skipped
from instar.readers import _matching


def of_packed(folder: Path, data: Data) -> tuple[Listing, Headers, str]:
    """Files, what is known of each, and a fingerprint of the stored bytes: '' where those are the files' own.

    Raises DataError where the samples have no labels, or a shard is not there or not whole.
    """
    pack = packed.read(folder)  # of an address the index only
    index = pack.index
    if index["label"].null_count and data.manifest is None:
        raise DataError(
            f"{folder}: {index['label'].null_count} of {len(pack)} packed samples have no label. Pack a folder with "
            f"one folder a class, or a recipe with a table of labels."
        )
    halves = _halves(pack)
    if halves is not None:
        index = index.take(halves[:, 0])
    listing = Listing(folder, files=index["source"].to_pylist(), labels=index["label"].to_pylist(), ids=_ids(index))
    if halves is not None:
        listing.others = pack.index["source"].take(halves[:, 1]).to_pylist()
        whole = set(halves.reshape(-1).tolist())
        alone = [row for row in range(len(pack)) if row not in whole]
        listing.skipped += [Skipped(pack.index["source"][row].as_py(), _matching.ALONE) for row in alone]
    if index["group"].null_count < len(index):
        listing.groups = index["group"].to_pylist()
    if not index["split"].null_count:
        listing.splits = index["split"].to_pylist()
    listing.skipped += [Skipped(*one) for one in pack.about.skipped]
    listing.notes = list(pack.about.notes)
    if data.table or data.index:
        listing.notes.append("labels and splits are those that were packed; data.table and data.index are not read")
    heads = Headers(
        index["width"].to_numpy(),
        index["height"].to_numpy(),
        index["content"].to_numpy(),
        np.array(index["mode"].to_pylist(), object),
        np.full(len(index), "", object),
    )
    if halves is not None:
        both = pack.index["content"].to_numpy()[halves]
        heads = replace(heads, content_N=headers.content_of_both(both))
    return listing, heads, stored_as(pack)


def of_masks(folder: Path, data: Data, reader: ModuleType) -> tuple[Listing, Headers, str]:
    """The same where pixels have labels: a row's image and mask are two or more members.

    A reader finds by `find_packed` which belong together.
    """
    pack = packed.read(folder)
    index, found = pack.index, reader.find_packed(data.reader, pack)
    listing = Listing(folder, found.files, [EVERYTHING] * len(found.files), others=found.masks, splits=found.splits)
    listing.skipped = [*(Skipped(*one) for one in pack.about.skipped), *(Skipped(*one) for one in found.skipped)]
    listing.notes = [*pack.about.notes, *found.notes]
    if data.table:
        listing.notes.append("splits and groups are those that were packed; data.table is not read")
    first_N, last_N = (np.array(rows, np.int64) for rows in zip(*found.rows, strict=True))
    listing.ids = _ids(index.take(first_N))
    for name in ("group", "split"):
        if (column := index[name].take(first_N)).null_count < len(column):
            setattr(listing, f"{name}s", column.to_pylist())
    looking = getattr(reader, "looking", None)
    if looking is not None:
        look = looking(data.reader, folder)
        looks = [look(file, mask) for file, mask in zip(found.files, found.masks, strict=True)]
        size_N2 = np.array([(one.width, one.height) for one in looks], np.int32)
        reasons = [one.reason for one in looks]
    else:
        size_N2, of_mask_N2 = (
            np.stack([index[side].to_numpy()[rows] for side in ("width", "height")], 1) for rows in (first_N, last_N)
        )
        pairs = zip(found.masks, of_mask_N2.tolist(), size_N2.tolist(), strict=True)
        reasons = [reader.unequal(mask, one, other) if one != other else "" for mask, one, other in pairs]
    heads = Headers(
        size_N2[:, 0],
        size_N2[:, 1],
        _of_both(*(index["content"].to_numpy()[rows] for rows in (first_N, last_N))),
        np.array(index["mode"].take(first_N).to_pylist(), object),
        np.array(reasons, object),
    )
    return listing, heads, stored_as(pack)


def checksums(folder: Path, names: Sequence[str], *, arrays: bool = False) -> list[str]:
    """xxh3-128 of what is stored under each of these names, in hexadecimal; '' where that is not what was packed.

    arrays   whether they are names of arrays, which are always stored as they are
    """
    pack = packed.read(folder)
    if pack.about.payload != packed.ORIGINAL and not arrays:
        return [""] * len(names)
    known = dict(zip(pack.index["source"].to_pylist(), pack.index["xxh3"].to_pylist(), strict=True))
    return [known[name].hex() if name in known else "" for name in names]


def _ids(index: pa.Table) -> list[str] | None:
    """What samples are called, by their first members; None where all of them are called as their files."""
    if index["id"].null_count == len(index):
        return None
    return pc.coalesce(index["id"], index["source"]).to_pylist()


def _of_both(first_N: np.ndarray, last_N: np.ndarray) -> np.ndarray:
    """A fingerprint of a sample: what its first member says, or where the last one says something too, of both."""
    pairs_N2 = np.stack([first_N, last_N], 1)
    both = [pair[0] if pair[1] == 0 else xxhash.xxh3_64_intdigest(pair.tobytes()) for pair in pairs_N2]
    return np.array(both, np.uint64)


def _halves(pack: packed.Packed) -> np.ndarray | None:
    """The rows of both halves of every pair, P x 2; None where samples are no pairs."""
    part_N = np.array(pack.index["part"].to_pylist(), object)
    if not set(part_N.tolist()) & set(packed.HALVES):
        return None
    rows: dict[str, dict[str, int]] = {}
    for row, (key, part) in enumerate(zip(pack.index["key"].to_pylist(), part_N.tolist(), strict=True)):
        rows.setdefault(key, {})[part] = row
    whole = [[of[part] for part in packed.HALVES] for of in rows.values() if len(of) == len(packed.HALVES)]
    return np.array(whole, np.int64).reshape(-1, 2)


def stored_as(pack: packed.Packed) -> str:
    """A fingerprint of the stored bytes; '' where those are the files' own, of which the rows have one already."""
    if pack.about.payload == packed.ORIGINAL:
        return ""
    return f"{pack.about.payload} {hashlib.sha256(b''.join(pack.index['xxh3'].to_pylist())).hexdigest()}"
