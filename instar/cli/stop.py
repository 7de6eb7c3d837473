"""Let a run save and stop for good: its job, what follows it, or the process on this machine

    instar stop RUN

    --now          without waiting for a save
    runs=FOLDER    where runs are, instead of runs/
    --json         what was told, as one JSON object

instar resume RUN, or the same instar train, carries on from the last save.
"""

import json
import os
import signal
from pathlib import Path

from instar import terminal
from instar.cli.words import Words, to_type
from instar.errors import DONE, RunError

FLAGS = ("now",)
THINGS = (1, 1)


def run(words: Words) -> int:
    from instar import queue
    from instar import run as runs

    found = runs.find(words.things[0], Path(words.only("runs").get("runs", "runs")))
    job = queue.newest(found)
    element = queue.element_of(found, job) if job is not None else None
    told = queue.stop(job, now="now" in words, element=element) if job is not None else []
    if not told and (pid := _here(found)):
        os.kill(pid, signal.SIGKILL if "now" in words else signal.SIGTERM)
        told = [f"process {pid}"]
    if not told:
        raise RunError(f"{found.path}: no job of it waits or runs, and no process on this machine writes into it.")
    found.log_event("stop_asked", told=told, now="now" in words)
    if "json" in words:
        terminal.say(json.dumps({"run": str(found.path), "told": told}))
    else:
        name = to_type(found.path)
        terminal.say(
            f"told     {', '.join(told)}: save and stop\nnext     instar why {name}   ·   instar resume {name}"
        )
    return DONE


def _here(run: "object") -> int | None:
    """The process on this machine that writes into a run."""
    from instar.engine.ranks import process
    from instar.run import Run

    assert isinstance(run, Run)
    try:
        lease = json.loads(run.lease_file.read_text(encoding="utf-8"))
        holder = process.named_in(lease) if lease["state"] == "held" else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return holder.pid if holder is not None and holder.state() in ("alive", "stopped") else None
