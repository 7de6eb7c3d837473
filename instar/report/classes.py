"""What a classifier's predictions look like: headline, bars, confusion matrix, pictures, calibration.

N rows, K classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from instar.metrics import calibration as calibrations
from instar.metrics import counts
from instar.predictions import Predictions
from instar.report import thumbnails
from instar.report.blocks import Bar, Bars, Calibration, Confusion, Gallery, Headline, Note, Number, Picture

MOST_PICTURES = 400
MOST_BYTES = 4 * 2**20  # of thumbnails in one page: opens at once, and goes through any mail
MOST_CLASSES = 200  # in one confusion matrix
FIRST = 24  # most confident mistakes, whatever their cell
A_CELL = 12
A_CLASS = 3  # right answers shown

CLASSES_LEAD = "The worst first, by F1, the balance of precision and recall."
CONFUSIONS_LEAD = (
    "Rows are true classes. Colour is the share of the true class: blue where it was recognised, red where it was "
    "taken for another."
)
MISTAKES_LEAD = "The most confident first. Often it is the label that is wrong, not the model."
CALIBRATION_LEAD = "When the model says 90 %, is it right nine times in ten? Then the bars end on the diagonal."


def headline(scores: Mapping[str, Any], num_classes: int) -> Headline:
    """Accuracy with its interval first, then what accuracy hides."""
    rows, interval = scores["rows"], scores["intervals"]
    note = f"of {rows:,} images".replace(",", " ")
    numbers = [_share("accuracy", scores, interval, note=note, chance=1 / num_classes)]
    numbers += [_share("macro F1", scores, interval, key="macro_f1", note="every class counts the same")]
    top = max((name for name in scores if name.startswith("top_")), key=lambda name: int(name[4:]), default="")
    if top:
        numbers += [_share(f"top-{top[4:]}", scores, interval, key=top, note="right among the first guesses")]
    else:
        numbers += [_share("balanced", scores, interval, key="balanced_accuracy", note="mean recall of the classes")]
    off = f"{100 * scores['ece']:.1f}\N{NARROW NO-BREAK SPACE}%"
    numbers += [Number("calibration error", off, note="how far confidence is from accuracy")]
    return Headline(tuple(numbers))


def _share(
    name: str,
    scores: Mapping[str, Any],
    intervals: Mapping[str, Any],
    *,
    key: str = "",
    note: str,
    chance: float | None = None,
) -> Number:
    value, interval = scores[key or name], intervals.get(key or name)
    text = f"{100 * value:.1f}\N{NARROW NO-BREAK SPACE}%"
    return Number(name, text, note, value, tuple(interval) if interval else None, chance)


def left_out(predictions: Predictions, scores: Mapping[str, Any]) -> list[Note]:
    """What the scores do not speak of, or cannot."""
    notes = []
    unreadable = int(predictions.meta.get("unreadable", 0))
    if unreadable:
        notes.append(Note(f"{unreadable} images could not be read. events.jsonl names them; no score counts them."))
    if unlabelled := scores["unlabelled"] - unreadable:
        notes.append(Note(f"{unlabelled} images have no label: they are predicted, and no score counts them."))
    if scores["rows"] and scores["accuracy"] == 1:
        # Hanley & Lippman-Hand 1983: with no failure in n, 3/n is the upper end at 95 %.
        most = min(1.0, 3 / scores["rows"])
        notes.append(
            Note(
                f"Every row is right. Resampling cannot meet an error it never saw; "
                f"by the rule of three up to {100 * most:.1f} % of new images may still be wrong."
            )
        )
    return notes


def per_class(confusion_KK: np.ndarray, classes: tuple[str, ...]) -> Bars:
    """Precision, recall and F1 of every class, the worst first; classes without rows last."""
    found = counts.per_class(confusion_KK)
    order = np.lexsort((-found.support_K, found.f1_K, found.support_K == 0))
    return Bars(
        columns=("F1", "recall", "precision"),
        rows=tuple(
            Bar(
                classes[k],
                int(found.support_K[k]),
                (
                    float(found.f1_K[k]) if found.present_K[k] else None,
                    float(found.recall_K[k]) if found.support_K[k] else None,
                    float(found.precision_K[k]) if found.predicted_K[k] else None,
                ),
            )
            for k in order.tolist()
        ),
    )


def confusion(confusion_KK: np.ndarray, classes: tuple[str, ...]) -> list[Confusion | Note]:
    """The matrix; of more than MOST_CLASSES classes those with the most mistakes, and a note that says so."""
    K = len(classes)
    if K <= MOST_CLASSES:
        return [Confusion(classes, confusion_KK, tuple(range(K)))]
    hits_K = np.diagonal(confusion_KK)
    wrong_K = confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1) - 2 * hits_K
    kept = np.sort(np.argsort(-wrong_K, kind="stable")[:MOST_CLASSES])
    names = tuple(classes[k] for k in kept.tolist())
    note = f"{K} classes do not fit one matrix: these are the {MOST_CLASSES} with the most mistakes."
    return [Note(note), Confusion(names, confusion_KK[np.ix_(kept, kept)], tuple(kept.tolist()))]


def galleries(predictions: Predictions) -> tuple[Gallery, Gallery, list[Note]]:
    """The most confident mistakes; right answers that were least sure; and what was left out.

    Every cell of the confusion matrix has its pictures among them, up to the page's limits.
    """
    wrong = _mistakes(predictions)
    right = _doubtful(predictions)
    rows = np.concatenate([wrong[:MOST_PICTURES], right[: max(0, MOST_PICTURES - len(wrong))]])
    paths = [predictions.paths[row] for row in rows.tolist()]
    made = dict(zip(rows.tolist(), thumbnails.within(paths, most_bytes=MOST_BYTES), strict=False))
    kept_wrong = sorted(set(made) & set(wrong.tolist()), key=lambda row: -predictions.confidence_N[row])
    kept_right = [row for row in right.tolist() if row in made]
    pictures = {row: _picture(predictions, row, made[row]) for row in kept_wrong + kept_right}
    for row in {picture.cell: row for row, picture in reversed(pictures.items())}.values():
        pictures[row] = replace(pictures[row], first=True)
    notes = []
    total = int((predictions.known_N & ~predictions.correct_N).sum())
    if len(kept_wrong) < total:
        notes.append(
            Note(
                f"{len(kept_wrong)} of {total} mistakes have a picture here, to keep the page small: the {FIRST} most "
                f"confident ones, then the most confident of every cell. All rows are in the predictions file."
            )
        )
    if unreadable := sum(not picture.source for picture in pictures.values()):
        notes.append(Note(f"{unreadable} pictures could not be read when this page was made."))
    return (
        Gallery(tuple(pictures[row] for row in kept_wrong), shown=FIRST, more="more, of every kind of mistake"),
        Gallery(
            tuple(pictures[row] for row in kept_right), shown=0, more="right answers, the least sure of each class"
        ),
        notes,
    )


def calibration(predictions: Predictions) -> Calibration:
    """The reliability diagram of the rows whose label is known."""
    known_N = predictions.known_N
    return Calibration(calibrations.reliability(predictions.confidence_N[known_N], predictions.correct_N[known_N]))


def _mistakes(predictions: Predictions) -> np.ndarray:
    """Wrong rows in the order in which they deserve room: the most confident, then the best of each cell in turn."""
    wrong = np.flatnonzero(predictions.known_N & ~predictions.correct_N)
    wrong = wrong[np.argsort(-predictions.confidence_N[wrong], kind="stable")]
    cell = predictions.label_N[wrong].astype(np.int64) * len(predictions.classes) + predictions.prediction_N[wrong]
    turn = _occurrence(cell)
    rest = np.arange(len(wrong)) >= FIRST
    order = np.lexsort((np.arange(len(wrong)), np.where(rest, turn, -1)))
    return wrong[order][(~rest | (turn < A_CELL))[order]]


def _doubtful(predictions: Predictions) -> np.ndarray:
    """For each class the right rows that were least sure, in turn."""
    right = np.flatnonzero(predictions.correct_N)
    right = right[np.argsort(predictions.confidence_N[right], kind="stable")]
    turn = _occurrence(predictions.label_N[right])
    order = np.lexsort((predictions.label_N[right], turn))
    return right[order][turn[order] < A_CLASS]


def _occurrence(value_N: np.ndarray) -> np.ndarray:
    """How often each value came before in the array."""
    order = np.argsort(value_N, kind="stable")
    ordered = value_N[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else np.zeros(0, int)
    sizes = np.diff(np.append(starts, len(ordered)))
    turn = np.empty(len(value_N), np.int64)
    turn[order] = np.arange(len(ordered)) - np.repeat(starts, sizes)
    return turn


def _picture(predictions: Predictions, row: int, thumbnail: thumbnails.Thumbnail) -> Picture:
    label, prediction = int(predictions.label_N[row]), int(predictions.prediction_N[row])
    probability_K = predictions.probability_NK[row]
    first = np.argsort(-probability_K, kind="stable")[:3].tolist()
    return Picture(
        source=thumbnail.source,
        tiny=thumbnail.tiny,
        name=str(predictions.ids[row]),
        true=predictions.classes[label],
        predicted=predictions.classes[prediction],
        confidence=float(predictions.confidence_N[row]),
        cell=(label, prediction),
        ranking=tuple((predictions.classes[k], float(probability_K[k])) for k in first),
    )
