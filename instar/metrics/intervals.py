"""How far a score would move with another test split of the same size: percentile bootstrap, seeded.

Efron & Tibshirani 1993, ch. 13. Rows are never resampled one by one. Drawing N rows with replacement and counting what
was drawn is a multinomial draw of the counts, so a resample costs one draw per cell of the confusion matrix and a
million rows cost as little as a hundred.

R resamples, K classes, C cells that are not empty.
"""

import numpy as np

from instar.metrics.counts import macro_f1

RESAMPLES = 2000
DRAWS = 2**22  # numbers drawn at once


def share(hits: int, rows: int, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The interval of `hits` out of `rows`, such as accuracy or top-k; (0, 0) without rows.

    Where all rows are right it is (1, 1): resampling cannot meet an error it never saw.
    """
    if rows == 0:
        return 0.0, 0.0
    drawn_R = np.random.default_rng(seed).binomial(rows, hits / rows, RESAMPLES) / rows
    return _percentiles(drawn_R, level)


def difference(gained: int, lost: int, rows: int, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The interval of the difference of two accuracies on the same rows; (0, 0) without rows.

    gained   rows that only the second got right
    lost     rows that only the first got right
    Rows both got right, or both wrong, say nothing about the difference, so pairing makes it much narrower than the
    intervals of the two accuracies suggest.
    """
    if rows == 0:
        return 0.0, 0.0
    chances = [gained / rows, lost / rows, (rows - gained - lost) / rows]
    drawn_R3 = np.random.default_rng(seed).multinomial(rows, chances, RESAMPLES)
    return _percentiles((drawn_R3[:, 0] - drawn_R3[:, 1]) / rows, level)


def macro_f1_share(confusion_KK: np.ndarray, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The interval of macro-F1, from the confusion matrix; (0, 0) without rows."""
    rows = int(confusion_KK.sum())
    if rows == 0:
        return 0.0, 0.0
    K = len(confusion_KK)
    true_C, predicted_C = np.nonzero(confusion_KK)
    chance_C = confusion_KK[true_C, predicted_C] / rows
    generator = np.random.default_rng(seed)
    step = max(1, min(RESAMPLES, DRAWS // max(len(chance_C), K)))
    scores = []
    for start in range(0, RESAMPLES, step):
        drawn_RC = generator.multinomial(rows, chance_C, size=min(step, RESAMPLES - start))
        hits_RK = _sums(drawn_RC[:, true_C == predicted_C], true_C[true_C == predicted_C], K)
        scores.append(macro_f1(hits_RK, _sums(drawn_RC, true_C, K), _sums(drawn_RC, predicted_C, K)))
    return _percentiles(np.concatenate(scores), level)


def _sums(drawn_RC: np.ndarray, class_C: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts summed by class, RK."""
    order = np.argsort(class_C, kind="stable")
    present, starts = np.unique(class_C[order], return_index=True)
    sum_RK = np.zeros((len(drawn_RC), num_classes), np.int64)
    if len(present):
        sum_RK[:, present] = np.add.reduceat(drawn_RC[:, order], starts, axis=1)
    return sum_RK


def _percentiles(drawn_R: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
