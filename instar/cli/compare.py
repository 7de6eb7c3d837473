"""Put runs side by side: their scores, and the settings in which they differ

instar compare RUN RUN…            on the test rows
instar compare RUN RUN split=val
instar compare RUN…                runs that differ in their seed only are trials of one recipe: their mean, and where
                                   it lies with 95 %

metric=NAME    of trials: another score than the first that all have

runs=FOLDER    where runs are, instead of runs/
--json         the same as one JSON object
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE, RunError
from instar.formats import clock, count, cut, epoch, interval, one_line, score, table

FLAGS = ()
THINGS = (2, 99)


def run(words: Words) -> int:
    from instar import run as runs

    given = words.only("split", "runs", "metric")
    found = [runs.find(thing, Path(given.get("runs", "runs"))) for thing in words.things]
    if len({one.path.resolve() for one in found}) < len(found):
        raise RunError("the same run is there twice. Name different ones; see: instar runs")

    from instar import evaluate

    split = given.get("split", "test")
    from instar import brought, trials

    grouped = trials.groups(found)
    if len(grouped) < len(found) or any(brought.of_file(one.path) is not None for one in found):
        rows = trials.compare(grouped, split=split, metric=given.get("metric"))
        terminal.say(
            json.dumps({"split": split, "recipes": rows}) if "json" in words else "\n".join(of_trials(rows, split))
        )
        return DONE
    rows = evaluate.compare(found, split=split)
    if "json" in words:
        terminal.say(json.dumps({"split": split, "runs": rows}))
    else:
        terminal.say("\n".join(lines(rows, split)))
    return DONE


def of_trials(rows: Sequence[dict[str, Any]], split: str) -> list[str]:
    """A table of recipes with the mean over their trials, and what differs between the recipes."""
    head = (f"{split} rows", f"mean {rows[0]['metric']}", "95 % of the mean", "from", "to", "trials", "seeds")
    shown = table(
        [
            head,
            *(
                (
                    one_line(row["name"]),
                    score(row["metric"], row["mean"]),
                    interval(row["metric"], *row["interval"]) if row["interval"] else "",
                    score(row["metric"], min(row["values"])),
                    score(row["metric"], max(row["values"])),
                    count(len(row["values"])),
                    cut(", ".join(map(str, sorted(row["seeds"]))), 20),
                )
                for row in rows
            ),
        ],
        right=(1, 3, 4, 5),
    )
    if len({row["rows"] for row in rows if row["rows"]}) > 1:
        shown.append("note     not all were scored on the same rows: compare the same seeds of each recipe")
    for row in rows:
        if row["differences"]:
            shown += ["", one_line(row["name"]), *(f"  {one_line(change)}" for change in row["differences"])]
    return shown


def lines(rows: Sequence[dict[str, Any]], split: str) -> list[str]:
    """A table, the best run first, and what its settings differ in from the others'."""
    head = (f"{split} rows", rows[0]["metric"], "95 %", "ahead of next", "epochs", "time", "weights")
    shown = table(
        [head, *(_cells(row, after) for row, after in zip(rows, [*rows[1:], None], strict=True))], right=(1, 4, 5, 6)
    )
    first = one_line(rows[0]["name"])
    for row in rows[1:]:
        changes = row["differences"] or ["the same settings"]
        shown += ["", f"{first} -> {one_line(row['name'])}", *(f"  {one_line(change)}" for change in changes)]
    return shown


def _cells(row: dict[str, Any], after: dict[str, Any] | None) -> tuple[str, ...]:
    metric = row["metric"]
    behind = after["ahead"] if after else None
    return (
        one_line(row["name"]),
        score(metric, row["value"]),
        interval(metric, *row["interval"]) if row["interval"] else "",
        _lead(behind) if behind else "",
        epoch(row["epochs"]),
        clock(row["seconds"]),
        count(row["parameters"]) if row["parameters"] else "",
    )


def _lead(behind: Sequence[float]) -> str:
    """How far the next run is behind, in points of a per cent, with the interval of the difference on the same rows."""
    if not any(behind):
        return "equal"
    less, low, high = (-100 * value for value in behind)
    sure = "" if min(low, high) > 0 or max(low, high) < 0 else ", may be chance"
    return f"{less:+.1f} [{min(low, high):+.1f}, {max(low, high):+.1f}]{sure}"
