"""Score a run on rows it has not learnt from, every row exactly once

    instar evaluate RUN                 the best checkpoint on the test rows
    instar evaluate RUN split=val       or on the validation rows

    checkpoint=latest   instead of the best
    device=cpu workers=4
    runs=FOLDER    where runs are, instead of runs/
    --json         the scores as one JSON object

Writes RUN/predictions/SPLIT.parquet: id, path, label, prediction, confidence, probability of every class.
"""

import json
from pathlib import Path
from typing import Any

from instar import caches, terminal
from instar.cli.words import Words, to_type
from instar.errors import DONE, ConfigError
from instar.formats import count, interval, one_line, score, table

FLAGS = ()
THINGS = (1, 1)
MACHINE = ("device", "workers", "timeout", "stage", "cache")


def run(words: Words) -> int:
    from instar import brought
    from instar import run as runs
    from instar.machine import Machine
    from instar.validation import validate

    caches.refuse_network()
    given = words.only("split", "checkpoint", "runs", *MACHINE)
    split, checkpoint = given.get("split", "test"), given.get("checkpoint", "best")
    _one_of("split", split, ("test", "val", "train"))
    _one_of("checkpoint", checkpoint, ("best", "latest"))
    machine = validate(Machine, {}, [f"{key}={given[key]}" for key in MACHINE if key in given])
    found = runs.find(words.things[0], Path(given.get("runs", "runs")))
    if brought.of_file(found.path) is not None:
        from instar.cli import _brought

        told = _brought.evaluate(found, split=split, checkpoint=checkpoint, machine=machine)
        terminal.say(
            json.dumps({"run": str(found.path), "split": split, "scores": found.scores(split)})
            if "json" in words
            else "\n".join(told)
        )
        return DONE

    from instar import evaluate

    scores = evaluate.evaluate(found, split=split, checkpoint=checkpoint, machine=machine)
    if "json" in words:
        terminal.say(json.dumps({"run": str(found.path), "split": split, "scores": scores}))
    elif "quiet" not in words:
        terminal.say("\n".join(lines(found, split, scores)))
    return DONE


def lines(found: Any, split: str, scores: dict[str, Any]) -> list[str]:
    """The scores that are one number, each with its interval where it has one."""
    intervals = scores.get("intervals") or {}
    told = [
        (name.replace("_", " "), score(name, value), interval(name, *intervals[name]) if name in intervals else "")
        for name, value in scores.items()
        if isinstance(value, float)
    ]
    return [
        f"{split:<9}{count(int(scores.get('rows', 0)))} rows of {one_line(found.name)}",
        *(f"         {line}" for line in table(told, right=(1,))),
        f"look     {one_line(str(found.predictions(split)))}",
        f"         {one_line(str(found.report))}",
        f"next     instar compare {to_type(found.path)} OTHER",
    ]


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}, but must be one of {', '.join(allowed)}")
