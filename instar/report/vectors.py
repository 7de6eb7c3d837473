"""What vectors without labels look like: headline, an alarm where they collapsed, and who finds whom.

A row has two pictures: what the one sensor saw, and its partner, what the other one did. N rows, D features.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from instar.metrics import vectors as metrics
from instar.report import thumbnails
from instar.report.blocks import Alarm, Facts, Headline, Note, Number, Section, Sets, Tile, Together
from instar.vectors import Vectors

THIN = "\N{NARROW NO-BREAK SPACE}"
_SHOWN = 24

MISSED_LEAD = (
    "Rows whose partner was not the nearest of all, the most confident mistake first: the row, its partner, and what "
    "was taken for it."
)


def sections(found: Vectors, scores: Mapping[str, Any]) -> list[Section]:
    """All sections; the first, which has no title, opens the page."""
    if not scores.get("rows"):
        return [Section("", (Note("Not one row could be read, so there is nothing to score."),))]
    why = metrics.collapsed(scores)
    banner = (Alarm(f"Collapsed: {why}. The scores below mean nothing."),) if why else ()
    notes = []
    if scores.get("unread"):
        notes.append(Note(f"{scores['unread']} rows could not be read. events.jsonl names them; no score counts them."))
    made = [Section("", (*banner, headline(found, scores), *notes))]
    made.append(Section("Vectors", (facts(found, scores),), "Whether different rows get different vectors."))
    return made + mistakes(found)


def headline(found: Vectors, scores: Mapping[str, Any]) -> Headline:
    """Retrieval first, then what tells whether anything is learnt."""
    numbers = []
    if "retrieval" in scores:
        partner = "the other sensor's picture" if "other" in found.vector_ND else "another view of it"
        interval = scores["intervals"]["retrieval"]
        numbers.append(
            Number(
                "retrieval",
                _percent(scores["retrieval"]),
                f"{partner} is the nearest of {scores['rows']}",
                scores["retrieval"],
                tuple(interval),
                scores["chance"],
            )
        )
        top = f"retrieval_{metrics.TOP}"
        numbers.append(Number(f"among {metrics.TOP}", _percent(scores[top]), "nearest", scores[top]))
    if "knn" in scores:
        chance = 1 / max(1, len(found.classes))
        note = f"{metrics.NEIGHBOURS} nearest rows vote for the class"
        numbers.append(Number("kNN", _percent(scores["knn"]), note, scores["knn"], None, chance))
    numbers.append(Number("effective rank", f"{scores['effective_rank']:.1f}", "directions in which rows differ"))
    return Headline(tuple(numbers))


def facts(found: Vectors, scores: Mapping[str, Any]) -> Facts:
    """Spread, cosine and width."""
    widths = ", ".join(f"{name} {one.shape[1]}" for name, one in found.vector_ND.items() if name != "again")
    pairs: list[tuple[str, Any]] = [
        ("rows", scores["rows"]),
        ("width", widths),
        ("std", f"{scores['std']:.3g}, the mean deviation of features"),
        ("spread", f"{scores['spread']:.3f} of 1, which scattered vectors have"),
        ("mean cosine", f"{scores['cosine']:.3f} between different rows; 1 where all are one"),
    ]
    for name, text in (("forward", "first finds second"), ("backward", "second finds first")):
        if f"retrieval_{name}" in scores:
            pairs.append((text, _percent(scores[f"retrieval_{name}"])))
    return Facts(tuple(pairs))


def mistakes(found: Vectors) -> list[Section]:
    """Rows whose partner was not found, beside the row that was taken for it."""
    rows = np.flatnonzero(found.known_N)
    both = metrics.pair({name: one[rows] for name, one in found.vector_ND.items()})
    if both is None or len(rows) < 2:
        return []
    second = "other" if "other" in found.vector_ND else "again"
    margin_N, rival_N = metrics.margins(*both)
    wrong = [(one, int(rival_N[one])) for one in np.argsort(margin_N, kind="stable").tolist() if margin_N[one] <= 0]
    if not wrong:
        return []
    sets = tuple(
        Together(
            found.ids[rows[one]],
            (
                _tile(found, rows[one], "image", "asked"),
                _tile(found, rows[one], second, "its partner"),
                _tile(found, rows[two], second, "taken for it"),
            ),
        )
        for one, two in wrong[:_SHOWN]
    )
    return [Section("Mistakes", (Sets(sets, shown=8),), MISSED_LEAD)]


def _tile(found: Vectors, row: int, branch: str, note: str) -> Tile:
    label = int(found.label_N[row])
    name = found.classes[label] if 0 <= label < len(found.classes) else ""
    picture = thumbnails.kept(found.preview[branch][row]) if branch in found.preview else thumbnails.Thumbnail("")
    return Tile(picture.source, found.ids[row], f"{note}, {name}" if name else note, tiny=picture.tiny)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}{THIN}%"
