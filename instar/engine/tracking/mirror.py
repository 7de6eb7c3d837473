"""The process that tells one tracker what a run measured: it follows metrics.jsonl, beside the training.

    python -m instar.engine.tracking.mirror <pid of the one that started it>

The first line on stdin is an order (see `Order`); then any line means: the run has ended, tell the rest and leave. One
line of JSON on stdout is its last word: what went wrong, and what to type next.

Whatever a library does here - hang, raise, run out of memory - the training does not notice: it waits for nothing but,
at its end and for a bounded time, the last word. What failed is tried again, later and later. The process ignores the
signals that stop a training and dies with the one that started it.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar import documents, plugins, points
from instar.experiment import flat
from instar.points import About, Point, Tracker
from instar.run import Run, objects, write_atomically

_PR_SET_PDEATHSIG = 1
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
_LOOK_SECONDS = 1.0
_LATER_SECONDS = (2.0, 10.0, 60.0)  # until the next attempt after one that failed; the last one again and again
_LAST_ATTEMPTS = 3  # once the run has ended; whoever waits for the last word waits only so long
_AT_ONCE = 500  # points
_KEPT_STATES = ("done", "trained", "stopped")  # of runs that saved everything they measured
# Names of environment variables whose values must not be repeated in a message.
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|_JWT|AUTH", re.IGNORECASE)


@dataclass(frozen=True)
class Order:
    """What to tell to whom.

    run       folder of the run
    tracker   settings of the tracker, with their kind
    """

    run: str
    tracker: dict[str, Any]


class Mirror:
    """Tells one tracker about one run. What is to be remembered stands in RUN/trackers/KIND.json."""

    def __init__(self, run: Run, settings: Any):
        self._run, self._settings = run, settings
        self._file = run.trackers / f"{settings.kind}.json"
        kept = _read(self._file)
        known = kept.get("settings") == settings.model_dump(mode="json")  # another server knows nothing of this run
        self._kept: dict[str, Any] = kept if known else {"settings": settings.model_dump(mode="json")}
        self._tracker: Tracker | None = None
        self._offset, self._last = 0, b""

    def catch_up(self, *, all_of_it: bool = False) -> None:
        """Tell what has come since.

        all_of_it   also what a resume could still take back, for the run has ended
        """
        if self._tracker is None and self._kept.get("finished") == self._standing():
            return
        fresh = self._fresh(all_of_it)
        for start in range(0, len(fresh), _AT_ONCE):
            tracker, part = self._open(), fresh[start : start + _AT_ONCE]
            tracker.write(part)
            if not tracker.starts_anew:
                self._keep(told=[part[-1].step, part[-1].kind])

    def finish(self) -> str:
        """Tell the rest, scores and page; returns what to type next. Does nothing where nothing is new."""
        standing = self._standing()
        if self._kept.get("finished") != standing:
            ending = points.ending(self._run)
            self._open()
            self.catch_up(all_of_it=ending.state in _KEPT_STATES)
            self._open().finish(ending)
        after = self.let_go() or self._kept.get("next", "")
        self._keep(finished=standing, next=after)
        return after

    def let_go(self) -> str:
        """Close the tracker, so that the next word opens it anew."""
        tracker, self._tracker = self._tracker, None
        self._offset, self._last = 0, b""
        return tracker.close() if tracker is not None else ""

    def _open(self) -> Tracker:
        if self._tracker is None:
            module = plugins.load("trackers", self._settings.kind)
            about = _about(self._run, self._settings.kind)
            self._keep(finished=None)
            with redirect_stdout(sys.stderr):
                self._tracker = module.open(self._settings, about, self._kept)
            self._keep()
        return self._tracker

    def _fresh(self, all_of_it: bool) -> list[Point]:
        """The points that are to be told now; a tracker that starts anew is closed where lines were taken back."""
        if not self._offset and not self._lines(0):
            return []
        tracker = self._open()
        if self._was_cut():
            if tracker.starts_anew:
                self.let_go()
                tracker = self._open()
            self._offset, self._last = 0, b""
        limit = sys.maxsize if all_of_it or tracker.starts_anew else self._run.kept_metrics()
        lines = self._lines(self._offset, limit)
        if not lines:
            return []
        self._offset, self._last = self._offset + sum(map(len, lines)), lines[-1]
        fresh = points.of(objects(lines))
        return points.after(fresh, self._kept.get("told")) if not tracker.starts_anew else fresh

    def _was_cut(self) -> bool:
        """Whether the last line that was told no longer stands where it stood."""
        with open(self._run.metrics_file, "rb") as file:
            file.seek(self._offset - len(self._last))
            return file.read(len(self._last)) != self._last

    def _lines(self, start: int, limit: int = sys.maxsize) -> list[bytes]:
        """Whole lines from a position on, up to a length of the file."""
        try:
            with open(self._run.metrics_file, "rb") as file:
                file.seek(start)
                found = file.read(max(0, limit - start) if limit < sys.maxsize else -1)
        except OSError:
            return []
        return found[: found.rfind(b"\n") + 1].splitlines(keepends=True)

    def _standing(self) -> str:
        """A hash of all there is to tell, to know a run that was told to its end."""
        run = self._run
        whole = hashlib.sha256(repr(self._settings).encode())
        for file in (run.metrics_file, *(run.scores_file(split) for split in ("test", "val", "train"))):
            whole.update(file.read_bytes() if file.exists() else b"-")
        return whole.hexdigest()

    def _keep(self, **facts: Any) -> None:
        self._kept.update(facts)
        write_atomically(self._file, json.dumps(self._kept) + "\n")


def follow(mirror: Mirror, run: Run, kind: str) -> dict[str, str]:
    """Tell points as they come, until a line on stdin says that it is over; returns the last word."""
    failures, due, problem, over, left = 0, 0.0, "", False, _LAST_ATTEMPTS
    while left:
        over = over or _told_to_end(max(_LOOK_SECONDS, due - time.monotonic()))
        left -= over
        try:
            if over:
                return {"next": mirror.finish(), "problem": ""}
            mirror.catch_up()
            failures, problem = 0, ""
        except Exception as error:
            problem = without_secrets(f"{type(error).__name__}: {error}")
            if not failures:
                run.log_event("tracker_failed", tracker=kind, reason=problem)
            due = time.monotonic() + _LATER_SECONDS[min(failures, len(_LATER_SECONDS) - 1)]
            failures += 1
            _forget(mirror)
            if over and left:
                time.sleep(_LOOK_SECONDS)
    return {"next": "", "problem": problem}


def without_secrets(text: str) -> str:
    """The text without the values of environment variables that may be secrets."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 3:
            text = text.replace(value, f"${name}")
    return text[:500]


