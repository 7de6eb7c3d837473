"""Usable: which of the files that were listed and looked at are learnt from, and which classes that leaves.

Legend: N rows, K classes.
"""

import unicodedata
from collections import Counter

import numpy as np

from instar.engine.scan import listing, paired, pairs, tables
from instar.engine.scan.headers import Headers
from instar.engine.scan.listing import Listing, named
from instar.errors import DataError
from instar.experiment import Data
from instar.manifest import Skipped
from instar.readers import _images as images
from instar.readers import _matching

_SHOWN = 5


def rows(found: Listing, heads: Headers, data: Data) -> tuple[list[int], list[Skipped]]:
    """Rows whose files are images, and everything left out so far; raises DataError where too much is bad."""
    span = getattr(data.reader, "span", None)
    against = {kind: images.reason_against(kind, span) for kind in set(heads.mode_N)}
    reason_N = [reason or against[kind] for reason, kind in zip(heads.reason_N, heads.mode_N, strict=True)]
    skipped = [*found.skipped, *(Skipped(f, reason) for f, reason in zip(found.files, reason_N, strict=True) if reason)]
    bad, total = broken(skipped), len(found.files) + broken(found.skipped)
    # One bad file in a small folder is no reason to stop, unless it was said that none may be bad.
    if bad > max(data.max_bad * total, 1 if data.max_bad else 0):
        first = [f"{listing.printable(file)!r}: {reason}" for file, reason in skipped if _is_broken(reason)][:_SHOWN]
        raise DataError(
            f"{found.root}: {bad} of {total} files cannot be used, more than data.max_bad = {data.max_bad:.1%}:\n  "
            + "\n  ".join(first)
            + ("\n  …" if bad > len(first) else "")
            + "\nMend or remove them, or write a larger data.max_bad to leave them out."
        )
    return [row for row, reason in enumerate(reason_N) if not reason], skipped


def _is_broken(reason: str) -> bool:
    return reason not in _NOT_BROKEN and not reason.startswith(_NO_PAIRS)


_NOT_BROKEN = (tables.TWICE, listing.NO_CLASSES, listing.CIRCLE)
_NO_PAIRS = (pairs.APART, pairs.NO_PAIR, paired.COPY, _matching.ALONE, _matching.TWICE)


def broken(skipped: list[Skipped]) -> int:
    return sum(_is_broken(one.reason) for one in skipped)


def large_enough(labels: list[str], least: int) -> tuple[list[int], dict[str, int]]:
    """Rows of classes with at least `least` images, and how many images each other class has."""
    counts = Counter(labels)
    rare = {label: counts[label] for label in sorted(counts) if counts[label] < least}
    return [row for row, label in enumerate(labels) if label not in rare], rare


def classes(found: Listing, rare: dict[str, int], data: Data) -> tuple[tuple[str, ...], np.ndarray]:
    """The sorted names of the classes, and each row's number among them, int32."""
    names = sorted(set(found.labels))
    if len(names) < 2 and not (names and found.others):  # what learns from pairs may need no labels
        raise DataError(_too_few_classes(found, names, rare, data))
    numbers = {name: number for number, name in enumerate(names)}
    return tuple(names), np.fromiter((numbers[label] for label in found.labels), np.int32, len(found.labels))


def _too_few_classes(found: Listing, names: list[str], rare: dict[str, int], data: Data) -> str:
    what = f"only one class, {named(names)}, with {len(found.files)} images" if names else "no usable image"
    if rare:
        return (
            f"{found.root}: {what}, once {len(rare)} classes with fewer than {data.min_per_class} images are left out "
            f"(the largest has {max(rare.values())}). Write a smaller data.min_per_class."
        )
    inside = sorted({file.split("/")[1] for file in found.files if file.count("/") > 1})
    if names and len(inside) > 1:
        return (
            f"{found.root}: {what}; the folders in it look like the classes ({named(inside)}). "
            f"Write data.root={found.root / names[0]}"
        )
    return f"{found.root}: {what}. It takes two to tell apart: a folder of images for each class, or a table of labels."


def alike(classes: tuple[str, ...]) -> list[str]:
    """A note on names of classes that look the same to a reader: other case, or accents composed differently."""
    seen: dict[str, list[str]] = {}
    for name in classes:
        seen.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    twins = [name for names in seen.values() if len(names) > 1 for name in names]
    return [f"these are different classes, though their names look alike: {named(twins)}"] if twins else []
