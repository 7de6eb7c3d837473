"""Show a run in TensorBoard, MLflow, Weights & Biases or a table, now or while it trains

    instar track RUN to=tensorboard,csv       brings them up to date with metrics.jsonl, which is the truth
    instar track RUN                          those that its recipe names: track: [tensorboard, mlflow]

    runs=FOLDER    where runs are, instead of runs/
    --follow       go on until standard input ends; a training starts this by itself
    --json         what went wrong, by tracker

One curve a run, however often it was stopped. What a tracker does can never hurt a training.
"""

import json
from pathlib import Path

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE, ConfigError, RunError

FLAGS = ("follow",)
THINGS = (1, 1)


def run(words: Words) -> int:
    from instar import mirror
    from instar import run as runs

    given = words.only("to", "runs")
    found = runs.find(words.things[0], Path(given.get("runs", "runs")))
    named = [kind for kind in given.get("to", "").split(",") if kind] or mirror.wanted_of(found)
    if not named:
        raise ConfigError(f"{found.path} names no tracker. Say which: to=tensorboard")
    wanted = mirror.settings_of(named)
    problems = mirror.follow(found, wanted) if "follow" in words else mirror.mirror(found, wanted)
    if "json" in words:
        terminal.say(json.dumps({"run": str(found.path), "problems": problems}))
    elif "quiet" not in words and not problems:
        terminal.say(f"look     {found.trackers}")
    if problems:
        raise RunError("; ".join(f"tracker {kind} failed: {why}" for kind, why in problems.items()))
    return DONE
