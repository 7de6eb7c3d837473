"""Whether probabilities mean what they say.

N rows, K classes, M bins.
"""

from dataclasses import dataclass

import numpy as np

from instar.errors import DataError
from instar.metrics.counts import ratio


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy in bins of equal width; bin m holds edge_m < confidence <= edge_m+1."""

    edges: np.ndarray
    """M + 1 values from 0 to 1."""
    count_M: np.ndarray
    confidence_M: np.ndarray
    """Mean confidence of the rows in a bin; 0 in an empty one."""
    accuracy_M: np.ndarray
    """Share of right rows in a bin; 0 in an empty one."""


def reliability(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = 15) -> Reliability:
    """The table behind a reliability diagram.

    confidence_N   probability of the predicted class, 0 to 1
    correct_N      whether that class was right
    Raises DataError where the two differ in length, or a confidence lies outside 0 to 1.
    """
    confidence_N, correct_N = (
        np.asarray(confidence_N, np.float64),
        np.asarray(correct_N, bool),
    )
    if confidence_N.shape != correct_N.shape:
        raise DataError(f"{confidence_N.size} confidences came with {correct_N.size} answers; there must be as many")
    if confidence_N.size and not (confidence_N.min() >= 0 and confidence_N.max() <= 1 + 1e-3):
        raise DataError(
            f"confidences go from {confidence_N.min()} to {confidence_N.max()}; they must lie between 0 and 1"
        )
    edges = np.linspace(0, 1, bins + 1)
    bin_N = np.searchsorted(edges[1:-1], confidence_N)
    count_M = np.bincount(bin_N, minlength=bins)
    return Reliability(
        edges=edges,
        count_M=count_M,
        confidence_M=ratio(np.bincount(bin_N, weights=confidence_N, minlength=bins), count_M),
        accuracy_M=ratio(np.bincount(bin_N, weights=correct_N, minlength=bins), count_M),
    )


def expected_calibration_error(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = 15) -> float:
    """How far confidence is from accuracy, averaged over bins of equal width, 0 to 1.

    Guo et al. 2017, eq. 3, https://arxiv.org/abs/1706.04599. An empty bin counts as 0. Raises as `reliability` does.
    """
    table = reliability(confidence_N, correct_N, bins)
    gap_M = np.abs(table.accuracy_M - table.confidence_M)
    return float(ratio((gap_M * table.count_M).sum(), table.count_M.sum()))


def log_loss(label_N: np.ndarray, probability_NK: np.ndarray) -> float:
    """Mean of -ln(probability of the true class); 0 without rows.

    A probability of 0 counts as the smallest step of its type, as in scikit-learn: one row cannot make it infinite.
    """
    own_N = _own(label_N, probability_NK)
    smallest = np.finfo(probability_NK.dtype).eps
    return float(-np.log(np.clip(own_N, smallest, 1 - smallest, dtype=np.float64)).mean()) if own_N.size else 0.0


def brier(label_N: np.ndarray, probability_NK: np.ndarray) -> float:
    """Mean squared distance between probabilities and the truth, summed over classes: 0 is perfect, 2 the worst.

    Brier 1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2. 0 without rows.
    """
    if not label_N.size:
        return 0.0
    # sum_k (p_k - [k is true])^2 = sum_k p_k^2 - 2 p_true + 1, without an array of N x K
    square_N = np.einsum("nk,nk->n", probability_NK, probability_NK, dtype=np.float64)
    return float((square_N - 2.0 * _own(label_N, probability_NK) + 1.0).mean())


def _own(label_N: np.ndarray, probability_NK: np.ndarray) -> np.ndarray:
    return np.take_along_axis(probability_NK, label_N[:, None].astype(np.int64), axis=1)[:, 0]
