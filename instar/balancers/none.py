"""Classes are seen as often as they occur.

    task: {kind: classification, balance: none}

Legend: K classes.
"""

from typing import TYPE_CHECKING, Literal

from instar.balancers._quotas import divided
from instar.settings import Settings as Base

if TYPE_CHECKING:
    import numpy as np


class Settings(Base):
    """Classes are seen as often as they occur."""

    kind: Literal["none"] = "none"
    """Classes are seen as often as they occur."""


def quotas(counts_K: "np.ndarray", epoch_samples: int) -> "np.ndarray":
    """How often each class is drawn in one epoch: int64, summing to epoch_samples.

    counts_K   training rows of each class
    """
    return divided(epoch_samples, counts_K)
