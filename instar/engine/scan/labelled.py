"""Labelled: every pixel of images and fields with labels looked at once: what stands in masks, and what is no number.

A reader says by `examining` what a row holds. Legend: N rows, H W pixels, C channels.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from instar.engine.loading.cores import usable_cpus
from instar.engine.scan import headers, inspection, look, patient, remembered
from instar.engine.scan.headers import Headers
from instar.engine.scan.inspection import Inspection
from instar.engine.scan.listing import Listing
from instar.errors import DataError
from instar.experiment import Data

# In a mask, whole numbers of any type; and how many pixels have each.
VALUES = [("value", pa.list_(pa.float64())), ("count", pa.list_(pa.int64()))]
_SCHEMA = pa.schema(
    [*look.SCHEMA, ("mask", pa.string()), ("mask_bytes", pa.int64()), ("mask_changed_ns", pa.int64()), *VALUES]
)
_AT_ONCE = 8  # rows a thread takes in one go
_BLOCK = 1 << 20  # bytes read in one go
_MOST_VALUES = 1000  # of one mask

# From a row's files to its numbers, None where a picture is looked at by whoever looks at pictures, and its labels.
Examine = Callable[[str, str], tuple[np.ndarray | None, np.ndarray]]


@dataclass(frozen=True)
class Labelled:
    """What N rows hold.

    looked    what is in the images, as of pictures; their reasons say also why a mask cannot be used
    values    how many pixels each value in a row's mask has; None where rows have no masks
    heads     what a division goes by, where that is not what `looked` says
    """

    looked: Inspection
    values: list[Counter[int]] | None
    heads: Headers | None = None


def inspect(
    found: Listing,
    data: Data,
    reader: ModuleType,
    *,
    workers: int | None = None,
    patience: float = inspection.PATIENCE,
    progress: Callable[[int], None],
) -> Labelled:
    """Look at every row, or remember what was found while size and time of both its files are the same.

    patience   seconds one row may take before it is given up, and named
    progress   told how many rows are done, now and then
    """
    assert found.others is not None, "the caller listed masks"
    masks, pictures = found.others, None
    if reader.packed_from == "folder":
        pictures = inspection.inspect(found.root, found.files, workers=workers, patience=patience, progress=progress)
    asked = hashlib.sha256(data.reader.model_dump_json().encode()).hexdigest()[:16]
    kept = remembered.Remembered("labelled", found.root, _SCHEMA, version=f"1 {look.VERSION} {asked}")
    known, place_N = kept.read(found.files)
    place_N = _holding(found, known, place_N)
    rows = None if pictures is None else pictures.table
    examine = reader.examining(data.reader, found.root)

    def one(number: int) -> dict[str, Any]:
        about = None if rows is None else rows.slice(number, 1).to_pylist()[0]
        return _with_files(
            found.root,
            file := found.files[number],
            mask := masks[number],
            lambda: row(found.root, file, mask, picture=about, examine=examine, reader=reader),
        )

    def gone(number: int) -> dict[str, Any]:
        given_up = look.given_up(found.files[number], patient.TOO_LONG.format(patience))
        return given_up | {"mask": masks[number], "mask_bytes": -1, "mask_changed_ns": -1, "value": [], "count": []}

    def some(part: list[int]) -> tuple[list[int], list[dict[str, Any]]]:
        return part, patient.answers(one, part, patience=patience, given_up=gone)

    todo = np.flatnonzero(place_N < 0).tolist()
    parts = [todo[at : at + _AT_ONCE] for at in range(0, len(todo), _AT_ONCE)]
    with ThreadPoolExecutor(usable_cpus() if workers is None else workers) as threads:
        table = kept.completed(known, place_N, threads.map(some, parts), progress=progress)
    notes = tuple(dict.fromkeys(filter(None, [kept.note, *(pictures.notes if pictures else ())])))
    opened = len(todo) if pictures is None else max(len(todo), pictures.new)
    return Labelled(Inspection(table.select(look.SCHEMA.names), opened, notes), values(table))


def _holding(found: Listing, known: pa.Table, place_N: np.ndarray) -> np.ndarray:
    """The place of each row in what is known; -1 where its image or its mask is another than then."""
    assert found.others is not None, "the caller listed masks"
    known_masks = [*known["mask"].to_pylist(), None]  # the last is that of -1
    same_N = np.array([known_masks[at] == mask for at, mask in zip(place_N.tolist(), found.others, strict=True)], bool)
    asked_N = np.where(same_N, place_N, -1)
    of_masks = known.select(["mask", "mask_bytes", "mask_changed_ns"]).rename_columns(
        [name for name, _ in remembered.STATE]
    )
    held_N = remembered.holding(found.root, found.files, known, asked_N)
    held_N &= remembered.holding(found.root, found.others, of_masks, asked_N)
    return np.where(held_N, place_N, -1)


def row(
    root: Path, file: str, mask: str, *, picture: dict[str, Any] | None, examine: Examine, reader: ModuleType
) -> dict[str, Any]:
    """What is known of an image or field with its mask, a row of `look.SCHEMA` and of VALUES.

    picture   what was found about the image; None where it is a field
    """
    image_HWC, value_HW, reason = None, None, ""
    try:
        image_HWC, value_HW = examine(file, mask)
    except (DataError, OSError) as error:
        reason = str(error)
    if picture is None:
        about = _of_field(root, file, image_HWC, reason)
    else:
        about = _with_mask(picture, mask, value_HW, reason, reader)
    value, count = ([], []) if value_HW is None else _counted(value_HW)
    return about | {"value": value, "count": count}


def _counted(value_HW: np.ndarray) -> tuple[list[float], list[int]]:
    """The values and how many pixels have each. Of thousands, which are no classes, the last stands for the rest."""
    value_V, count_V = np.unique(value_HW, return_counts=True)
    kept = count_V[:_MOST_VALUES].tolist()
    kept[-1:] = [kept[-1] + int(count_V[_MOST_VALUES:].sum())] if kept else []
    return value_V[:_MOST_VALUES].astype(np.float64).tolist(), kept


def values(table: pa.Table) -> list[Counter[int]]:
    """How many pixels each value has, by row, out of the columns of VALUES."""
    pairs = zip(table["value"].to_pylist(), table["count"].to_pylist(), strict=True)
    return [Counter(dict(zip(map(int, value), count, strict=True))) for value, count in pairs]


def _with_files(root: Path, file: str, mask: str, about: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is known of a row, after all bytes of its files came, with their state; a row of _SCHEMA."""
    mask_bytes, mask_changed_ns = headers.state(f"{root}/{mask}")
    try:
        both = [_content(f"{root}/{name}") for name in (file, mask)]
        content = headers.content_of_both(np.array([both], np.uint64))[0]
    except OSError:
        content = 0  # what is asked next says what is wrong
    state = {"mask": mask, "mask_bytes": mask_bytes, "mask_changed_ns": mask_changed_ns}
    return about() | state | {"content": int(content)}


