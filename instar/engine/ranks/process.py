"""Which process is meant, and whether it still lives; and a clock that stands still while we do.

A process number alone names nobody: numbers are used again, and containers count their own. Standard library only.
"""

import functools
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["alive", "stopped", "gone", "unknown"]


@dataclass(frozen=True)
class Process:
    """A process, told apart from every other one that ever was.

    boot    the machine's boot, empty where the system does not say
    space   the process-number namespace, which differs between containers of one machine
    start   clock ticks from boot to its start (field 22 of /proc/<pid>/stat); -1 where the system does not say
    """

    host: str
    boot: str
    space: str
    pid: int
    start: int

    def facts(self) -> dict[str, Any]:
        """The fields, for a JSON file."""
        return asdict(self)

    def state(self) -> State:
        """Whether it lives, as far as this process can see; 'unknown' on another machine or in another container."""
        here = me()
        if (self.host, self.boot, self.space) != (here.host, here.boot, here.space):
            return "unknown"
        if self.start < 0:
            return _exists(self.pid)
        seen = _stat(self.pid)
        if seen is None or seen[1] != self.start or seen[0] in "ZX":
            return "gone"
        return "stopped" if seen[0] in "Tt" else "alive"


def me() -> Process:
    """This process."""
    return _identify(os.getpid())  # which a fork changes, and nothing else


@functools.lru_cache(maxsize=1)
def _identify(pid: int) -> Process:
    seen = _stat(pid)
    return Process(
        host=socket.gethostname(),
        boot=_text("/proc/sys/kernel/random/boot_id"),
        space=_link("/proc/self/ns/pid"),
        pid=pid,
        start=-1 if seen is None else seen[1],
    )


def named_in(facts: Mapping[str, Any]) -> Process | None:
    """The process a JSON object describes, or None where it describes none."""
    try:
        return Process(
            str(facts["host"]), str(facts["boot"]), str(facts["space"]), int(facts["pid"]), int(facts["start"])
        )
    except (KeyError, TypeError, ValueError):
        return None


class AwakeClock:
    """Seconds that passed while this thread was running.

    A suspended machine, a stopped process or a thread without processor time must not take everybody else for dead
    when it wakes up, so no turn of the loop that calls `tick` counts for more than `most` seconds.
    """

    def __init__(self, most: float):
        self.now = 0.0
        self._most = most
        self._last = time.monotonic()

    def tick(self) -> float:
        """Count the time since the last call; returns the clock's reading."""
        now = time.monotonic()
        self.now += min(now - self._last, self._most)
        self._last = now
        return self.now


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process here, or None where there is none (or no /proc)."""
    text = _text(f"/proc/{pid}/stat")
    # The name in parentheses may hold spaces and parentheses itself; what counts comes after the last one.
    fields = text.rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if len(fields) > 19 else None


def _exists(pid: int) -> State:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except OSError:
        return "alive"  # not ours, but there
    return "alive"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
