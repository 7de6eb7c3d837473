"""A table beside metrics.jsonl, for spreadsheets: one row a measured point, one column a number.

track: [csv]
"""

import csv
import io
from pathlib import Path
from typing import Any, Literal

from instar.run import Run, write_atomically
from instar.settings import Settings as Base

Point = dict[str, Any]


class Settings(Base):
    """A table, RUN/trackers/metrics.csv."""

    kind: Literal["csv"] = "csv"
    """A table, RUN/trackers/metrics.csv."""


def open(settings: Settings, run: Run, recipe: dict[str, Any], state: dict[str, Any]) -> "Table":
    return Table(run, run.trackers / "metrics.csv")


class Table:
    """The whole table is written anew each time: its columns grow with what is measured."""

    def __init__(self, run: Run, path: Path):
        self._run, self._path = run, path

    def write(self, points: list[Point]) -> None:
        every = self._run.metrics()
        columns = list(dict.fromkeys(name for point in every for name, value in point.items() if _plain(value)))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(every)
        write_atomically(self._path, text.getvalue())

    def close(self) -> None:
        pass


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float)
