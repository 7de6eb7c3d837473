"""Score a run on rows it has not learnt from, every row exactly once

    instar evaluate RUN                 the best checkpoint on the test rows
    instar evaluate RUN split=val       or on the validation rows

    runs=FOLDER    where runs are, instead of runs/
    --json         the scores as one JSON object

Writes RUN/predictions/SPLIT.parquet: id, path, label, prediction, confidence, probability of every class.
"""

import json
from pathlib import Path
from typing import Any

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE, ConfigError
from instar.formats import count, interval, one_line, score

FLAGS = ()
THINGS = (1, 1)


def run(words: Words) -> int:
    from instar import run as runs

    given = words.only("split", "runs")
    split = given.get("split", "test")
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split={split!r}: write train, val or test")
    found = runs.find(words.things[0], Path(given.get("runs", "runs")))

    from instar import evaluate

    evaluate.evaluate(found, split=split)
    scores = found.scores(split)
    if "json" in words:
        terminal.say(json.dumps({"run": str(found.path), "split": split, "scores": scores}))
    elif "quiet" not in words:
        terminal.say("\n".join(lines(found, split, scores)))
    return DONE


def lines(found: Any, split: str, scores: dict[str, Any]) -> list[str]:
    """The scores that are one number, each with its interval where it has one."""
    intervals = scores.get("intervals") or {}
    told = [
        f"{name:<9}{score(name, value)}{f' {interval(name, *intervals[name])}' if name in intervals else ''}"
        for name, value in scores.items()
        if isinstance(value, float)
    ]
    return [
        f"{split:<9}{count(int(scores.get('rows', 0)))} rows of {one_line(found.name)}",
        *told,
        f"look     {one_line(str(found.predictions(split)))}",
        f"next     instar report {one_line(found.name)}",
    ]
