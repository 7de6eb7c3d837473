"""What a run has really seen of each class, beside what there is of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from instar.report.blocks import Bar, Bars, Section, Text


def section(metrics: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]) -> Section | None:
    """Bars of both for every class, those that are seen more often than they occur first; None where nothing is known.

    Rows are counted where the loss gets them, so this is what was learnt from, not what was meant to be.
    """
    classes, natural_K = plan.get("classes") or (), plan.get("class_counts_K") or ()
    counts = [line["seen"] for line in metrics if len(line.get("seen") or ()) == len(classes)]
    seen_K = [sum(column) for column in zip(*counts, strict=True)]
    if len(classes) < 2 or not sum(seen_K) or not sum(natural_K):
        return None
    shares = [[count / sum(count_K) for count in count_K] for count_K in (natural_K, seen_K)]
    largest = max(map(max, shares))
    order = sorted(range(len(classes)), key=lambda k: (natural_K[k], classes[k]))
    bars = tuple(Bar(classes[k], seen_K[k], (shares[0][k] / largest, shares[1][k] / largest)) for k in order)
    text = (
        f"The class that was seen most was seen {_ratio(seen_K)} times as often as the one that was seen least; "
        f"in the data the largest has {_ratio(natural_K)} times the images of the smallest."
    )
    block = Bars(("of the data", "of what was seen"), bars, count_name="seen", percent=False)
    return Section("Balance", (Text(text), block), "Counted where the loss gets its rows. The rarest class first.")


def _ratio(count_K: Sequence[int]) -> str:
    present = [count for count in count_K if count]
    return f"{max(present) / min(present):.3g}"