def _content(path: str) -> int:
    """The fingerprint of a file, after all of its bytes came.

    HDF5 has one lock for all threads: who waits in it for a file that hangs holds up all others. Here only one waits.
    """
    with open(path, "rb", buffering=0) as file:
        while file.read(_BLOCK):
            pass
        size = os.fstat(file.fileno()).st_size
        return headers.fingerprint(*headers.ends(file.fileno(), size), size)


def _with_mask(
    row: dict[str, Any], mask: str, value_HW: np.ndarray | None, reason: str, reader: ModuleType
) -> dict[str, Any]:
    """What is known of a picture, and why its mask cannot be used."""
    if row["reason"]:
        return row
    if value_HW is None:
        return row | {"reason": f"mask {mask}: {reason}"}
    size = (row["width"], row["height"])
    return row if value_HW.shape[::-1] == size else row | {"reason": reader.unequal(mask, value_HW.shape[::-1], size)}


def _of_field(root: Path, file: str, image_HWC: np.ndarray | None, reason: str) -> dict[str, Any]:
    """A row of `look.SCHEMA` about a field."""
    row = look.ended(str(root), file, reason)
    if image_HWC is None:
        return row
    checksum = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(image_HWC).data)
    return row | look.field(image_HWC) | {"checksum": checksum, "format": file.rpartition(".")[2].upper()}
