"""Frozen: a split that was made stays made. A later manifest with an earlier one's splits, and what else differs.

Legend: N rows.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from instar.engine.scan.headers import Headers
from instar.engine.scan.listing import Listing, named
from instar.errors import DataError
from instar.experiment import Data
from instar.manifest import Manifest

Changes = dict[str, list[str]]  # what manifest.changes gives

_SHOWN = 3
_NAMED = 5


def with_splits_of(before: Manifest, after: Manifest) -> Manifest:
    """The later manifest with every row that the earlier one knows, by name, group or content, in its split."""
    split_of = dict(zip(before.ids, before.table["split"].to_pylist(), strict=True))
    of_content = dict(zip(before.table["content"].to_pylist(), split_of.values(), strict=True))
    of_content.pop(0, None)
    of_group = dict(zip(before.table["group"].to_pylist(), split_of.values(), strict=True))
    of_group.pop(None, None)
    columns = [after.table[name].to_pylist() for name in ("id", "content", "group", "split")]
    split_N = [
        split_of.get(name) or of_group.get(group) or of_content.get(content) or split
        for name, content, group, split in zip(*columns, strict=True)
    ]
    place = after.table.schema.get_field_index("split")
    table = after.table.set_column(place, after.table.schema.field("split"), pa.array(split_N, pa.string()))
    counts = {name: split_N.count(name) for name in after.statistics.get("splits", {})}
    return replace(after, table=table, statistics={**after.statistics, "splits": counts})


def lines(changes: Changes) -> list[str]:
    """One line for each kind of change that there is: `3 new: 'a/1.jpg' …`."""
    return [f"{len(ids)} {what}: {named(ids, _SHOWN)}" for what, ids in changes.items() if ids]


def refusal(path: Path, changes: Changes, before: Manifest, after: Manifest) -> str:
    """Why the manifest in a file is not written over."""
    listed = "\n  ".join(lines(changes)) or "names of classes, or checksums"
    was, now = before.statistics.get("division") or {}, after.statistics.get("division") or {}
    differs = [f"{name} {was[name]} -> {now[name]}" for name in now if name in was and was[name] != now[name]]
    divided = f"\nThe recipe divides differently ({', '.join(differs)}), which moves no row that has its split."
    other = divided if differs else ""
    return (
        f"{path} holds another state of the data:\n  {listed}{other}\n"
        f"accept=true takes this one: known rows stay in their splits, new ones are placed. Or write another: to=FILE"
    )


def as_packed(rows: Manifest, found: Listing, heads: Headers, data: Data, statistics: dict[str, Any]) -> Manifest:
    """The rows of a manifest file as they are in packed data."""
    place = {name: row for row, name in enumerate(found.ids or found.files)}
    names = rows.ids if found.ids is not None else rows.table["file"].to_pylist()
    at_N = np.array([place.get(name, -1) for name in names], np.int64)
    reason_N = np.where(at_N < 0, "it is not in the packed data", heads.reason_N[at_N])
    here = replace(rows, root=found.root)
    return held_to(here, reason_N, heads.content_N[at_N], data, statistics)


def held_to(
    rows: Manifest, reason_N: np.ndarray, content_N: np.ndarray, data: Data, statistics: dict[str, Any]
) -> Manifest:
    """The rows of a manifest file; raises DataError where files are gone or not what they were."""
    path = data.manifest
    assert path is not None, "the caller read it"
    gone = np.flatnonzero(reason_N != "")
    changed = np.flatnonzero((reason_N == "") & (content_N != rows.table["content"].to_numpy()))
    if len(changed) or len(gone) > data.max_bad * len(rows):
        bad = changed if len(changed) else gone
        what = (
            "are not what they were" if len(changed) else f"cannot be used, more than data.max_bad = {data.max_bad:.1%}"
        )
        raise DataError(
            f"{path}: {len(bad)} of {len(rows)} files {what}: {named(rows.ids[row] for row in bad[:_NAMED].tolist())}"
            f"{' and more' if len(bad) > _NAMED else ''}. Bring them back, or make the manifest anew: instar prepare"
        )
    if len(gone):
        statistics["notes"] = [
            f"{len(gone)} files of {path.name} cannot be used: {named(rows.ids[row] for row in gone.tolist())}"
        ]
    return replace(rows, statistics=statistics)
