"""Whole numbers in given proportions.

Legend: K classes.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def divided(total: int, share_K: "np.ndarray") -> "np.ndarray":
    """int64 numbers in proportion to share_K that sum to `total` exactly, by largest remainder.

    Of equal remainders the earlier class comes first. A class with share 0 gets nothing.
    """
    import numpy as np

    exact_K = share_K.astype(np.float64) * (total / share_K.sum())
    whole_K = np.floor(exact_K).astype(np.int64)
    # A product such as 2.9999999999999996 stands for 3: its remainder is the largest there is, so it becomes 3.
    first_K = np.argsort(-(exact_K - whole_K), kind="stable")
    whole_K[first_K[: total - int(whole_K.sum())]] += 1
    return whole_K
