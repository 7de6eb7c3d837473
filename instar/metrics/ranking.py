"""Where the true class stands among all classes, by probability.

N rows, K classes.
"""

import numpy as np

ELEMENTS = 2**23  # of the matrix at once: temporaries of a few dozen MiB, whatever N is


def ranks(label_N: np.ndarray, probability_NK: np.ndarray) -> np.ndarray:
    """How many classes come before the true one, int64 N: 0 means the prediction is right.

    label_N   known labels only
    Of equally probable classes the lower number comes first, as with argmax, so that top-1 is accuracy.
    """
    N, K = probability_NK.shape
    class_K = np.arange(K)
    rank_N = np.empty(N, np.int64)
    step = max(1, ELEMENTS // max(1, K))
    for start in range(0, N, step):
        label_n, probability_nK = (
            label_N[start : start + step],
            probability_NK[start : start + step],
        )
        own_n1 = np.take_along_axis(probability_nK, label_n[:, None].astype(np.int64), axis=1)
        before_nK = (probability_nK > own_n1) | ((probability_nK == own_n1) & (class_K < label_n[:, None]))
        rank_N[start : start + step] = before_nK.sum(axis=1)
    return rank_N


def top_k(rank_N: np.ndarray, k: int) -> float:
    """The share of rows whose true class is among the k most probable ones; 0 without rows."""
    return float(np.mean(rank_N < k)) if rank_N.size else 0.0
