"""Put runs side by side: their scores, and the settings in which they differ

instar compare RUN RUN…            on the test rows
instar compare RUN RUN split=val

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
from instar.formats import clock, count, epoch, interval, one_line, score, table

FLAGS = ()
THINGS = (2, 99)


def run(words: Words) -> int:
    from instar import run as runs

    given = words.only("split", "runs")
    found = [runs.find(thing, Path(given.get("runs", "runs"))) for thing in words.things]
    if len({one.path.resolve() for one in found}) < len(found):
        raise RunError("the same run is there twice. Name different ones; see: instar runs")

    from instar import evaluate

    split = given.get("split", "test")
    rows = evaluate.compare(found, split=split)
    if "json" in words:
        terminal.say(json.dumps({"split": split, "runs": rows}))
    else:
        terminal.say("\n".join(lines(rows, split)))
    return DONE


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
    less, low, high = (-100 * value for value in behind)
    sure = "" if min(low, high) > 0 or max(low, high) < 0 else ", may be chance"
    return f"{less:+.1f} [{min(low, high):+.1f}, {max(low, high):+.1f}]{sure}"
