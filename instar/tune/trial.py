"""One trial: an ordinary `instar train` in a process of its own, asked at each evaluation whether it goes on.

Its process is forked off one that has imported everything already (`forks`). What it prints is in the log of the trial.
"""

import json
import math
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from instar.engine import deadline
from instar.engine.ranks.lease import Lease
from instar.errors import AGAIN, DONE
from instar.run import Run
from instar.tune import forks
from instar.tune.forks import Command
from instar.tune.lanes import Lane

_AGAIN_SECONDS = 2.0
TOO_LONG = "took longer"


@dataclass
class Running:
    """A trial that runs here.

    claim        says to everybody else that it does
    listening    where its questions come in
    begun        monotonic seconds
    told         why we asked it to stop; empty while we did not
    before       seconds it has been at work at earlier starts
    killed_at    when it is killed if it has not ended by itself; infinity while it was not asked to
    """

    place: int
    run: Run
    lane: Lane
    claim: Lease
    process: ForkServerProcess
    listening: socket.socket
    before: float
    begun: float = field(default_factory=time.monotonic)
    told: str = ""
    killed_at: float = math.inf
    told_again: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it has been at work, over all starts."""
        return self.before + time.monotonic() - self.begun

    def stop(self, why: str, *, grace: float = 60.0) -> None:
        """Let it save and stop; it may be too young to hear it the first time."""
        now = time.monotonic()
        if not self.told:
            self.told, self.killed_at = why, now + grace
        if now >= self.told_again:
            self.told_again = now + _AGAIN_SECONDS
            _send(self.process, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it started."""
        pid = self.process.pid
        if pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self.process.kill()


def start(
    place: int,
    run: Run,
    words: Sequence[str],
    *,
    lane: Lane,
    claim: Lease,
    command: Command,
    log: Path,
    sockets: Path,
    before: float,
    server: ForkServerContext,
) -> Running:
    """Start the command `instar WORDS` as this trial.

    sockets   a folder on this machine with a short name, for the sockets of trials
    before    seconds it has been at work already
    server    what its process is forked off
    """
    address = sockets / str(place)
    address.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(address))
    listening.listen()
    environ = {**lane.environ(), "INSTAR_TRIAL": str(address)}
    process = server.Process(target=forks.live, args=(command, list(words), str(log), environ, lane.cores))
    process.start()
    return Running(place, run, lane, claim, process, listening, before)


def question(asking: socket.socket) -> dict[str, Any] | None:
    """What a trial asks after an evaluation; None where it has gone."""
    asking.settimeout(5.0)
    text = b""
    try:
        while not text.endswith(b"\n"):
            part = asking.recv(4096)
            if not part:
                return None
            text += part
        found = json.loads(text)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def answer(asking: socket.socket, *, go_on: bool) -> None:
    with suppress(OSError):
        asking.sendall(json.dumps({"go_on": go_on}).encode() + b"\n")


# --- how it ended ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """How the process of a trial ended.

    state    finished, pruned, failed; stopped (it carries on later), again (it carries on at once), or stuck (nothing
             is wrong with the trial: neither can another one go on here)
    value    best validation score
    reason   in one sentence
    """

    state: str
    value: float | None = None
    reason: str = ""


def ending(running: Running, *, pruned: bool, log: Path) -> Ending:
    """What the exit code and the run folder tell."""
    code, events = running.process.exitcode or DONE, running.run.events()
    if code == DONE:
        return _finished(events, pruned=pruned)
    if pruned:
        return Ending("pruned")
    if running.told:
        return Ending("failed" if running.told.startswith(TOO_LONG) else "stopped", reason=running.told)
    if -code in deadline.STOP_SIGNALS:
        return Ending("stopped", reason=f"signal {signal.Signals(-code).name}")
    if code < 0:
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        reason = f"killed by {signal.Signals(-code).name}{hint}"
        return Ending("failed" if _was_killed(events) else "again", reason=reason)
    return _by_itself(code, _since_start(events), log)


def _by_itself(code: int, events: Sequence[Mapping[str, Any]], log: Path) -> Ending:
    """It ended before its time without being asked to."""
    if code == AGAIN:
        memory = any(event["event"] == "micro_batch" for event in events)
        reason = str(events[-1].get("reason", "it stopped")) if events else "it stopped"
        return Ending("again" if memory else "stuck", reason=reason)
    failed = next((event for event in events if event["event"] == "failed"), {})
    reason = str(failed.get("reason") or _last_words(log) or f"it left with code {code}")
    if failed.get("kind") == "CheckpointError":  # the disk is full, for all others too
        return Ending("stuck", reason=reason)
    return Ending("stopped" if "is in use by process" in reason else "failed", reason=reason)


def _finished(events: Sequence[Mapping[str, Any]], *, pruned: bool) -> Ending:
    ended = [event for event in events if event["event"] == "finished"]
    if pruned or (ended and ended[-1].get("state") == "pruned"):
        return Ending("pruned")
    best = (ended[-1].get("best") or {}) if ended else {}
    value = best.get("value")
    if value is None or not math.isfinite(value):
        return Ending("failed", reason="no evaluation gave a number")
    return Ending("finished", value=float(value))


def _since_start(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    begins = max((i for i, event in enumerate(events) if event["event"] in ("started", "resumed")), default=0)
    return list(events[begins:])


def _was_killed(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether it was killed before while its search lived; once may be bad luck."""
    return any(event["event"] == "trial_killed" for event in events)


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    except OSError:
        return ""
    told = [line for line in lines[-40:] if line.startswith("instar: ")]
    return (told or lines or [""])[-1].removeprefix("instar: ")


def _send(process: ForkServerProcess, number: int) -> None:
    if process.pid is not None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
