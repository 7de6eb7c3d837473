"""Job: something to be run by a scheduler, what was handed to it, and what it said of it since.

Standard library only: the command line asks about jobs before anything else is imported.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from instar.run import write_atomically

# queued: waits; running: has nodes; ended: in whatever way; lost: nothing is known of it any more; unknown: no answer.
Standing = Literal["queued", "running", "ended", "lost", "unknown"]


@dataclass(frozen=True)
class Job:
    """What is to be run, and on what.

    folder         its own: script, log and records; the working directory of the scheduler's command
    start          the directory that the command runs in
    command        words of the command, without launcher and container
    run            the run folder it works in, or for an array the folder of all of them; None where there is none
    seconds        the limit of one link
    links          how many links may follow one another until the work is done
    lead           seconds before its limit that a link is warned
    elements       further words of each element of an array; empty for a single job
    at_once        elements that may run at the same time, 0 for as many as fit
    word           what an element is told its own folder as: run=FOLDER
    progress       file, seen from the folder of the run, whose last number grows as long as something new is saved
    """

    name: str
    folder: Path
    start: Path
    command: tuple[str, ...]
    run: Path | None
    nodes: int
    tasks_per_node: int
    cores_per_task: int
    gpus_per_node: int
    seconds: int
    links: int
    lead: int
    elements: tuple[tuple[str, ...], ...] = ()
    at_once: int = 0
    word: str = "run"
    progress: str = "checkpoints/latest"

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True)
class State:
    """What a scheduler says of a job.

    word     in its own words, such as PENDING
    reason   why it waits or how it ended, where it says so
    start    when it began or is expected to, seconds since 1970
    """

    standing: Standing
    word: str
    reason: str = ""
    start: float | None = None


@dataclass(frozen=True)
class Submitted:
    """A job that was handed over, as it is kept in its folder.

    ids    of its links, in order; one of an array stands for all elements
    """

    folder: Path
    scheduler: str
    site: str
    ids: tuple[str, ...]
    name: str
    nodes: int
    seconds: int
    elements: int
    time: float


@dataclass(frozen=True)
class Finding:
    """What a check found: whether it is in order, what was looked at, what was found, and what to do about it."""

    level: Literal["ok", "warning", "error"]
    what: str
    found: str
    do: str = ""

    @property
    def text(self) -> str:
        """One sentence of it."""
        return ". ".join(part.rstrip(".") for part in (f"{self.what}: {self.found}", self.do) if part)


def write(submitted: Submitted) -> None:
    """Keep it in its folder, whole or not at all."""
    facts = asdict(submitted) | {"folder": str(submitted.folder)}
    write_atomically(submitted.folder / "job.json", json.dumps(facts, indent=1) + "\n")


def read(folder: Path) -> Submitted | None:
    """What was handed over from this folder; None where nothing was, or it cannot be read."""
    try:
        facts: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        return Submitted(**facts | {"folder": folder, "ids": tuple(facts["ids"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def everything(jobs: Path) -> Iterator[Submitted]:
    """All jobs of a run, oldest first. `jobs` is the folder that they are in."""
    try:
        names = sorted(entry.name for entry in os.scandir(jobs) if entry.is_dir())
    except OSError:
        return
    for name in names:
        found = read(jobs / name)
        if found is not None:
            yield found
