"""Rank 0's side of the mirrors: start one a tracker, and wait for their last words, never for long.

Where a training is stopped, they have a few seconds: at its next start they go on from where they were.
"""

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from instar import plugins
from instar.engine.tracking.mirror import SECRET
from instar.errors import ConfigError
from instar.run import Run

END_SECONDS = 60.0  # for the last points, the scores and the page of a run that is over
STOP_SECONDS = 5.0  # for those of one that is stopped: the job's own end may be near
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def check(trackers: Sequence[Any]) -> None:
    """Raises ConfigError, with what to install, where a tracker's package is not there. Imports none of them."""
    missing = [
        f"track: {one.kind} needs {package}, which is not installed here: pip install 'instar[trackers]'"
        for one in trackers
        for package in plugins.load("trackers", one.kind).PACKAGES
        if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise ConfigError(missing)


@dataclass(frozen=True)
class Word:
    """What became of one tracker.

    next      what to type, or nothing
    problem   why it was not told everything; empty where it was
    """

    kind: str
    next: str
    problem: str


class Followers:
    """The mirrors of one training. Nothing that happens to them raises here."""

    def __init__(self, trackers: Sequence[Any]):
        self._trackers = trackers
        self._run: Run | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, run: Run) -> None:
        """Start to follow a run, from the main thread: Linux ends a mirror with the thread that started it."""
        self._run = run
        for tracker in self._trackers:
            try:
                self._processes[tracker.kind] = _start(run, tracker)
            except OSError as error:
                run.log_event("tracker_failed", tracker=tracker.kind, reason=f"it cannot be started: {error}")

    def __enter__(self) -> "Followers":
        return self

    def __exit__(self, *_: object) -> None:
        self.end(STOP_SECONDS)

    def end(self, seconds: float | None = END_SECONDS) -> list[Word]:
        """Have the rest told; what is not done after so many seconds is killed. None waits as long as it takes."""
        processes, self._processes = self._processes, {}
        for process in processes.values():
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.write(b"end\n")
        until = None if seconds is None else time.monotonic() + seconds
        return [self._last_word(kind, process, until) for kind, process in processes.items()]

    def _last_word(self, kind: str, process: "subprocess.Popen[bytes]", until: float | None) -> Word:
        assert self._run is not None and process.stdout is not None and process.stdin is not None
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN | select.POLLHUP)
        answered = poll.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000)
        line = process.stdout.readline() if answered else b""
        if line:
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)
        _kill(process)
        process.stdin.close()
        process.stdout.close()
        if line:
            return Word(kind, **json.loads(line))
        how = "it died" if answered else "it took too long"
        self._run.log_event("tracker_failed", tracker=kind, reason=how)
        return Word(kind, "", how)


def told(words: Sequence[Word], again: str) -> list[str]:
    """A line a tracker for people: what to type next, or that it lacks something and how it gets that.

    again   the name of the run, as one would type it
    """
    return [
        f"track    {word.kind} lacks something ({word.problem}); later: instar track {again} to={word.kind}"
        if word.problem
        else f"track    {word.kind}{f': {word.next}' if word.next else ''}"
        for word in words
    ]


def _start(run: Run, tracker: Any) -> "subprocess.Popen[bytes]":
    # Blocked signals stay blocked in the child, so it cannot die of one before it has learnt to ignore it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "instar.engine.tracking.mirror", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(plugins.load("trackers", tracker.kind).SECRETS),
            bufsize=0,
            process_group=0,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert process.stdin is not None
    order = {"run": str(run.path.absolute()), "tracker": tracker.model_dump(mode="json")}
    process.stdin.write(json.dumps(order).encode() + b"\n")
    return process


def _environment(allowed: Sequence[str]) -> dict[str, str]:
    """This process's variables without those of other people's secrets and of the scheduler, which W&B would upload."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(tuple(allowed)) or not (SECRET.search(name) or name.startswith(("SLURM_", "PBS_")))
    }


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a mirror and what it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
