"""TensorBoard: curves in a browser, from event files in the run's folder.

    track: [tensorboard]

and then `tensorboard --logdir runs`. A step on its axis is a step of the optimiser. Scores of the evaluated splits are
points at the last step; recipe and scores are in HParams too, and the recipe under Text. The only door to the library;
PyTorch's own writer would load PyTorch once more for it.

The event file is written anew at every start, with a mark that takes back all that earlier files said, and they go when
it is whole: a TensorBoard that is open meanwhile shows one curve too.
"""

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from instar.points import About, Ending, Point, finite
from instar.settings import Settings as Base

PACKAGES = ("tensorboard",)
SECRETS: tuple[str, ...] = ()


class Settings(Base):
    """Curves in a browser, from files."""

    kind: Literal["tensorboard"] = "tensorboard"
    """Curves in a browser, from files."""


def open(settings: Settings, about: About, kept: dict[str, Any]) -> "EventFile":
    return EventFile(about)


class EventFile:
    """Writes one event file."""

    starts_anew = True

    def __init__(self, about: About):
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._about = about
        about.folder.mkdir(parents=True, exist_ok=True)
        self._before = sorted(about.folder.glob("events.out.tfevents.*"))
        # Files are read in the order of their names, which begin with the second they were made in.
        self._writer = EventFileWriter(str(about.folder), filename_suffix=f".{time.time_ns()}")
        self._event = event_pb2.Event
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(self._event(wall_time=time.time(), step=0, session_log=start))
        self._say(_recipe(about), step=0, seconds=time.time())

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self._say(_scalars(point.values), step=point.step, seconds=point.seconds)
        self._writer.flush()
        while self._before:
            self._before.pop().unlink(missing_ok=True)

    def finish(self, ending: Ending) -> None:
        now = time.time()
        self._say(_scalars(ending.scores), step=ending.step, seconds=now)
        for summary in _hyperparameters(self._about):
            self._say(summary, step=0, seconds=now)
        self._writer.flush()

    def close(self) -> str:
        self._writer.close()
        return f"tensorboard --logdir {shlex.quote(os.path.relpath(self._about.runs))}"

    def _say(self, summary: Any, *, step: int, seconds: float) -> None:
        self._writer.add_event(self._event(wall_time=seconds, step=step, summary=summary))


def _scalars(values: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in finite(values).items()])


def _recipe(about: About) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    lines = [f"    {name}: {value}" for name, value in about.settings.items()]  # four spaces: code, nothing is markup
    text = TensorProto(dtype=DT_STRING, string_val=["\n".join(lines).encode()])
    return Summary(
        value=[Summary.Value(tag="recipe", metadata=create_summary_metadata("recipe", "recipe"), tensor=text)]
    )


def _hyperparameters(about: About) -> list[Any]:
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    return [hparams_pb(dict(about.settings), trial_id=about.name)]
