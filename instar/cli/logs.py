"""Print what the job of a run said

instar logs RUN          the end of it
instar logs RUN -f       and what it says from now on, until it ends

lines=40       how many lines; all for everything
job=2          an earlier job of the run, by its number in RUN/jobs
runs=FOLDER    where runs are, instead of runs/
--json         the files, as one JSON object
"""

import json
import os
import time
from collections import deque
from pathlib import Path

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE, ConfigError, RunError

FLAGS = ("follow",)
THINGS = (1, 1)
_TURN_SECONDS = 0.5


def run(words: Words) -> int:
    from instar import run as runs

    given = words.only("runs", "lines", "job")
    found = runs.find(words.things[0], Path(given.get("runs", "runs")))
    log = log_of(found, given.get("job"))
    if "json" in words:
        terminal.say(json.dumps({"run": str(found.path), "log": str(log), "there": log.exists()}))
        return DONE
    position = _tail(log, _lines(given.get("lines", "40")))
    if "follow" in words:
        _follow(found, log, position)
    return DONE


def log_of(run: "object", number: str | None = None) -> Path:
    """The log of the newest job of a run, or of the one with this number."""
    from instar import queue
    from instar.run import Run

    assert isinstance(run, Run)
    if number is not None:
        folder = run.jobs / f"{int(number):04}" if number.isdigit() else run.jobs / number
        if not folder.is_dir():
            raise RunError(f"{run.path} has no job {number}. There are: {', '.join(_numbers(run.jobs)) or 'none'}")
        return folder / "log.txt"
    job = queue.newest(run)
    if job is None:
        raise RunError(f"{run.path} was never a job, so there is no log. What happened: instar why {run.path}")
    return queue.log_of(run, job)


def _numbers(jobs: Path) -> list[str]:
    return sorted(str(int(one.name)) for one in jobs.glob("*") if one.name.isdigit())


def _lines(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit():
        raise ConfigError(f"lines={text!r} must be a whole number, or all")
    return int(text)


def last_lines(log: Path, number: int) -> list[str]:
    """The last lines of a log; none where there is no log."""
    try:
        with open(log, encoding="utf-8", errors="replace", newline="") as file:
            return [line.rstrip("\r\n") for line in deque(file, maxlen=number)]
    except OSError:
        return []


def _tail(log: Path, lines: int | None) -> int:
    """Print the end of a file; returns the bytes of it that have been read."""
    try:
        with open(log, encoding="utf-8", errors="replace", newline="") as file:
            for line in deque(file, maxlen=lines):
                terminal.say(line.rstrip("\r\n"))
            return file.tell()
    except FileNotFoundError:
        terminal.say(f"{log} is not there yet: the job has not begun", error=True)
        return 0


def _follow(run: "object", log: Path, position: int) -> None:
    """Print what is appended, until nothing more can come."""
    from instar.run import Run

    assert isinstance(run, Run)
    while True:
        state = run.status()["state"]
        position = _print_from(log, position)
        if state not in ("queued", "running"):
            return
        time.sleep(_TURN_SECONDS)


def _print_from(log: Path, position: int) -> int:
    try:
        with open(log, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(position if size >= position else 0)
            whole = file.read()
    except OSError:
        return position
    end = whole.rfind(b"\n") + 1  # half a line waits for its other half
    for line in whole[:end].decode("utf-8", "replace").splitlines():
        terminal.say(line)
    return (position if size >= position else 0) + end
