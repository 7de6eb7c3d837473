"""Every class is seen equally often: rows of small classes several times an epoch, of large ones not every epoch.

    task: {kind: classification, balance: oversample}

Legend: K classes.
"""

from typing import TYPE_CHECKING, Literal

from instar.balancers._quotas import divided
from instar.settings import Settings as Base

if TYPE_CHECKING:
    import numpy as np


class Settings(Base):
    """Every class is seen equally often."""

    kind: Literal["oversample"] = "oversample"
    """Every class is seen equally often."""


def quotas(counts_K: "np.ndarray", epoch_samples: int) -> "np.ndarray":
    """How often each class is drawn in one epoch: int64, summing to epoch_samples.

    counts_K   training rows of each class
    """
    return divided(epoch_samples, counts_K > 0)
