"""Scores that follow from a confusion matrix, that is from counts that can be summed over batches and ranks.

N rows, K classes, … any leading axes. confusion_KK[true, predicted] counts rows.
"""

from dataclasses import dataclass

import numpy as np


def confusion(label_N: np.ndarray, prediction_N: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class (rows) was taken for each other one (columns), int64 KK; labels of -1 are left out."""
    known_N = label_N >= 0
    cell_N = label_N[known_N].astype(np.int64) * num_classes + prediction_N[known_N]
    return np.bincount(cell_N, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True, eq=False)
class PerClass:
    """Scores of each class, 0 to 1, arrays of K; a ratio of nothing to nothing is 0."""

    precision_K: np.ndarray
    recall_K: np.ndarray
    f1_K: np.ndarray
    support_K: np.ndarray
    """Rows that are of the class."""
    predicted_K: np.ndarray
    """Rows that were taken for the class."""

    @property
    def present_K(self) -> np.ndarray:
        """Classes that have a row or a prediction; averages leave the others out, as scikit-learn does."""
        return (self.support_K + self.predicted_K) > 0


def per_class(confusion_KK: np.ndarray) -> PerClass:
    """Precision, recall, F1 and support of every class."""
    hits_K = np.diagonal(confusion_KK)
    support_K, predicted_K = confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    return PerClass(
        precision_K=ratio(hits_K, predicted_K),
        recall_K=ratio(hits_K, support_K),
        f1_K=ratio(2 * hits_K, support_K + predicted_K),
        support_K=support_K,
        predicted_K=predicted_K,
    )


def accuracy(confusion_KK: np.ndarray) -> float:
    """The share of rows that are right, 0 to 1; 0 without rows."""
    return float(ratio(np.trace(confusion_KK), confusion_KK.sum()))


def balanced_accuracy(confusion_KK: np.ndarray) -> float:
    """The mean recall of the classes that have rows."""
    support_K = confusion_KK.sum(axis=1)
    return float(ratio(ratio(np.diagonal(confusion_KK), support_K).sum(), (support_K > 0).sum()))


def macro(score_K: np.ndarray, classes: PerClass) -> float:
    """The plain mean over the classes that have a row or a prediction."""
    return float(ratio(score_K[classes.present_K].sum(), classes.present_K.sum()))


def weighted(score_K: np.ndarray, classes: PerClass) -> float:
    """The mean over classes, each weighted by its number of rows."""
    return float(ratio((score_K * classes.support_K).sum(), classes.support_K.sum()))


def macro_f1(hits: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Macro-F1 from counts of shape (…, K); the result has the shape (…)."""
    total = support + predicted
    return ratio(ratio(2 * hits, total).sum(axis=-1), (total > 0).sum(axis=-1))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole in float64, and 0 where both are nothing."""
    return np.divide(
        part,
        whole,
        out=np.zeros(np.broadcast_shapes(np.shape(part), np.shape(whole))),
        where=np.asarray(whole) > 0,
    )
