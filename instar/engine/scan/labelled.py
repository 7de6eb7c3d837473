"""Labelled: every pixel of images and fields with labels looked at once: what stands in masks, and what is no number.

A reader says by `examining` what a row holds. Legend: N rows, H W pixels, C channels.
"""

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
from instar.engine.scan import headers, inspection, likeness, look
from instar.engine.scan.inspection import Inspection
from instar.engine.scan.listing import Listing
from instar.errors import DataError
from instar.experiment import Data


@dataclass(frozen=True)
class Labelled:
    """What N rows hold.

    looked    what is in the images, as of pictures; their reasons say also why a mask cannot be used
    values    how many pixels each value in a row's mask has
    """

    looked: Inspection
    values: list[Counter[int]]


def inspect(
    found: Listing, data: Data, reader: ModuleType, *, workers: int | None = None, progress: Callable[[int], None]
) -> Labelled:
    """Look at every row. Pictures are remembered, masks and fields are read each time.

    progress   told how many rows are done, now and then
    """
    assert found.others is not None, "the caller listed masks"
    pictures = None
    if reader.packed_from == "folder":
        pictures = inspection.inspect(found.root, found.files, workers=workers, progress=progress)
    examine = reader.examining(data.reader, found.root)
    values: list[Counter[int]] = []
    rows: list[dict[str, Any]] = [] if pictures is None else pictures.table.to_pylist()

    def one(row: int) -> tuple[dict[str, Any], Counter[int]]:
        assert found.others is not None, "asserted above"
        file, mask = found.files[row], found.others[row]
        image_HWC, value_HW, reason = None, None, ""
        try:
            image_HWC, value_HW = examine(file, mask)
        except (DataError, OSError) as error:
            reason = str(error)
        if pictures is None:
            about = _of_field(found.root, file, image_HWC, reason)
        else:
            about = _with_mask(rows[row], mask, value_HW, reason, reader)
        return about, _counted(value_HW)

    with ThreadPoolExecutor(usable_cpus() if workers is None else workers) as threads:
        for number, (about, counts) in enumerate(threads.map(one, range(len(found.files)))):
            values.append(counts)
            if pictures is None:
                rows.append(about)
                progress(number + 1)
            else:
                rows[number] = about
    table = pa.Table.from_pylist(rows, look.SCHEMA)
    return Labelled(Inspection(table, len(rows) if pictures is None else pictures.new), values)


def _counted(value_HW: np.ndarray | None) -> Counter[int]:
    if value_HW is None:
        return Counter()
    value, count = np.unique(value_HW, return_counts=True)
    return Counter(dict(zip(value.tolist(), count.tolist(), strict=True)))


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


def contents(found: Listing) -> np.ndarray:
    """Fingerprints of both files of each row, as a manifest has them."""
    assert found.others is not None, "the caller listed masks"
    sides = [headers.plain(found.root, side) for side in (found.files, found.others)]
    return headers.of_both(*sides).content_N
