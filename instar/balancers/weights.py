"""Classes are seen as often as they occur, and mistakes in small ones cost more.

    task: {kind: classification, balance: weights}

Legend: K classes.
"""

from typing import TYPE_CHECKING, Literal

from instar.balancers._quotas import divided
from instar.settings import Settings as Base

if TYPE_CHECKING:
    import numpy as np


class Settings(Base):
    """Mistakes in small classes cost more."""

    kind: Literal["weights"] = "weights"
    """Mistakes in small classes cost more."""


def quotas(counts_K: "np.ndarray", epoch_samples: int) -> "np.ndarray":
    """How often each class is drawn in one epoch: int64, summing to epoch_samples.

    counts_K   training rows of each class
    """
    return divided(epoch_samples, counts_K)


def class_weights(counts_K: "np.ndarray") -> "np.ndarray":
    """n / (K n_c), scikit-learn's "balanced" weights: their mean over the training rows is 1.

    A class without training rows has no mistakes to weigh, and gets 0.
    """
    import numpy as np

    present_K = counts_K > 0
    weight_K = np.zeros(len(counts_K))
    weight_K[present_K] = counts_K.sum() / (present_K.sum() * counts_K[present_K])
    return weight_K
