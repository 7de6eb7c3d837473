"""Mirror: trackers show what metrics.jsonl says. It is the truth; they may fail, hang or be added later.

A process of its own follows the file while a training runs, so that nothing a tracker does can hurt the training.
"""

import json
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from instar import documents, plugins
from instar.errors import ConfigError, InstarError
from instar.run import Run, write_atomically
from instar.settings import Settings

Point = dict[str, Any]
_LOOKS = 2.0  # seconds between two looks at the file
_LAST = 10.0  # seconds that the end of a training waits for it
_ASIDE = ("time", "kind", "step", "samples", "best", "seen")


def numbers(point: Point) -> dict[str, float]:
    """The numbers of a measured point as trackers name them: `val/accuracy`, and `epoch`."""
    found = {
        f"{point['kind']}/{name}": float(value)
        for name, value in point.items()
        if name not in (*_ASIDE, "epoch") and isinstance(value, int | float) and math.isfinite(value)
    }
    return {**found, "epoch": float(point.get("epoch", 0.0))}


def settings_of(wanted: Sequence[Any]) -> list[Settings]:
    """The settings of trackers, from kinds or mappings with `kind`; raises ConfigError naming the near miss."""
    from instar.settings import Shelf
    from instar.validation import validate

    shelf, found = Shelf("trackers", default="csv"), []
    for one in wanted:
        given = shelf.spelled_out(one)
        found.append(validate(shelf.settings(str(given["kind"])), documents.Document(given)))
    return found


def mirror(run: Run, wanted: Sequence[Settings]) -> dict[str, str]:
    """Bring trackers up to what metrics.jsonl says now; returns what went wrong, by kind.

    Each remembers how far it came, so a point that a resumed training measures once more is told once.
    """
    problems: dict[str, str] = {}
    for settings in wanted:
        with _Mirror(run, settings, problems) as one:
            one.look()
    return problems


def follow(run: Run, wanted: Sequence[Settings]) -> dict[str, str]:
    """The same again and again, until nobody holds our standard input any more; then once more."""
    problems: dict[str, str] = {}
    mirrors = [_Mirror(run, settings, problems) for settings in wanted]
    ended, parent = False, os.getppid()
    while not ended:
        ready, _, _ = select.select([sys.stdin], [], [], _LOOKS)
        ended = bool(ready) or os.getppid() != parent
        for one in mirrors:
            one.look()
    for one in mirrors:
        one.close()
    return problems


class _Mirror:
    """One tracker, opened when there is something to tell it. One that fails is told to nobody but the log."""

    def __init__(self, run: Run, settings: Settings, problems: dict[str, str]):
        self._run, self._settings, self._problems = run, settings, problems
        self._kind = str(settings.model_dump()["kind"])
        self._file = run.trackers / f"{self._kind.rpartition('.')[2]}.json"
        self._state = self._read()
        self._tracker: Any = None

    def look(self) -> None:
        """Tell it what is new."""
        if self._kind in self._problems:
            return
        told = self._state["told"]
        new = [
            point for point in self._run.metrics() if point.get("samples", -1) > told.get(str(point.get("kind")), -1)
        ]
        if not new:
            return
        try:
            if self._tracker is None:
                self._tracker = plugins.load("trackers", self._kind).open(
                    self._settings, self._run, _recipe(self._run), self._state["own"]
                )
            self._tracker.write(new)
        except Exception as error:
            self._problems[self._kind] = f"{type(error).__name__}: {error}"
            return
        for point in new:
            kind = str(point.get("kind"))
            told[kind] = max(told.get(kind, -1), point["samples"])
        write_atomically(self._file, json.dumps(self._state) + "\n")

    def close(self) -> None:
        if self._tracker is not None and self._kind not in self._problems:
            try:
                self._tracker.close()
            except Exception as error:
                self._problems[self._kind] = f"{type(error).__name__}: {error}"

    def __enter__(self) -> "_Mirror":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            return {"told": dict(found["told"]), "own": dict(found["own"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {"told": {}, "own": {}}


def _recipe(run: Run) -> dict[str, Any]:
    """The recipe of a run by dotted names, for a tracker to list."""

    def flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{above}{name}.")
            else:
                yield above + name, value

    with suppress(InstarError):
        return dict(flat(documents.read(run.experiment_file)))
    return {}


@contextmanager
def mirrored(run: Run, wanted: Sequence[Any], *, rank: int) -> Iterator[None]:
    """Have the trackers follow while the block runs, in a process of their own; on rank 0 only.

    It is told to come to an end with the block, and waited for no longer than ten seconds.
    """
    if rank != 0 or not wanted:
        yield
        return
    run.trackers.mkdir(parents=True, exist_ok=True)
    with open(run.trackers / "log.txt", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "instar", "track", str(run.path.absolute()), "--follow"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)},
            start_new_session=True,
        )
    try:
        yield
    finally:
        assert process.stdin is not None, "asked for"
        process.stdin.close()
        end = time.monotonic() + _LAST
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        if process.poll() is None:
            process.kill()
            process.wait()
            run.log_event("tracker", rank=0, reason=f"did not end within {_LAST:g} s; instar track {run.path} goes on")


# What would make the follower take itself for a rank, or pass a fault on to it.
_LAUNCHERS = ("INSTAR_RANK", "INSTAR_WORLD", "INSTAR_LOCAL", "INSTAR_LAUNCH", "INSTAR_REPORT", "INSTAR_FAULT",
              "INSTAR_EXIT", "SLURM_", "OMPI_", "PMI", "PALS_", "RANK", "WORLD_SIZE", "LOCAL_")  # fmt: skip


def wanted_of(run: Run) -> list[Any]:
    """The trackers that the recipe of a run names."""
    found = documents.read(run.experiment_file).get("track") or []
    if not isinstance(found, list):
        raise ConfigError(f"{run.experiment_file}: track must be a list of trackers")
    return found
