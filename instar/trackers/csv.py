"""CSV: one table with a column a measure, for spreadsheets, pandas and R.

    track: [csv]

RUN/trackers/csv/metrics.csv has one row a measured point: step, kind, time, samples, epoch, and every measure under its
name (`train/loss`, `val/accuracy`). What a point did not measure is empty. Needs nothing to be installed.
"""

import csv
import io
import os
import shlex
from collections.abc import Sequence
from typing import Any, Literal

from instar.points import About, Ending, Point
from instar.run import write_atomically
from instar.settings import Settings as Base

PACKAGES: tuple[str, ...] = ()
SECRETS: tuple[str, ...] = ()
_FIRST = ("step", "kind", "time")


class Settings(Base):
    """A table, for spreadsheets, pandas and R."""

    kind: Literal["csv"] = "csv"
    """A table, for spreadsheets, pandas and R."""


def open(settings: Settings, about: About, kept: dict[str, Any]) -> "Table":
    return Table(about)


class Table:
    """Writes metrics.csv: appends to it, and writes it anew where a new measure makes a column."""

    starts_anew = True

    def __init__(self, about: About):
        self._file = about.folder / "metrics.csv"
        self._columns = list(_FIRST)
        self._rows: list[dict[str, Any]] = []
        self._begun = False

    def write(self, points: Sequence[Point]) -> None:
        rows: list[dict[str, Any]] = [
            {"step": point.step, "kind": point.kind, "time": point.seconds, **point.values} for point in points
        ]
        before = len(self._columns)
        self._columns = list(dict.fromkeys([*self._columns, *(name for row in rows for name in row)]))
        self._rows += rows
        if self._begun and len(self._columns) == before:
            with self._file.open("a", encoding="utf-8", newline="") as file:
                file.write(self._lines(rows))
            return
        write_atomically(self._file, self._lines([dict(zip(self._columns, self._columns, strict=True)), *self._rows]))
        self._begun = True

    def finish(self, ending: Ending) -> None:
        """The scores are not points; predictions/ has them."""

    def close(self) -> str:
        return shlex.quote(os.path.relpath(self._file))

    def _lines(self, rows: Sequence[dict[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue()
