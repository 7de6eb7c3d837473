"""When to stop: signals that only set a flag, and a clock that needs no signal.

`install` must run before anything slow is imported: until a handler stands, SIGUSR1 kills the process.
Standard library only.
"""

import math
import os
import signal
import time
from collections.abc import Mapping
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

_received: list[signal.Signals] = []
_before: dict[signal.Signals, object] = {}


def install() -> None:
    """Let SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 set a flag. A second SIGINT means now: it interrupts."""
    for number in STOP_SIGNALS:
        _before.setdefault(number, signal.signal(number, _note))


def take_back() -> None:
    """Put our handlers back where a library has put its own, if ours stood there before."""
    for number in _before:
        signal.signal(number, _note)


def restore() -> None:
    """Give the signals back to whoever had them, and forget what came (for tests and notebooks)."""
    while _before:
        number, handler = _before.popitem()
        signal.signal(number, handler)  # type: ignore[arg-type]
    _received.clear()


def installed() -> bool:
    """Whether signals only set a flag here."""
    return bool(_before)


def ignore() -> None:
    """Let no signal change how this process ends: all that it was to do is done."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def received() -> str | None:
    """Name of the first signal that came, or None."""
    return _received[0].name if _received else None


def _note(number: int, frame: FrameType | None) -> None:
    again = number == signal.SIGINT and signal.SIGINT in _received
    _received.append(signal.Signals(number))
    if again:
        raise KeyboardInterrupt


class Clock:
    """Time left before the job's limit, less a reserve for the save.

    The limit is a monotonic instant fixed at the start, so a clock that is set back or forward moves nothing.
    """

    def __init__(self, walltime: float | None, environ: Mapping[str, str] = os.environ):
        """walltime   seconds from the start of this process, None for no limit of our own"""
        limits = [walltime] if walltime is not None else []
        # Ours is what the job script asked for; Slurm's is what the job got, which it may have been given less of.
        for name in ("SLURM_JOB_END_TIME", "INSTAR_JOB_END"):
            end = environ.get(name, "")
            if end.isdigit() and int(end) > 0:
                limits.append(int(end) - time.time())
        self._start = time.monotonic()
        self._limit = self._start + min(limits) if limits else math.inf
        self._save_seconds = 0.0

    def saved(self, seconds: float) -> None:
        """Learn how long a save took; the longest one decides the reserve."""
        self._save_seconds = max(self._save_seconds, seconds)

    @property
    def reserve(self) -> float:
        """Seconds to keep for stopping: three saves and half a minute, but never most of a very short limit."""
        wanted = 3 * self._save_seconds + 30
        return min(wanted, max(0.25 * (self._limit - self._start), 3 * self._save_seconds)) if self.limited else 0.0

    @property
    def limited(self) -> bool:
        return math.isfinite(self._limit)

    @property
    def left(self) -> float:
        """Seconds until training has to stop; infinite without a limit."""
        return self._limit - self.reserve - time.monotonic()


def reason(clock: Clock) -> str | None:
    """Why training has to stop now, or None."""
    if _received:
        return f"signal {_received[0].name}"
    return "time limit" if clock.limited and clock.left <= 0 else None
