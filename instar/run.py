"""Run: the folder of one training run, and the only code that knows its file names.

    experiment.yaml   what was asked for, exactly as validated
    plan.json         what followed from it
    experiment.lock.yaml  which weights it starts from, where its recipe has a lock
    manifest.parquet  one row a sample, with the split
    provenance.json   versions, git state, machine, command of every start
    lease.json        who writes here now
    events.jsonl      what happened, one line an event
    metrics.jsonl     what was measured; the truth that trackers mirror
    mlperf.log        the same for MLPerf's checker, where the recipe asks for it
    checkpoints/      whole states, newest last; `latest` and `best` name two of them
    predictions/      one Parquet file and one score file a split
    embeddings/       the same of embeddings, with their map as a page
    explanations/     one page for each set of rows that was asked about
    exports/          one folder a file for other programs, with its contract and the proof that it answers alike
    jobs/             one folder a job: script, log, what was asked for, code and environment
    trackers/         what mirrors metrics.jsonl elsewhere, and how far it came
    report.html       the run page

Standard library only: listing a thousand runs must not wait for numpy.
"""

import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar import atomic
from instar.errors import RunError
from instar.plugins import unknown


@dataclass(frozen=True)
class Run:
    """One run folder. Making a Run touches nothing on disk."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def experiment_file(self) -> Path:
        return self.path / "experiment.yaml"

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.json"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.parquet"

    @property
    def lock_file(self) -> Path:
        return self.path / "experiment.lock.yaml"

    @property
    def provenance_file(self) -> Path:
        return self.path / "provenance.json"

    @property
    def lease_file(self) -> Path:
        return self.path / "lease.json"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def mlperf_file(self) -> Path:
        return self.path / "mlperf.log"

    @property
    def trackers(self) -> Path:
        return self.path / "trackers"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def predictions(self, split: str) -> Path:
        return self.path / "predictions" / f"{split}.parquet"

    def scores_file(self, split: str) -> Path:
        return self.path / "predictions" / f"{split}.json"

    def embeddings(self, split: str) -> Path:
        return self.path / "embeddings" / f"{split}.parquet"

    def map_file(self, split: str) -> Path:
        return self.path / "embeddings" / f"{split}.map.parquet"

    def map_scores(self, split: str) -> Path:
        return self.path / "embeddings" / f"{split}.json"

    def map_page(self, split: str) -> Path:
        return self.path / "embeddings" / f"{split}.html"

    def explanation(self, name: str) -> Path:
        return self.path / "explanations" / f"{name}.html"

    def explanation_maps(self, name: str) -> Path:
        return self.path / "explanations" / f"{name}.npz"

    def exists(self) -> bool:
        """Whether there is a run in this folder, if only one that waits in a queue."""
        return self.experiment_file.exists() or self.events_file.exists()

    def is_saved(self) -> bool:
        """Whether a checkpoint was ever saved here, so that nothing else is needed to go on."""
        return any(self.checkpoints.glob("samples-*"))

    def metrics(self) -> list[dict[str, Any]]:
        """Every measured point, oldest first."""
        return list(_lines(self.metrics_file))

    def kept_metrics(self) -> int:
        """How many bytes of metrics.jsonl no resume will take back: as many as the newest checkpoint remembers."""
        try:
            newest = (self.checkpoints / "latest").read_text(encoding="utf-8").strip()
        except OSError:
            return 0
        return int(_json(self.checkpoints / newest / "state.json").get("metrics_bytes", 0))

    def events(self) -> list[dict[str, Any]]:
        """Everything that happened, oldest first."""
        return list(_lines(self.events_file))

    def log_event(self, event: str, **facts: Any) -> None:
        """Append one event, at once and as one write, so that two writers cannot mix their lines.

        An event that cannot be written is let go: on a disk that is full or gone, the next save says what to do.
        """
        line = {
            "time": round(time.time(), 3),
            "event": event,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **facts,
        }
        with suppress(OSError):
            _append(self.events_file, json.dumps(line, ensure_ascii=False) + "\n")

    def scores(self, split: str) -> dict[str, Any]:
        """The scores of a split, or nothing where it was never evaluated."""
        return _json(self.scores_file(split))

    def cards(self) -> list[dict[str, Any]]:
        """What was measured of each export, oldest first; "folder" is its name among the exports."""
        paths = sorted(self.exports.glob("*/card.json"), key=_changed)
        return [{**card, "folder": path.parent.name} for path in paths if (card := _json(path))]

    def status(self) -> dict[str, Any]:
        """What one line of `instar runs` shows, from the last lines of two files.

        state is one of new, queued, running, silent, stopped, failed, trained, done.
        """
        # One line is enough for most runs, and there may be a thousand of them.
        backwards = _newest_lines(self.events_file)
        newest: dict[str, Any] = next(objects(backwards), {})
        last = next((event for event in objects(backwards) if event.get("event") not in BESIDE), {})
        of_job = (event["job"] for event in objects(line for line in backwards if '"job"' in line) if "job" in event)
        point: dict[str, Any] = next(objects(_newest_lines(self.metrics_file)), {})
        plan = _json(self.plan_file)
        total = plan.get("total_samples") or 0
        samples = max(int(point.get("samples", 0)), int(last.get("samples", 0) or 0))
        return {
            "name": self.name,
            "path": str(self.path),
            "state": self._state(last, newest),
            "job": str(next(of_job, "")),
            "samples": samples,
            "share": samples / total if total else 0.0,
            "seconds_left": (total - samples) / point["images_per_second"] if point.get("images_per_second") else None,
            "epoch": round(samples / plan["epoch_samples"], 2) if plan.get("epoch_samples") else 0.0,
            "best": self._best(),
            "test": {name: value for name, value in self.scores("test").items() if isinstance(value, float)},
            "changed": _changed(self.events_file),
        }

    def _state(self, last: Mapping[str, Any], newest: Mapping[str, Any]) -> str:
        """From the last event of the training, and the newest of all, which may be one of its job."""
        named = {"stopped": "stopped", "failed": "failed", "finished": "trained", "evaluated": "done"}
        # A job that has begun is still on its way to the first word of the training.
        of_jobs = {"queued": "queued", "job_continues": "queued", "job_started": "running"}
        if newest.get("event") in of_jobs:
            return of_jobs[newest["event"]]
        alive = time.time() - _changed(self.lease_file) < 60
        # A second job of the same run leaves when it finds the first at work; that is not the end of the run.
        at_work = alive and _json(self.lease_file).get("state") == "held"
        if newest.get("event") == "job_ended" and newest.get("state") != "done" and last.get("event") not in named:
            return "running" if at_work else str(newest.get("state"))
        if not last:
            return "new"
        if last["event"] in named:
            return named[last["event"]]
        # A lease is renewed every few seconds; one that is not belongs to a process that was killed.
        return "running" if alive else "silent"

    def _best(self) -> dict[str, Any]:
        pointer = self.checkpoints / "best"
        try:
            state = _json(self.checkpoints / pointer.read_text(encoding="utf-8").strip() / "state.json")
        except OSError:
            return {}
        return dict(state.get("best") or {})


# Events of jobs rather than of the training: written by whoever submits, and by the script around the command.
OF_JOBS = ("queued", "job_started", "job_continues", "job_ended", "stop_asked")
# Those, the ones of trackers, and of whoever looks at a run afterwards: they say nothing about where the training is.
BESIDE = (*OF_JOBS, "tracker_failed", "embedded", "explained", "exported", "export_failed")


def find(name: str, runs_folder: Path) -> Run:
    """The run called `name`, which may be a path, a name in `runs_folder`, or the unambiguous end of one.

    Raises RunError naming the near miss.
    """
    for path in (Path(name), runs_folder / name):
        if Run(path).exists():
            return Run(path)
    runs = list(everything(runs_folder))
    ending = [run for run in runs if run.name.endswith(f"-{name}") or run.name.startswith(f"{name}-")]
    if len(ending) == 1:
        return ending[0]
    if not runs:
        raise RunError(
            f"there is no run called {name!r}: {runs_folder}/ holds no runs. Start one with: instar train FOLDER"
        )
    if ending:
        raise RunError(f"{name!r} could be any of {', '.join(run.name for run in ending)}. Write the whole name.")
    raise RunError(f"{unknown(name, [run.name for run in runs], what='run')}. See: instar runs")


def everything(runs_folder: Path) -> Iterator[Run]:
    """Every run in a folder, newest first."""
    try:
        folders = [entry for entry in os.scandir(runs_folder) if entry.is_dir()]
    except OSError:
        return
    runs = [Run(Path(entry.path)) for entry in folders]
    runs = [run for run in runs if run.exists()]
    yield from sorted(runs, key=lambda run: _changed(run.events_file), reverse=True)


def name_for(label: str, signature: str) -> str:
    """A name a person can say, the same for the same experiment: `flowers-mossy-lynx`.

    signature   hexadecimal; its first digits choose the words
    """
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:40] or "run"
    number = int(signature[:8], 16)
    adjective = ADJECTIVES[number % len(ADJECTIVES)]
    return f"{slug}-{adjective}-{ANIMALS[number // len(ADJECTIVES) % len(ANIMALS)]}"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file so that a reader, or a kill, meets the old content or the new and nothing between."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic.writing(path) as file:
        file.write(data)


def cut_back(path: Path, length: int) -> int:
    """Cut a line file back to `length` bytes, as a checkpoint remembers it; returns the bytes that went.

    Lines after the checkpoint were measured by steps that will be taken again.
    """
    if not path.exists():
        return 0
    size = path.stat().st_size
    if size > length:
        os.truncate(path, length)
    return max(0, size - length)


def _append(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, text.encode("utf-8", "surrogateescape"))
    finally:
        os.close(descriptor)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines that are whole JSON objects; a line torn by a kill is passed over."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    yield from objects(text.splitlines())


def objects(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """What lines of JSON hold; a line that is torn, or no object, is passed over."""
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _newest_lines(path: Path, window: int = 8192) -> list[str]:
    """The last lines, the newest first; the oldest of them may be torn."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            while True:
                file.seek(max(0, size - window))
                tail = file.read().decode("utf-8", "replace")
                if window >= size or tail.count("\n") > 1:
                    return tail.splitlines()[::-1]
                window *= 16  # one line, with a number for each of thousands of classes
    except OSError:
        return []


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


ADJECTIVES = (
    "amber ashen azure bold brave brief bright brisk calm clear cool coral crisp dapper deep dewy dusky eager early "
    "fair fern fleet fresh gentle glad golden grand green hazel humble ivory jade jolly keen kind lively lucid lunar "
    "mellow merry mild misty mossy neat noble opal pale plain plucky proud quick quiet rapid rosy royal ruby rustic "
    "sage sandy sharp shy silent silver sleek smooth snowy solar spry steady still sunny swift tawny tidy vivid "
    "warm wise"
).split()
ANIMALS = (
    "adder alder ant auk badger bat bear beaver bee bison boar bunting carp cat cicada clam cod cony coot crab crane "
    "cricket crow curlew dace deer dove duck dunlin eagle eel egret elk ermine falcon ferret finch fox frog gannet "
    "gecko goat grebe gull hare hawk hen heron hornet ibex ibis jay kite lark linnet lizard lynx magpie mantis marten "
    "merlin mink mole moose moth mouse newt nutria orca osprey otter owl perch pike pipit plover puffin quail rail "
    "raven robin rook ruff salmon seal shrew shrike skua snipe sole stag stoat stork swan swift tern thrush toad "
    "trout viper vole wasp weasel whale wolf wren"
).split()
