"""Faults on purpose, at named points, so that survival can be tested. Free when INSTAR_FAULT is not set.

INSTAR_FAULT=point:n:action    at the n-th passage (from 1) of `point` in this process, do `action`
INSTAR_FAULT=point@rank:n:action                       the same on one rank only
Several are joined by commas. Actions: kill, term, usr1, stop, raise, oom, nan, enospc, exit, sleep<seconds>.
In the checkpoint writer (points `writer.*`) a signal goes to the training process first and then to the writer, as
when a node is lost or a job is told to stop; `exit` ends the writer alone.
"""

import errno
import os
import signal
import time
from collections.abc import Sequence

_armed: dict[str, list[tuple[int, str]]] = {}
_passed: dict[str, int] = {}
_along: list[int] = []


def point(name: str) -> str | None:
    """Pass a named point; returns 'nan' when the caller is to poison its own numbers, else None."""
    if not _armed:
        return None
    _passed[name] = _passed.get(name, 0) + 1
    for at, action in _armed.get(name, []):
        if at == _passed[name]:
            return _act(name, action)
    return None


def arm(specification: str, rank: int = 0, *, along: Sequence[int] = ()) -> None:
    """Read INSTAR_FAULT for this rank; called once a process, when its rank is known.

    along   processes that get every signal of a fault before this one does
    """
    _armed.clear()
    _passed.clear()
    _along[:] = along
    for part in filter(None, specification.split(",")):
        name, at, action = part.split(":")
        name, _, only = name.partition("@")
        if not only or int(only) == rank:
            _armed.setdefault(name, []).append((int(at), action))


def _act(name: str, action: str) -> str | None:
    signals = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "usr1": signal.SIGUSR1, "stop": signal.SIGSTOP}
    if action in signals:
        for process in (*_along, os.getpid()):
            os.kill(process, signals[action])
        return None
    if action == "raise":
        raise RuntimeError(f"fault on purpose at {name}")
    if action == "oom":
        raise MemoryError(f"out of memory on purpose at {name}")
    if action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    if action == "exit":
        os._exit(1)
    if action.startswith("sleep"):
        time.sleep(float(action.removeprefix("sleep")))
        return None
    if action == "nan":
        return "nan"
    raise ValueError(f"INSTAR_FAULT: unknown action {action!r} at {name}")
