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
from instar.engine.scan import headers, inspection, likeness, look, patient, remembered
from instar.engine.scan.inspection import Inspection
from instar.engine.scan.listing import Listing
from instar.errors import DataError
from instar.experiment import Data

_SCHEMA = pa.schema(
    [
        *look.SCHEMA,
        ("mask", pa.string()),
        ("mask_bytes", pa.int64()),
        ("mask_changed_ns", pa.int64()),
        ("value", pa.list_(pa.int64())),  # each value of the mask
        ("count", pa.list_(pa.int64())),  # pixels that have it
    ]
)
_AT_ONCE = 8  # rows a thread takes in one go
_BLOCK = 1 << 20  # bytes read in one go


@dataclass(frozen=True)
class Labelled:
    """What N rows hold.

    looked    what is in the images, as of pictures; their reasons say also why a mask cannot be used
    values    how many pixels each value in a row's mask has
    """

    looked: Inspection
    values: list[Counter[int]]


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

    def one(row: int) -> dict[str, Any]:
        about = None if rows is None else rows.slice(row, 1).to_pylist()[0]
        return _of_row(found.root, found.files[row], masks[row], picture=about, examine=examine, reader=reader)

    def gone(row: int) -> dict[str, Any]:
        given_up = look.given_up(found.files[row], patient.TOO_LONG.format(patience))
        return given_up | {"mask": masks[row], "mask_bytes": -1, "mask_changed_ns": -1, "value": [], "count": []}

    def some(part: list[int]) -> tuple[list[int], list[dict[str, Any]]]:
        return part, patient.answers(one, part, patience=patience, given_up=gone)

    todo = np.flatnonzero(place_N < 0).tolist()
    parts = [todo[at : at + _AT_ONCE] for at in range(0, len(todo), _AT_ONCE)]
    with ThreadPoolExecutor(usable_cpus() if workers is None else workers) as threads:
        table = kept.completed(known, place_N, threads.map(some, parts), progress=progress)
    values = [
        Counter(dict(zip(value, count, strict=True)))
        for value, count in zip(table["value"].to_pylist(), table["count"].to_pylist(), strict=True)
    ]
    notes = tuple(dict.fromkeys(filter(None, [kept.note, *(pictures.notes if pictures else ())])))
    opened = len(todo) if pictures is None else max(len(todo), pictures.new)
    return Labelled(Inspection(table.select(look.SCHEMA.names), opened, notes), values)


def _holding(found: Listing, known: pa.Table, place_N: np.ndarray) -> np.ndarray:
    """The place of each row in what is known; -1 where its image or its mask is another than then."""
    assert found.others is not None, "the caller listed masks"
    same_N = np.array(
        [
            at >= 0 and known["mask"][at].as_py() == mask
            for at, mask in zip(place_N.tolist(), found.others, strict=True)
        ],
        bool,
    )
    asked_N = np.where(same_N, place_N, -1)
    of_masks = known.select(["mask", "mask_bytes", "mask_changed_ns"]).rename_columns(
        [name for name, _ in remembered.STATE]
    )
    held_N = remembered.holding(found.root, found.files, known, asked_N)
    held_N &= remembered.holding(found.root, found.others, of_masks, asked_N)
    return np.where(held_N, place_N, -1)


def _of_row(
    root: Path,
    file: str,
    mask: str,
    *,
    picture: dict[str, Any] | None,
    examine: Callable[[str, str], tuple[np.ndarray | None, np.ndarray]],
    reader: ModuleType,
) -> dict[str, Any]:
    """What is known of an image or field with its mask, a row of _SCHEMA.

    picture   what was found about the image; None where it is a field
    """
    mask_bytes, mask_changed_ns = headers.state(f"{root}/{mask}")
    image_HWC, value_HW, reason = None, None, ""
    try:
        contents = [_content(f"{root}/{name}") for name in (file, mask)]
        image_HWC, value_HW = examine(file, mask)
    except (DataError, OSError) as error:
        contents, reason = [0, 0], str(error)
    about = (
        _of_field(root, file, image_HWC, reason)
        if picture is None
        else _with_mask(picture, mask, value_HW, reason, reader)
    )
    value, count = ([], []) if value_HW is None else (part.tolist() for part in np.unique(value_HW, return_counts=True))
    content = int(headers.content_of_both(np.array([contents], np.uint64))[0])
    state = {"mask": mask, "mask_bytes": mask_bytes, "mask_changed_ns": mask_changed_ns}
    return about | state | {"content": content, "value": value, "count": count}


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
    height, width, channels = image_HWC.shape
    wide_CP = image_HWC.reshape(-1, channels).T
    per_channel = [look.of_numbers(values) for values in wide_CP]
    columns = {name: [value for one in per_channel for value in one[name]] for name in per_channel[0]}
    none = sum(columns["none"])
    worst = int(np.argmax(columns["none"]))
    grey = look.grey(image_HWC[..., 0])
    same, turned = likeness.likeness(grey), likeness.turned(grey)
    return row | columns | {
        "width": width,
        "height": height,
        "checksum": xxhash.xxh3_128_hexdigest(np.ascontiguousarray(image_HWC).data),
        "format": file.rpartition(".")[2].upper(),
        "mode": f"{channels} channels",
        "kind": f"{channels} channels",
        "likeness": same,
        "turned": turned,
        "reason": f"{none} of its numbers are NaN or infinite, most of them in channel {worst}" if none else "",
    }  # fmt: skip
