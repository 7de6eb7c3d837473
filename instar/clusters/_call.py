"""Calls of a scheduler's commands: bounded in time, tried again where the controller is busy, never a crash.

Every command is a list of words; no shell reads it. Standard library only.
"""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from instar import plugins
from instar.job import State, Submitted

_TRIES = 3
_PAUSE = 1.0  # seconds, doubled each time
# What a controller says that is down, busy or restarting; everything else is an answer.
_PASSING = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Connection timed out",
    "Zero Bytes were transmitted",
    "Slurm temporarily unable to accept job",
    "Resource temporarily unavailable",
    "cannot connect to server",
    "Communication failure",
)


@dataclass(frozen=True)
class Answer:
    """What a command said. `code` is 127 where there is no such command, 124 where it did not answer in time."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """What a person should read of it."""
        return (self.err.strip() or self.out.strip()).replace("sbatch: ", "").replace("error: ", "")

    @property
    def passing(self) -> bool:
        """Whether the same question may have an answer later."""
        return self.code == 124 or (self.code != 0 and any(sign in self.err + self.out for sign in _PASSING))


def call(command: Sequence[str], *, folder: Path | None = None, seconds: float = 30.0, tries: int = _TRIES) -> Answer:
    """Run one command and keep what it says.

    tries   how often to ask a scheduler that gives no answer
    """
    pause = _PAUSE
    while True:
        answer = _once(command, folder, seconds)
        tries -= 1
        if not answer.passing or tries <= 0:
            return answer
        time.sleep(pause)
        pause *= 2


def _once(command: Sequence[str], folder: Path | None, seconds: float) -> Answer:
    try:
        done = subprocess.run(
            list(command),
            cwd=folder,
            capture_output=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        return Answer(127, "", f"{command[0]} is not on the PATH")
    except subprocess.TimeoutExpired:
        return Answer(124, "", f"{command[0]} gave no answer within {seconds:g} s")
    except OSError as error:
        return Answer(126, "", f"{command[0]}: {error.strerror}")
    return Answer(done.returncode, done.stdout, done.stderr)


def states(jobs: Sequence[Submitted], *, seconds: float = 10.0, tries: int = 1) -> dict[str, State]:
    """How jobs stand, by number, or number_element for an array; one question a scheduler.

    What nobody answers for is `unknown`; what nobody remembers is `lost`.
    """
    found: dict[str, State] = {}
    for kind in sorted({job.scheduler for job in jobs}):
        cluster = plugins.load("clusters", kind)
        ids = list(dict.fromkeys(one for job in jobs if job.scheduler == kind for one in job.ids))
        found |= _asked(cluster, ids, seconds=seconds, tries=tries)
    return found


def _asked(cluster: ModuleType, ids: Sequence[str], *, seconds: float, tries: int) -> dict[str, State]:
    answer = call(cluster.ask(ids), seconds=seconds, tries=tries)
    understood = answer.code == 0 or cluster.forgotten(answer.err)
    found = cluster.states(answer.out) if understood else {}
    missing = [one for one in ids if not any(_of(one, known) for known in found)]
    if missing and cluster.ask_accounting(missing):
        kept = call(cluster.ask_accounting(missing), seconds=seconds, tries=1)
        found |= cluster.states(kept.out) if kept.code == 0 else {}
    silent = State("lost", "", "the scheduler has forgotten it") if understood else State("unknown", "", answer.text)
    return found | {one: silent for one in missing if not any(_of(one, known) for known in found)}


def _of(job: str, known: str) -> bool:
    """Whether a state is that of a job or of one of its elements."""
    return known == job or known.startswith((f"{job}_", f"{job}["))
