"""Twins: rows that are one picture, and groups that are in two splits; what leaks comes first.

Legend: N rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from instar.engine.scan import likeness
from instar.engine.scan.inspection import Inspection
from instar.engine.scan.listing import Listing
from instar.manifest import SPLITS

ALIKE = 6  # bits of 64 in which pictures may differ: on CIFAR-10 nearly all pairs up to here are the same scene


@dataclass(frozen=True)
class Same:
    """Rows that are one picture: copies of one file, or pictures that look alike.

    rows       numbers of the files
    labels     their labels, each once, sorted
    splits     the splits they are in, each once
    distance   bits of 64 in which their likeness differs; None for copies
    turned     whether they are alike only when one of them is mirrored or turned
    """

    rows: tuple[int, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    distance: int | None = None
    turned: bool = False

    @property
    def leaks(self) -> bool:
        """Whether one of them is learnt from and another scored, or one of the labels is wrong."""
        return len(self.labels) > 1 or len(self.splits) > 1


def copies(found: Listing, looked: Inspection, split_N: np.ndarray) -> Iterator[Same]:
    """Files with the same bytes, those that leak first."""
    checksum_N = looked.column("checksum").astype(str)
    usable = np.flatnonzero((checksum_N != "") & (looked.column("reason").astype(str) == ""))
    _, number, count = np.unique(checksum_N[usable], return_inverse=True, return_counts=True)
    of_many = np.flatnonzero(count[number] > 1)
    order = of_many[np.argsort(number[of_many], kind="stable")]
    parts = np.split(usable[order], np.flatnonzero(np.diff(number[order])) + 1) if len(order) else []
    yield from sorted((_same(part.tolist(), found, split_N) for part in parts), key=_order)


def alike(
    found: Listing, looked: Inspection, split_N: np.ndarray, copies: tuple[Same, ...]
) -> tuple[tuple[Same, ...], bool]:
    """Pairs of pictures that look alike and are no copies, those that leak first. Of copies the first stands."""
    pairs: dict[tuple[int, int], tuple[int, bool]] = {}
    all_of_them = True
    for name in ("likeness", "turned"):
        hash_N = looked.column(name).copy()
        for same in copies:
            hash_N[list(same.rows[1:])] = 0
        first, second, differ, whole = likeness.pairs(hash_N, ALIKE)
        all_of_them = all_of_them and whole
        for a, b, bits in zip(first.tolist(), second.tolist(), differ.tolist(), strict=True):
            pairs.setdefault((a, b), (bits, name == "turned"))
    made = (_same([a, b], found, split_N, bits, turned=turned) for (a, b), (bits, turned) in pairs.items())
    return tuple(sorted(made, key=_order)), all_of_them


def _same(
    rows: list[int], found: Listing, split_N: np.ndarray, distance: int | None = None, *, turned: bool = False
) -> Same:
    labels = tuple(sorted({found.labels[row] for row in rows}))
    present = {split_N[row] for row in rows}
    return Same(tuple(rows), labels, tuple(name for name in SPLITS if name in present), distance, turned)


def _order(same: Same) -> tuple[Any, ...]:
    """Two labels first, then two splits, then the nearest."""
    return len(same.labels) < 2, len(same.splits) < 2, same.distance or 0, same.rows


def torn(found: Listing, split_N: np.ndarray) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Groups that are in more than one split; only a table or folders that divide can do that."""
    splits: dict[str, set[str]] = {}
    for group, split in zip(found.groups or (), split_N.tolist(), strict=False):
        if group is not None and split:
            splits.setdefault(group, set()).add(split)
    for group in sorted(splits):
        if len(splits[group]) > 1:
            yield group, tuple(name for name in SPLITS if name in splits[group])
