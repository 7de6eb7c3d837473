"""Classes are seen in proportion to the root of their size: half-way to equal, for very long tails.

Mahajan et al. 2018, https://arxiv.org/abs/1805.00932, section 2.2.

    task: {kind: classification, balance: sqrt}

Legend: K classes.
"""

from typing import TYPE_CHECKING, Literal

from instar.balancers._quotas import divided
from instar.settings import Settings as Base

if TYPE_CHECKING:
    import numpy as np


class Settings(Base):
    """Classes are seen in proportion to the root of their size."""

    kind: Literal["sqrt"] = "sqrt"
    """Classes are seen in proportion to the root of their size."""


def quotas(counts_K: "np.ndarray", epoch_samples: int) -> "np.ndarray":
    """How often each class is drawn in one epoch: int64, summing to epoch_samples.

    counts_K   training rows of each class
    """
    return divided(epoch_samples, counts_K**0.5)
