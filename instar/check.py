"""Check: files -> findings. What is wrong with a data set before anything learns from it; nothing of it is changed.

Read top to bottom: look at every file, divide as a training would, then compare: copies, look-alikes, leaks.

Legend: N files, P pairs.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from instar.engine.scan import headers, inspection, twins
from instar.engine.scan.headers import Headers
from instar.engine.scan.inspection import Inspection
from instar.engine.scan.labelled import Labelled
from instar.engine.scan.listing import ENDINGS, Listing
from instar.engine.scan.twins import Same
from instar.errors import DataError
from instar.manifest import SPLITS, Manifest, Skipped

_BINS = 24


@dataclass(frozen=True)
class Findings:
    """What was found about N files.

    found       the files, with labels
    looked      what is in them
    reason_N    why a file cannot be used; '' where it can
    split_N     the split a training would put it in; '' for none
    manifest    the division; None where training would refuse the data, and `refusal` says why
    skipped     what no row can be made of
    copies      files with the same bytes
    alike       pairs of pictures that look alike; `all_alike` is whether there are no more
    torn        groups that are in more than one split, with these
    values      where pixels have labels, how many of them each value in the mask of a row has
    """

    found: Listing
    looked: Inspection
    reason_N: np.ndarray
    split_N: np.ndarray
    manifest: Manifest | None
    refusal: str
    skipped: tuple[Skipped, ...]
    copies: tuple[Same, ...]
    alike: tuple[Same, ...]
    all_alike: bool
    torn: tuple[tuple[str, tuple[str, ...]], ...]
    values: tuple[Counter[int], ...] | None = None

    @property
    def broken(self) -> list[Skipped]:
        """The files that cannot be used, with reasons."""
        bad = np.flatnonzero(self.reason_N != "").tolist()
        return [*self.skipped, *(Skipped(self.found.files[row], str(self.reason_N[row])) for row in bad)]

    @property
    def count(self) -> int:
        """How many things were found that somebody should look at."""
        return len(self.broken) + len(self.copies) + len(self.alike) + len(self.torn) + bool(self.refusal)

    def name(self, row: int) -> str:
        """What a file's row is called in a manifest."""
        return (self.found.ids or self.found.files)[row]


