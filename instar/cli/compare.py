"""Put runs side by side: their scores, and the settings in which they differ

instar compare RUN RUN…            on the test rows
instar compare RUN RUN split=val

runs=FOLDER    where runs are, instead of runs/
--json         the same as one JSON object
"""

import json
from pathlib import Path
from typing import Any

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE, RunError
from instar.formats import interval, one_line, score, table

FLAGS = ()
THINGS = (2, 99)


def run(words: Words) -> int:
    from instar import run as runs

    given = words.only("split", "runs")
    split = given.get("split", "test")
    found = [runs.find(thing, Path(given.get("runs", "runs"))) for thing in words.things]
    if len({one.path.resolve() for one in found}) < len(found):
        raise RunError("the same run is there twice. Name different ones; see: instar runs")

    from instar import evaluate, experiment

    together = evaluate.compare(found, split=split)
    first, *others = [experiment.load(one.path) for one in found]
    differences = [experiment.differences(first, other) for other in others]
    scores = [one.scores(split) for one in found]
    if "json" in words:
        names = [str(one.path) for one in found]
        facts = {"runs": names, "split": split, "scores": scores, "differences": differences, "paired": together}
        terminal.say(json.dumps(facts))
        return DONE
    names = [one_line(one.name) for one in found]
    terminal.say("\n".join([*table(score_rows(names, scores), right=range(1, len(names) + 1)), ""]))
    for name, lines in zip(names[1:], differences, strict=True):
        terminal.say("\n".join([f"{names[0]} -> {name}", *(f"  {line}" for line in lines or ["the same settings"])]))
    return DONE


def score_rows(names: list[str], scores: list[dict[str, Any]]) -> list[list[str]]:
    """A table of every score that is one number in some run."""
    metrics = dict.fromkeys(name for one in scores for name, value in one.items() if isinstance(value, float))
    return [["score", *names], *([metric, *(_cell(metric, one) for one in scores)] for metric in metrics)]


def _cell(metric: str, scores: dict[str, Any]) -> str:
    if metric not in scores:
        return ""
    ends = (scores.get("intervals") or {}).get(metric)
    return f"{score(metric, scores[metric])}{f' {interval(metric, *ends)}' if ends else ''}"
