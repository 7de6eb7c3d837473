"""Frozen: a split that was made stays made. What differs between two manifests, and the later one with the earlier's
splits.

Legend: N rows.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from instar.engine.scan.listing import named
from instar.manifest import Manifest

_SHOWN = 3


@dataclass(frozen=True)
class Changes:
    """What differs, each a list of ids: rows that are new, gone, or known by their content under another name; rows of
    which the content, the label or the split is another."""

    new: list[str]
    gone: list[str]
    renamed: list[str]
    content: list[str]
    label: list[str]
    split: list[str]

    def lines(self) -> list[str]:
        """One line for each kind that there is: `3 new: a/1.jpg …`."""
        told = {
            "new": self.new,
            "gone": self.gone,
            "renamed": self.renamed,
            "with another content": self.content,
            "with another label": self.label,
            "in another split": self.split,
        }
        return [f"{len(ids)} {what}: {named(ids, _SHOWN)}" for what, ids in told.items() if ids]


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


def changes(before: Manifest, after: Manifest) -> Changes:
    """What differs between two manifests."""
    old, new = _rows(before), _rows(after)
    gone, added = [name for name in old if name not in new], [name for name in new if name not in old]
    contents = {old[name][0] for name in gone} - {0}
    renamed = [name for name in added if new[name][0] in contents]
    moved = {new[name][0] for name in renamed}
    both = [(name, old[name], new[name]) for name in new if name in old]
    return Changes(
        new=[name for name in added if new[name][0] not in moved],
        gone=[name for name in gone if old[name][0] not in moved],
        renamed=renamed,
        content=[name for name, was, now in both if was[0] != now[0]],
        label=[name for name, was, now in both if was[1] != now[1]],
        split=[name for name, was, now in both if was[2] != now[2]],
    )


def refusal(path: Path, changes: Changes, before: Manifest, after: Manifest) -> str:
    """Why the manifest in a file is not written over."""
    listed = "\n  ".join(changes.lines()) or "names of classes, or checksums"
    was, now = before.statistics.get("division") or {}, after.statistics.get("division") or {}
    differs = [f"{name} {was[name]} -> {now[name]}" for name in now if name in was and was[name] != now[name]]
    divided = f"\nThe recipe divides differently ({', '.join(differs)}), which moves no row that has its split."
    other = divided if differs else ""
    return (
        f"{path} holds another state of the data:\n  {listed}{other}\n"
        f"accept=true takes this one: known rows stay in their splits, new ones are placed. Or write another: to=FILE"
    )


def _rows(manifest: Manifest) -> dict[str, tuple[int, str, str]]:
    """Content, label and split of each row, by its id."""
    columns = [manifest.table[name].to_pylist() for name in ("content", "target", "split")]
    return {
        name: (content, manifest.classes[target], split)
        for name, content, target, split in zip(manifest.ids, *columns, strict=True)
    }
