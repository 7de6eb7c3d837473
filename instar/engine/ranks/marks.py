"""Marks: where each rank is, as it tells the others, and what follows from them. No torch, no threads, no clocks."""

from collections.abc import Mapping
from dataclasses import dataclass

from instar.engine.ranks.process import Process

# Phases in the order of one step, to tell who is behind; others come after them.
_PHASES = ("start", "loading", "step", "agreeing", "evaluating", "saving")
# A rank of this machine that is seen to run may be slow to beat: loading a library holds Python's lock.
_PATIENCE_WITH_THE_LIVING = 4


@dataclass(frozen=True)
class Mark:
    """One rank's word.

    beat    grows while its watchdog runs
    moves   grows while its training does
    left    the exit code it left with, or None
    """

    beat: int = 0
    moves: int = 0
    step: int = 0
    phase: str = "start"
    left: int | None = None

    def to_text(self) -> str:
        left = "" if self.left is None else self.left
        return f"{self.beat} {self.moves} {self.step} {left} {self.phase}"


def from_text(text: str) -> Mark:
    beat, moves, step, left, phase = text.split(" ", 4)
    return Mark(int(beat), int(moves), int(step), phase, int(left) if left else None)


class Watched:
    """Another rank, as its marks and the system show it."""

    def __init__(self, process: Process):
        self.mark = Mark()
        self._process = process
        self._moving = Moving()
        self._silent = 0.0

    def read(self, mark: Mark, now: float) -> None:
        """Take its newest word at this reading of the watcher's clock."""
        self.mark = mark
        self._silent = self._moving.stands_still(mark.beat, now)

    def fault(self, patience: float) -> str:
        """Why this rank counts as gone; empty where it does not."""
        if self.mark.left is not None:
            return ""
        who, state = f"process {self._process.pid} on {self._process.host}", self._process.state()
        if state == "gone":
            return f"{who} ended"
        if self._silent <= patience * (_PATIENCE_WITH_THE_LIVING if state == "alive" else 1):
            return ""
        return f"{who} {'was stopped' if state == 'stopped' else 'went silent'} {self._silent:.0f} s ago"


class Moving:
    """How long something has not changed."""

    def __init__(self) -> None:
        self._seen: object = None
        self._since = 0.0

    def stands_still(self, seen: object, now: float) -> float:
        """Seconds for which it has been as it is now seen to be."""
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since


def behind(marks: Mapping[int, Mark]) -> tuple[int, ...]:
    """The ranks that are furthest behind, of those that have not left."""
    places = {
        rank: (mark.step, _PHASES.index(mark.phase) if mark.phase in _PHASES else len(_PHASES))
        for rank, mark in marks.items()
        if mark.left is None
    }
    return tuple(rank for rank, place in places.items() if place == min(places.values()))