def _forget(mirror: Mirror) -> None:
    try:
        mirror.let_go()
    except Exception:  # what cannot be used cannot always be closed
        return


def _told_to_end(seconds: float) -> bool:
    ready, _, _ = select.select([0], [], [], seconds)
    return bool(ready)


def _about(run: Run, kind: str) -> About:
    from instar import __version__

    # As it was saved, be it a recipe of ours or one of a LightningModule.
    recipe = documents.read(run.experiment_file)
    settings = {name: value if isinstance(value, str) else json.dumps(value) for name, value in flat(recipe)}
    task, model = recipe.get("task") or {}, recipe.get("model") or {}
    name = model.get("name") or model.get("kind") or task.get("definition") or ""
    tags = {"task": str(task.get("kind", "")), "model": str(name)}
    return About(
        name=run.name,
        folder=run.trackers / kind,
        runs=run.path.absolute().parent,
        settings=settings,
        tags={**tags, "instar": __version__},
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def _only_one(run: Run, kind: str) -> Iterator[None]:
    """One mirror a run and kind: a second one waits for the end of the first."""
    run.trackers.mkdir(parents=True, exist_ok=True)
    with (run.trackers / f".{kind}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(parent: int) -> None:
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to be told
        return
    os.nice(10)
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is not our last word
    with open(0, "rb", buffering=0, closefd=False) as orders:
        order = Order(**json.loads(orders.readline()))
    run, kind = Run(Path(order.run)), order.tracker["kind"]
    settings = plugins.load("trackers", kind).Settings.model_validate(order.tracker)
    with _only_one(run, kind):
        word = follow(Mirror(run, settings), run, kind)
    os.write(out, json.dumps(word).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
