"""TensorBoard: event files in RUN/trackers/tensorboard.

track: [tensorboard]
tensorboard --logdir runs
"""

from typing import Any, Literal

from instar.run import Run
from instar.settings import Settings as Base

Point = dict[str, Any]


class Settings(Base):
    """TensorBoard's event files, RUN/trackers/tensorboard."""

    kind: Literal["tensorboard"] = "tensorboard"
    """TensorBoard's event files, RUN/trackers/tensorboard."""


def open(settings: Settings, run: Run, recipe: dict[str, Any], state: dict[str, Any]) -> "Board":
    return Board(run)


class Board:
    """A new event file at every start; TensorBoard draws those of a folder as one curve."""

    def __init__(self, run: Run):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.trackers / "tensorboard"))

    def write(self, points: list[Point]) -> None:
        from instar.mirror import numbers

        for point in points:
            for name, value in numbers(point).items():
                self._writer.add_scalar(name, value, point["samples"], walltime=point.get("time"))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