def check(
    found: Listing,
    divide: Callable[[Headers], Manifest],
    *,
    workers: int | None = None,
    labelled: Callable[[Callable[[int], None]], Labelled] | None = None,
    patience: float = inspection.PATIENCE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Look at every file of a listing, and find what is wrong with the whole.

    divide     makes the manifest a training would have; its DataError becomes `refusal`
    workers    processes that look; None for one a usable processor
    patience   seconds one file may take before it counts as broken
    labelled   looks at the rows, where pixels have labels or they are packed
    progress   told how many of how many files were looked at
    """
    total, values = len(found.files), None
    if labelled is not None:
        seen = labelled(lambda done: progress(done, total))
        looked, values = seen.looked, None if seen.values is None else tuple(seen.values)
        heads = looked.headers() if seen.heads is None else seen.heads
    else:
        told = partial(_told_of, progress, total)
        looked = inspection.inspect(found.root, found.files, workers=workers, patience=patience, progress=told)
        heads = looked.headers()
    if found.others is not None and labelled is None:
        pictures = all(file.lower().endswith(ENDINGS) for file in found.others)
        heads = headers.of_both(heads, (headers.check if pictures else headers.plain)(found.root, found.others))
    manifest, refusal = None, ""
    try:
        manifest = divide(heads)
    except DataError as error:
        refusal = str(error)
    if values is not None and manifest is not None:
        heads = replace(heads, reason_N=_with_strangers(heads.reason_N, values, manifest.statistics["codes"]))
    split_N = _splits(found, manifest)
    copies = tuple(twins.copies(found, looked, split_N))
    alike, whole = twins.alike(found, looked, split_N, copies)
    return Findings(
        found=found,
        looked=looked,
        reason_N=heads.reason_N,
        split_N=split_N,
        manifest=manifest,
        refusal=refusal,
        skipped=tuple(found.skipped),
        copies=copies,
        alike=alike,
        all_alike=whole,
        torn=tuple(twins.torn(found, split_N)),
        values=values,
    )


def _told_of(progress: Callable[[int, int], None], total: int, done: int) -> None:
    progress(done, total)


def _with_strangers(reason_N: np.ndarray, values: Sequence[Counter[int]], codes: dict[str, Any]) -> np.ndarray:
    """The reasons, with that of masks that hold values which are no classes."""
    told_N = reason_N.copy()
    if codes.get("threshold") is not None:
        return told_N
    known = {*codes["values"], *codes["ignored"]}
    for row, counts in enumerate(values):
        strange = {value: count for value, count in counts.items() if value not in known}
        if strange and not told_N[row]:
            listed = ", ".join(f"{value} ({count} pixels)" for value, count in sorted(strange.items())[:4])
            told_N[row] = f"its mask holds {listed}, which is no class"
    return told_N


def pixels(findings: Findings) -> dict[str, Any]:
    """Pixels of each class over all good rows, and in how many rows it is; nothing where pixels have no labels."""
    if findings.values is None or findings.manifest is None:
        return {}
    manifest = findings.manifest
    codes = manifest.statistics["codes"]
    numbers = {value: number for number, value in enumerate(codes["values"])}
    total, present, unknown = Counter[int](), Counter[int](), 0
    for row in np.flatnonzero(findings.reason_N == "").tolist():
        of_row = Counter[int]()
        for value, count in findings.values[row].items():
            number = int(value >= codes["threshold"]) if codes.get("threshold") is not None else numbers.get(value)
            if number is None:
                unknown += count
            else:
                of_row[number] += count
        total.update(of_row)
        present.update(of_row.keys())
    everything = max(1, total.total())
    classes = {
        name: {"pixels": total[number], "share": total[number] / everything, "images": present[number]}
        for number, name in enumerate(manifest.classes)
    }
    return {"classes": classes, "unknown": unknown}


def _splits(found: Listing, manifest: Manifest | None) -> np.ndarray:
    if manifest is None:
        return np.array(found.splits or [""] * len(found.files), object)
    split_of = dict(zip(manifest.ids, manifest.table["split"].to_pylist(), strict=True))
    return np.array([split_of.get(name, "") for name in found.ids or found.files], object)


# --- what is told --------------------------------------------------------------------------------------------------


def facts(findings: Findings) -> dict[str, Any]:
    """Everything that was found, as plain JSON values."""
    found, looked = findings.found, findings.looked
    good_N = findings.reason_N == ""
    width_N, height_N = looked.column("width")[good_N], looked.column("height")[good_N]
    bytes_N = looked.column("bytes")
    return {
        "root": str(found.root),
        "files": len(found.files),
        "images": int(good_N.sum()),
        "bytes": int(bytes_N[bytes_N > 0].sum()),
        "opened": looked.new,
        "ignored": found.ignored,
        "classes": classes(findings),
        "imbalance": imbalance(findings),
        "width": _spread(width_N),
        "height": _spread(height_N),
        "aspect": _spread(width_N / np.maximum(height_N, 1), digits=3),
        "sides": _histogram(np.minimum(width_N, height_N), whole=True),
        "aspects": _histogram(width_N / np.maximum(height_N, 1)),
        "modes": _counts(looked.column("mode")[good_N]),
        "formats": _counts(looked.column("format")[good_N]),
        "channels": [asdict(channel) for channel in inspection.channels(looked.table)],
        "splits": {name: count for name in SPLITS if (count := findings.split_N.tolist().count(name))},
        "broken": [{"file": one.file, "reason": one.reason} for one in findings.broken],
        "copies": [_told(findings, same) for same in findings.copies],
        "alike": [_told(findings, same) for same in findings.alike],
        "all_alike": findings.all_alike,
        "groups_in_two_splits": {group: list(splits) for group, splits in findings.torn},
        "refusal": findings.refusal,
        "masks": pixels(findings),
        "notes": notes(findings),
        "findings": findings.count,
    }


def classes(findings: Findings) -> dict[str, dict[str, int]]:
    """Good images of each class, in all and by split; the largest class first."""
    counts: dict[str, Counter[str]] = {}
    triples = zip(findings.found.labels, findings.split_N.tolist(), findings.reason_N.tolist(), strict=True)
    for label, split, reason in triples:
        if not reason:
            counts.setdefault(label, Counter()).update({"images": 1, split: 1})
    ordered = sorted(counts, key=lambda label: (-counts[label]["images"], label))
    return {label: {name: counts[label][name] for name in ("images", *SPLITS)} for label in ordered}


def imbalance(findings: Findings) -> float:
    """How many times more images the largest class has than the smallest; 0 without classes."""
    sizes = [count["images"] for count in classes(findings).values()]
    return round(max(sizes) / min(sizes), 2) if sizes else 0.0


def notes(findings: Findings) -> list[str]:
    """Sentences on what else should be known."""
    manifest = findings.manifest
    told = manifest.statistics["notes"] if manifest else [*findings.found.notes, *findings.looked.notes]
    if not findings.all_alike:
        told = [*told, "so many pictures look alike that not every pair of them is listed"]
    return list(dict.fromkeys(told))


def quarantine(findings: Findings) -> list[tuple[str, str]]:
    """Ids to leave out, with reasons: broken files; of copies all but the first; all, where their labels differ.

    Pictures that merely look alike are not among them: whether they are the same is for a person to say.
    """
    bad = np.flatnonzero(findings.reason_N != "").tolist()
    listed = [(findings.name(row), str(findings.reason_N[row])) for row in bad]
    for same in findings.copies:
        if len(same.labels) > 1:
            reason = f"the same picture under {len(same.labels)} labels: {', '.join(same.labels)}"
            listed += [(findings.name(row), reason) for row in same.rows]
        else:
            # What is scored stays, so that a test set that others use too is still the same.
            rank = {row: -SPLITS.index(findings.split_N[row] or "train") for row in same.rows}
            first, *others = sorted(same.rows, key=lambda row: (rank[row], row))
            listed += [(findings.name(row), f"a copy of {findings.name(first)}") for row in others]
    return listed


def _told(findings: Findings, same: Same) -> dict[str, Any]:
    told: dict[str, Any] = {
        "rows": [
            {"id": findings.name(row), "label": findings.found.labels[row], "split": findings.split_N[row]}
            for row in same.rows
        ],
        "labels": list(same.labels),
        "splits": list(same.splits),
    }
    return told if same.distance is None else {**told, "distance": same.distance, "turned": same.turned}


def _spread(value_N: np.ndarray, digits: int = 0) -> dict[str, float]:
    """Smallest, median and largest."""
    if not len(value_N):
        return {}
    ends = {"least": value_N.min(), "median": np.median(value_N), "most": value_N.max()}
    return {name: round(float(value), digits) if digits else int(value) for name, value in ends.items()}


def _histogram(value_N: np.ndarray, *, whole: bool = False) -> dict[str, list[float]]:
    """Counts between edges of equal ratio.

    whole   the values are whole numbers, and the edges too
    """
    if not len(value_N):
        return {"edges": [], "counts": []}
    low, high = float(value_N.min()), float(value_N.max())
    edges = np.geomspace(low, max(high, low * 1.000001), _BINS + 1) if high > low else np.array([low, low])
    edges = np.unique(np.round(edges)) if whole else np.unique(np.round(edges, 3))
    if len(edges) < 2:
        return {"edges": [float(edges[0])] * 2, "counts": [len(value_N)]}
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return {"edges": edges.tolist(), "counts": np.histogram(value_N, edges)[0].tolist()}


def mosaic(findings: Findings, each: int) -> dict[str, list[str]]:
    """For each class, the largest first, the ids of some good images, spread over its files."""
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(findings.reason_N == "").tolist():
        rows_of.setdefault(findings.found.labels[row], []).append(row)
    return {
        label: [findings.name(rows_of[label][at * len(rows_of[label]) // each]) for at in range(each)]
        if len(rows_of[label]) > each
        else [findings.name(row) for row in rows_of[label]]
        for label in classes(findings)
    }


def _counts(value_N: np.ndarray) -> dict[str, int]:
    return {str(name): count for name, count in Counter(value_N.tolist()).most_common()}
