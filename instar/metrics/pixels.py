"""Scores of pixel labels, from counts that can be summed over rows, batches and ranks.

N rows, K classes. counts_N3K[row] holds pixels: right, truly of the class, taken for the class.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import ndimage

from instar.masks import IGNORE, Masks
from instar.metrics.counts import ratio

RESAMPLES = 2000
_DRAWS = 2**22  # numbers drawn at once


def counts_of(confusion_NKK: np.ndarray) -> np.ndarray:
    """counts_N3K out of a confusion matrix for each row."""
    right = np.diagonal(confusion_NKK, axis1=-2, axis2=-1)
    return np.stack([right, confusion_NKK.sum(-1), confusion_NKK.sum(-2)], axis=-2)


def iou(counts_3K: np.ndarray) -> np.ndarray:
    """Right pixels as a share of all that are of a class or taken for it, …K; 0 where there is none of either."""
    right, true, predicted = np.moveaxis(counts_3K, -2, 0)
    return ratio(right, true + predicted - right)


def mean_iou(counts_3K: np.ndarray) -> float:
    """The mean IoU of the classes that are in the truth or in the predictions, over all pixels together."""
    present_K = counts_3K[1] + counts_3K[2] > 0
    return float(ratio(iou(counts_3K)[present_K].sum(), present_K.sum()))


def sample_iou(counts_N3K: np.ndarray) -> np.ndarray:
    """For each row the mean IoU of all K classes, 1 for a class that is neither there nor predicted; float64 N.

    The mean of this over rows is the score of the DeepCAM benchmark, https://github.com/mlcommons/hpc.
    """
    union_NK = counts_N3K[:, 1] + counts_N3K[:, 2] - counts_N3K[:, 0]
    return np.where(union_NK > 0, iou(counts_N3K), 1.0).mean(axis=1)


def summary(counts_N3K: np.ndarray) -> dict[str, float]:
    """The scores that counts alone give, over all rows together, except sample_iou."""
    total_3K = counts_N3K.sum(0)
    rows = sample_iou(counts_N3K)
    return {
        "mean_iou": mean_iou(total_3K),
        "sample_iou": float(rows.mean()) if len(rows) else 0.0,
        "pixel_accuracy": float(ratio(total_3K[0].sum(), total_3K[1].sum())),
    }


def scores(masks: Masks) -> dict[str, Any]:
    """All scores by name, 0 to 1 (loss in nats), and "intervals": {name: [low, high]} at 95 %.

    per_class   IoU, recall, precision and boundary F1 of each class, by its name
    Rows that could not be read are left out and counted in "unlabelled".
    """
    known_N = masks.known_N
    counts_N3K, boundary_4K = masks.counts_N3K[known_N], masks.boundary_N4K[known_N].sum(0)
    total_3K, rows = counts_N3K.sum(0), int(known_N.sum())
    f1_K = boundary_f1(boundary_4K)
    on_a_line_K = boundary_4K[1] + boundary_4K[3] > 0
    present_K = total_3K[1] + total_3K[2] > 0
    recall_K, precision_K = ratio(total_3K[0], total_3K[1]), ratio(total_3K[0], total_3K[2])
    iou_K = iou(total_3K)
    return {
        "rows": rows,
        "unlabelled": len(masks) - rows,
        "pixels": int(total_3K[1].sum()),
        **summary(counts_N3K),
        "dice": float(ratio((2 * ratio(total_3K[0], total_3K[1] + total_3K[2]))[present_K].sum(), present_K.sum())),
        "boundary_f1": float(ratio(f1_K[on_a_line_K].sum(), on_a_line_K.sum())),
        "loss": float(masks.loss_N[known_N].mean(dtype="float64")) if rows else float("nan"),
        "per_class": {
            name: {
                "iou": float(iou_K[k]) if present_K[k] else None,
                "recall": float(recall_K[k]) if total_3K[1, k] else None,
                "precision": float(precision_K[k]) if total_3K[2, k] else None,
                "boundary_f1": float(f1_K[k]) if on_a_line_K[k] else None,
                "pixels": int(total_3K[1, k]),
            }
            for k, name in enumerate(masks.classes)
        },
        "intervals": intervals(counts_N3K),
    }


# --- boundaries ----------------------------------------------------------------------------------------------------


def boundary_counts(class_HW: np.ndarray, true_HW: np.ndarray, num_classes: int, *, pixels: float) -> np.ndarray:
    """For each class: predicted pixels of its boundary within `pixels` of a true one, all predicted; vice versa; 4K.

    A pixel is on the boundary of its class where one of its four neighbours in the image is of another. Pixels whose
    class nobody knows have no boundary, and what is predicted there is not asked for.
    Csurka et al. 2013, http://www.bmva.org/bmvc/2013/Papers/paper0032/
    """
    found = np.zeros((4, num_classes), np.int64)
    known_HW = true_HW != IGNORE
    for k in np.union1d(class_HW[known_HW], true_HW[known_HW]).tolist():
        predicted_HW, wanted_HW = (_outline(one == k, known_HW) for one in (class_HW, true_HW))
        found[1, k], found[3, k] = predicted_HW.sum(), wanted_HW.sum()
        if found[1, k] and found[3, k]:
            found[0, k] = (ndimage.distance_transform_edt(~wanted_HW)[predicted_HW] <= pixels).sum()
            found[2, k] = (ndimage.distance_transform_edt(~predicted_HW)[wanted_HW] <= pixels).sum()
    return found


def boundary_f1(counts_4K: np.ndarray) -> np.ndarray:
    """The balance of both shares of boundary pixels that are near enough, …K; 0 without any."""
    precision_K, recall_K = ratio(counts_4K[0], counts_4K[1]), ratio(counts_4K[2], counts_4K[3])
    return ratio(2 * precision_K * recall_K, precision_K + recall_K)


def _outline(inside_HW: np.ndarray, known_HW: np.ndarray) -> np.ndarray:
    """The pixels of a region with a neighbour that is known to be outside it."""
    outside_HW = ~inside_HW & known_HW
    near_HW = np.zeros_like(inside_HW)
    near_HW[1:] |= outside_HW[:-1]
    near_HW[:-1] |= outside_HW[1:]
    near_HW[:, 1:] |= outside_HW[:, :-1]
    near_HW[:, :-1] |= outside_HW[:, 1:]
    return near_HW & inside_HW & known_HW


# --- how far a score would move with other images ------------------------------------------------------------------


def intervals(counts_N3K: np.ndarray, *, seed: int = 0, level: float = 0.95) -> dict[str, list[float]]:
    """Intervals of mean_iou and sample_iou: a percentile bootstrap of whole images, for the pixels of one are alike."""
    if not len(counts_N3K):
        return {"mean_iou": [0.0, 0.0], "sample_iou": [0.0, 0.0]}
    rows = sample_iou(counts_N3K)
    pooled, each = [], []
    for often_RN in _drawn(len(rows), seed):
        pooled += [mean_iou(total_3K) for total_3K in np.tensordot(often_RN, counts_N3K, 1)]
        each.append(often_RN @ rows / len(rows))
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {
        "mean_iou": np.quantile(pooled, ends).tolist(),
        "sample_iou": np.quantile(np.concatenate(each), ends).tolist(),
    }


def ahead(first: Masks, second: Masks) -> tuple[float, float, float]:
    """By how much mean_iou is higher in `second`, on the same images, with the 95 % interval of that difference."""
    place = {name: row for row, name in enumerate(first.ids)}
    order = np.array([place[name] for name in second.ids], np.int64)
    known_N = second.known_N & first.known_N[order]
    one, other = first.counts_N3K[order][known_N], second.counts_N3K[known_N]
    if not len(one):
        return 0.0, 0.0, 0.0
    differences = [
        mean_iou(b_3K) - mean_iou(a_3K)
        for often_RN in _drawn(len(one), 0)
        for a_3K, b_3K in zip(np.tensordot(often_RN, one, 1), np.tensordot(often_RN, other, 1), strict=True)
    ]
    low, high = np.quantile(differences, [0.025, 0.975]).tolist()
    return mean_iou(other.sum(0)) - mean_iou(one.sum(0)), low, high


def _drawn(rows: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is drawn in each of RESAMPLES resamples, some resamples at a time."""
    generator = np.random.default_rng(seed)
    step = max(1, min(RESAMPLES, _DRAWS // rows))
    for start in range(0, RESAMPLES, step):
        yield generator.multinomial(rows, np.full(rows, 1 / rows), size=min(step, RESAMPLES - start))
