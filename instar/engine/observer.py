"""What the loop tells whoever writes down a training as it was lived, such as a benchmark's log.

Other than `view`, which shows numbers to people, an observer is told where the phases begin and end, and sees the whole
training. Calls come a few times an epoch and never in a step.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from instar.engine.training import Training


class Observer(Protocol):
    """Someone who notes the phases of a training."""

    def staging(self) -> None:
        """Data are about to be brought to the node."""

    def staged(self) -> None:
        """They are there."""

    def going_on(self, training: "Training") -> None:
        """Steps come next: at every start, and after every evaluation that is not the last."""

    def evaluating(self, training: "Training") -> None:
        """The validation rows are about to be scored."""

    def evaluated(self, training: "Training") -> None:
        """They were: the line is `training.metrics.last`."""

    def ended(self, training: "Training", state: str) -> None:
        """The training is over: 'finished', 'target', 'early', or 'already' before this start."""


class Nobody:
    """Notes nothing."""

    def staging(self) -> None:
        pass

    def staged(self) -> None:
        pass

    def going_on(self, training: "Training") -> None:
        pass

    def evaluating(self, training: "Training") -> None:
        pass

    def evaluated(self, training: "Training") -> None:
        pass

    def ended(self, training: "Training", state: str) -> None:
        pass
