"""Faults on purpose, at named points, so that survival can be tested. Free when INSTAR_FAULT is not set.

INSTAR_FAULT=point:n:action    at the n-th passage (from 1) of `point` in this process, do `action`
INSTAR_FAULT=point@rank:n:action                       the same on one rank only
Several are joined by commas. Actions: kill, term, usr1, stop, raise, oom, nan, enospc, exit, sleep<seconds>.
"""

import errno
import os
import signal
import time

_armed: dict[str, list[tuple[int, str]]] = {}
_passed: dict[str, int] = {}


def point(name: str) -> str | None:
    """Pass a named point; returns 'nan' when the caller is to poison its own numbers, else None."""
    if not _armed:
        return None
    _passed[name] = _passed.get(name, 0) + 1
    for at, action in _armed.get(name, []):
        if at == _passed[name]:
            return _act(name, action)
    return None


def arm(specification: str, rank: int = 0) -> None:
    """Read INSTAR_FAULT for this rank; called once a process, when its rank is known."""
    _armed.clear()
    _passed.clear()
    for part in filter(None, specification.split(",")):
        name, at, action = part.split(":")
        name, _, only = name.partition("@")
        if not only or int(only) == rank:
            _armed.setdefault(name, []).append((int(at), action))


def _act(name: str, action: str) -> str | None:
    signals = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "usr1": signal.SIGUSR1, "stop": signal.SIGSTOP}
    if action in signals:
        os.kill(os.getpid(), signals[action])
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
