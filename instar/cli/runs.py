"""List the runs: how far each is, how good, how long it still takes

instar runs                 those in runs/, newest first
instar runs FOLDER
instar runs STUDY           the trials of a study

--json         everything known, as a JSON list
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE
from instar.formats import ago, clock, epoch, one_line, percent, score, table

if TYPE_CHECKING:
    from instar.run import Run

FLAGS = ()
THINGS = (0, 1)


def run(words: Words) -> int:
    from instar import run as runs

    folder = Path(words.things[0] if words.things else words.only("runs").get("runs", "runs"))
    folder = next((place / "trials" for place in (folder, "runs" / folder) if (place / STUDY).exists()), folder)
    found = list(runs.everything(folder))
    states = [_status(one) for one in found]
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


STUDY = "study.yaml"


def _status(one: "Run") -> dict[str, Any]:
    if not (one.path / STUDY).exists():
        return one.status()
    from instar.study import Study  # few folders have one, and it reads recipes

    return Study(one.path).status()


HEAD = ("run", "state", "done", "epoch", "val", "test", "left", "when")


def row(state: dict[str, Any], now: float) -> tuple[str, ...]:
    """One line of the table."""
    best, test = state["best"], state["test"]
    metric = best.get("metric", "accuracy")
    running = state["state"] in ("running", "queued", "stopped", "silent")
    job = f" {state['job']}" if state["job"] and state["state"] in ("running", "queued") else ""
    trials = state.get("trials")
    far = f"{trials['ended']} of {trials['wanted']}" if trials else epoch(state["epoch"])
    kind = "study " if trials else ""
    return (
        one_line(state["name"]),
        f"{kind}{state['state']}{job}",
        percent(state["share"]).replace(".0 ", " "),
        far,
        score(metric, best["value"]) if best.get("value") is not None else "",
        score(metric, test[metric]) if metric in test else "",
        clock(state["seconds_left"]) if running and state["seconds_left"] else "",
        ago(now - state["changed"]) if state["changed"] else "",
    )
