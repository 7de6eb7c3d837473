"""Points: what a run measured, as trackers take it, and the one interface a tracker has.

A tracker mirrors metrics.jsonl, which is the truth; it never takes part in a training. Standard library only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from instar.run import Run

_NOT_MEASURED = ("kind", "step", "time", "best")
_SHARED = ("samples", "epoch")  # of every line, so of no kind


@dataclass(frozen=True)
class Point:
    """One line of metrics.jsonl.

    kind     train, val …: two points of one step differ in it
    seconds  when it was measured, since 1970
    values   `train/loss`, `val/accuracy` …: every number of the line, and `samples` and `epoch`
    """

    kind: str
    step: int
    seconds: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class About:
    """What a tracker says of a run beside its curves.

    folder     where the tracker may keep what is its own
    runs       the folder that this run and its neighbours are in
    settings   every setting of the recipe by its full name, with the text one would write
    """

    name: str
    folder: Path
    runs: Path
    settings: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Ending:
    """How a run stands when its tracker is told the last of it.

    state    as in `Run.status`: done, trained, stopped, failed …
    scores   `test/accuracy` …: what the evaluated splits scored, each one number
    step     of the last point
    report   the run page, where there is one
    """

    state: str
    scores: Mapping[str, float]
    step: int
    report: Path | None


class Tracker(Protocol):
    """One run in one backend.

    Its module has `Settings`, `PACKAGES` (what has to be installed), `SECRETS` (beginnings of the names of environment
    variables it may see although they may hold secrets) and

        open(settings, about, kept) -> Tracker       kept is a dict that outlives the process: an id, say

    starts_anew   Whether it makes its curve anew from the first point whenever it is opened. Such a tracker may be told
                  points that a resume takes back. Any other one is told only what is saved for good, each point at
                  least once and the same one with the same numbers again.
    """

    starts_anew: bool

    def write(self, points: Sequence[Point]) -> None:
        """Take points, oldest first; they are safe with the backend when this returns."""

    def finish(self, ending: Ending) -> None:
        """Take the scores and the page. More may follow: a run that is done can be evaluated again."""

    def close(self) -> str:
        """Let go of everything; returns where to look, or what to type for that."""


def of(lines: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The points in lines of metrics.jsonl. What is not a number is left out; what is not finite is not."""
    return [
        Point(
            kind=str(line.get("kind", "")),
            step=int(line["step"]),
            seconds=float(line.get("time", 0.0)),
            values=dict(_values(line)),
        )
        for line in lines
        if isinstance(line.get("step"), int)
    ]


def after(points: Sequence[Point], told: Sequence[Any] | None) -> list[Point]:
    """The points that come after the one called `told`, (step, kind); all of them where it is None."""
    if not told:
        return list(points)
    step, kind = told
    same = [number for number, point in enumerate(points) if (point.step, point.kind) == (step, kind)]
    return list(points[same[-1] + 1 :]) if same else [point for point in points if point.step > step]


def ending(run: Run) -> Ending:
    """How a run stands now."""
    scores = {
        # While it trains, `val/accuracy` is a curve.
        f"{'' if split == 'test' else 'final_'}{split}/{name}": float(value)
        for split in ("test", "val", "train")
        for name, value in run.scores(split).items()
        if _is_number(value)
    }
    step = max((point.step for point in of(run.metrics())), default=0)
    return Ending(run.status()["state"], scores, step, run.report if run.report.exists() else None)


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Those that every backend takes."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _values(line: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    for name, value in line.items():
        if name not in _NOT_MEASURED and _is_number(value):
            yield name if name in _SHARED else f"{line.get('kind', '')}/{name}", float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
