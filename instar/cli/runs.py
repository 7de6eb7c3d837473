"""List the runs: how far each is, how good, how long it still takes

instar runs                 those in runs/, newest first
instar runs FOLDER

--json         everything known, as a JSON list
"""

import json
import time
from pathlib import Path
from typing import Any

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE
from instar.formats import ago, clock, epoch, one_line, percent, score, table

FLAGS = ()
THINGS = (0, 1)


def run(words: Words) -> int:
    from instar import run as runs

    folder = Path(words.things[0] if words.things else words.only("runs").get("runs", "runs"))
    found = list(runs.everything(folder))
    states = [one.status() for one in found]
    if any(state["job"] and state["state"] in ("queued", "running", "silent") for state in states):
        from instar import queue  # few lists need to ask a scheduler

        states = queue.corrected(found, states)
    if "json" in words:
        terminal.say(json.dumps(states))
    elif not states:
        terminal.say(f"no runs in {one_line(str(folder))}{'' if folder.is_dir() else ', which is not there'}")
        terminal.say("next     instar train FOLDER")
    else:
        now = time.time()
        terminal.say("\n".join(table([HEAD, *(row(state, now) for state in states)], right=(2, 3, 4, 5, 6))))
    return DONE


HEAD = ("run", "state", "done", "epoch", "val", "test", "left", "when")


def row(state: dict[str, Any], now: float) -> tuple[str, ...]:
    """One line of the table."""
    best, test = state["best"], state["test"]
    metric = best.get("metric", "accuracy")
    running = state["state"] in ("running", "queued", "stopped", "silent")
    job = f" {state['job']}" if state["job"] and state["state"] in ("running", "queued") else ""
    return (
        one_line(state["name"]),
        f"{state['state']}{job}",
        percent(state["share"]).replace(".0 ", " "),
        epoch(state["epoch"]),
        score(metric, best["value"]) if best.get("value") is not None else "",
        score(metric, test[metric]) if metric in test else "",
        clock(state["seconds_left"]) if running and state["seconds_left"] else "",
        ago(now - state["changed"]) if state["changed"] else "",
    )
