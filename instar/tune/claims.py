"""Whose trial is it? A place belongs to whoever holds its claim, a lease with a heartbeat, and nobody takes a living
one's.

A holder on this machine, or an earlier life of this very job, is known to be alive or dead at once. Of one on another
machine only its heartbeat tells: at the beginning a worker watches all of those at the same time, later it goes by what
it has seen since, so that no trial waits for that.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from instar.engine.ranks import lease
from instar.engine.ranks.lease import BEAT_SECONDS, PATIENCE_SECONDS, Lease
from instar.engine.ranks.process import AwakeClock
from instar.errors import RunError

_ONE_BEAT = 2.5 * BEAT_SECONDS


class Claims:
    """What one worker knows of the claims on the places of a study."""

    def __init__(self, file: Callable[[int], Path], *, patience: float = PATIENCE_SECONDS):
        """file   the claim of a place"""
        self._file, self._patience = file, patience
        # A machine that slept must not take everybody else for dead.
        self._clock = AwakeClock(most=patience)
        self._seen: dict[int, tuple[str, float]] = {}

    def watch(self, places: Iterable[int]) -> None:
        """Wait until each holder on another machine was seen to live, or was silent for long enough."""
        unknown = [place for place in places if self._standing(place) == "unknown"]
        while unknown:
            time.sleep(BEAT_SECONDS / 10)
            before = {place: self._seen.get(place) for place in unknown}
            standing = {place: self._standing(place) for place in unknown}
            unknown = [
                place for place in unknown if standing[place] == "unknown" and self._seen.get(place) == before[place]
            ]

    def take(self, place: int) -> Lease | None:
        """The claim on a place; None where somebody else has it, or may have."""
        standing = self._standing(place)
        if standing in ("alive", "unknown"):
            return None
        file = self._file(place)
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(RunError):  # somebody else was faster
            # Long enough to hear a heartbeat of somebody who took it in this very moment, on another machine.
            return lease.acquire(file, patience=_ONE_BEAT)
        return None

    def _standing(self, place: int) -> str:
        """free, dead, alive, or unknown until it was silent for as long as we have patience."""
        told, text = lease.standing(self._file(place))
        if told != "unknown":
            return told
        now = self._clock.tick()
        before, since = self._seen.get(place, ("", now))
        if text != before:
            self._seen[place] = (text, now)
            return "unknown"
        return "dead" if now - since >= self._patience else "unknown"
