"""Division: which split each row is in, and what the user should know of it.

Legend: N rows, M some of them, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from instar.engine.scan import split
from instar.engine.scan.headers import Headers
from instar.engine.scan.listing import Listing, named
from instar.errors import DataError
from instar.experiment import Split
from instar.manifest import SPLITS


def divided(
    found: Listing, heads: Headers, target_N: np.ndarray, classes: tuple[str, ...], *, shares: Split, seed: int
) -> tuple[np.ndarray, list[str]]:
    """The number of each row's split in SPLITS, int8, and notes on what the user should know."""
    group_N = None if found.groups is None else _numbered(found.groups)
    notes: list[str] = []

    def cut(rows: np.ndarray, shares: Split) -> tuple[np.ndarray, list[str]]:
        group_M = None if group_N is None else group_N[rows]
        if shares.method == "keyed":
            return _keyed(found, heads, rows, target_N[rows], group_M=group_M, shares=shares, seed=seed), []
        return _cut(target_N[rows], group_M, classes, shares, seed)

    if found.splits is not None:
        split_N = np.array([SPLITS.index(name) for name in found.splits], np.int8)
        if not np.any(split_N == split.VAL) and shares.val > 0:
            train = np.flatnonzero(split_N == split.TRAIN)
            inner = shares.model_copy(update={"test": 0.0})
            split_N[train], notes = cut(train, inner)
    else:
        split_N, notes = cut(np.arange(len(target_N)), shares)
    _all_are_trained(split_N, target_N, classes, found)
    return split_N, [*notes, *_unmeasured(split_N, target_N, classes)]


def _cut(
    target_N: np.ndarray, group_N: np.ndarray | None, classes: tuple[str, ...], shares: Split, seed: int
) -> tuple[np.ndarray, list[str]]:
    """A division made now: test is a share of everything, val a share of what is left."""
    if group_N is not None:
        test, val = shares.test, (1 - shares.test) * shares.val
        _, group_N = np.unique(group_N, return_inverse=True)
        whole = split.by_group(target_N, group_N, (1 - test - val, val, test), seed=seed, stratify=shares.stratify)
        return whole, []
    split_N = np.full(len(target_N), split.TRAIN, np.int8)
    left, notes = np.arange(len(target_N)), []
    for number, share in ((split.TEST, shares.test), (split.VAL, shares.val)):
        if share == 0:
            continue
        cut = split.shuffled(target_N[left], share, seed=seed, stratify=shares.stratify)
        if not len(cut.taken):
            raise DataError(
                f"no class has two images to share out ({named(classes)}): nothing can be kept for validation and "
                f"test. Add images, or write data.split.val=0 and data.split.test=0."
            )
        split_N[left[cut.taken]] = number
        left = left[cut.kept]
        if cut.raised:
            notes.append(f"the {SPLITS[number]} split got one image of each class, more than its share of {share:.3g}")
    return split_N, notes


def _keyed(
    found: Listing,
    heads: Headers,
    rows: np.ndarray,
    target_M: np.ndarray,
    *,
    group_M: np.ndarray | None,
    shares: Split,
    seed: int,
) -> np.ndarray:
    """A division by what each row is, or what its group is called: nothing moves because other rows came or went."""
    parts = (1 - shares.test - (1 - shares.test) * shares.val, (1 - shares.test) * shares.val, shares.test)
    ids = found.ids or found.files
    if group_M is not None:
        _, first, group_M = np.unique(group_M, return_index=True, return_inverse=True)
        assert found.groups is not None, "their numbers were made of them"
        names = [found.groups[row] or f"\0{ids[row]}" for row in rows[first].tolist()]
        return split.keyed_by_group(target_M, group_M, _keys(names), parts, seed=seed)
    key_M = heads.content_N[rows] if shares.key == "content" else _keys([ids[row] for row in rows.tolist()])
    return split.keyed(target_M, key_M, parts, seed=seed, stratify=shares.stratify)


def _keys(names: Sequence[str]) -> np.ndarray:
    """A hash of each name, uint64."""
    return np.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in names), np.uint64, len(names))


def _numbered(groups: list[str | None]) -> np.ndarray:
    """A number for each group; a row without one is a group of its own."""
    numbers: dict[Any, int] = {}
    return np.array(
        [numbers.setdefault((row,) if name is None else name, len(numbers)) for row, name in enumerate(groups)]
    )


def _all_are_trained(split_N: np.ndarray, target_N: np.ndarray, classes: tuple[str, ...], found: Listing) -> None:
    trained_K = np.bincount(target_N[split_N == split.TRAIN], minlength=len(classes))
    if np.all(trained_K > 0):
        return
    missing = [classes[number] for number in np.flatnonzero(trained_K == 0)]
    raise DataError(
        f"{found.root}: {len(missing)} classes have images to validate or test on, and none to train on: "
        f"{named(missing)}. Is a name spelt differently there? Else move images to train, or take these classes out."
    )


def _unmeasured(split_N: np.ndarray, target_N: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """Notes on splits that are empty, and on classes that are too small to be in every split."""
    notes = []
    for number in (split.VAL, split.TEST):
        counts_K = np.bincount(target_N[split_N == number], minlength=len(classes))
        if not counts_K.any():
            notes.append(f"there is no {SPLITS[number]} split")
        elif not counts_K.all():
            missing = [classes[one] for one in np.flatnonzero(counts_K == 0)]
            notes.append(
                f"{len(missing)} classes have no image in the {SPLITS[number]} split, so their score is unknown there: "
                f"{named(missing)}. data.min_per_class leaves small classes out."
            )
    return notes
