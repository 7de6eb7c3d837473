"""A run folder that looks like one of a training, and trackers that misbehave."""

import json
import time
from pathlib import Path
from typing import Any

from instar.points import About, Ending, Point
from instar.run import Run, write_atomically
from instar.settings import dump
from tests.fakes.training import recipe


def made_run(folder: Path, name: str = "it's $(a) run") -> Run:
    """A run that has begun and measured nothing."""
    run = Run(folder / "runs" / name)
    run.path.mkdir(parents=True)
    run.experiment_file.write_text(dump(recipe(folder / "images")), encoding="utf-8")
    run.log_event("started", rank=0, samples=0)
    return run


def line(kind: str, step: int, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "step": step, "samples": 8 * step, "epoch": step / 5, **values, "time": round(time.time(), 3)}


def measured(steps: range, *, speed: float) -> list[dict[str, Any]]:
    """Lines of some steps, an evaluation at every fifth. Speeds differ from start to start, the rest does not."""
    lines = []
    for step in steps:
        lines.append(line("train", step, loss=1 / step, lr=0.1, images_per_second=speed))
        if step % 5 == 0:
            lines.append(line("val", step, accuracy=step / 100, best=True, seen=[1, 2]))
    return lines


def append(run: Run, lines: list[dict[str, Any]]) -> None:
    with run.metrics_file.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in lines)


def saved(run: Run, samples: int) -> None:
    """A checkpoint that remembers how long metrics.jsonl is now."""
    folder = run.checkpoints / f"samples-{samples:012}"
    folder.mkdir(parents=True, exist_ok=True)
    size = run.metrics_file.stat().st_size
    write_atomically(folder / "state.json", json.dumps({"metrics_bytes": size}))
    write_atomically(run.checkpoints / "latest", folder.name)


def ended(run: Run) -> None:
    """The last words of a run, with scores and a page."""
    run.log_event("finished", rank=0, samples=160)
    scores = {"accuracy": 0.75, "rows": 4, "intervals": {"accuracy": [0.5, 1.0]}, "about": {}}
    write_atomically(run.scores_file("test"), json.dumps(scores))
    run.report.write_text("<!doctype html><title>page</title>", encoding="utf-8")
    run.log_event("evaluated", rank=0, split="test")


class Misbehaving:
    """A tracker that hangs, raises or dies, as its settings say."""

    starts_anew = True

    def __init__(self, how: str, about: About):
        self._how, self._about = how, about

    def write(self, points: list[Point]) -> None:
        import os

        self._about.folder.mkdir(parents=True, exist_ok=True)
        (self._about.folder / "tried").open("a").write("x")
        if self._how == "hang":
            time.sleep(1000)
        if self._how == "die":
            os._exit(9)
        if self._how == "raise" or (self._how == "once" and (self._about.folder / "tried").stat().st_size == 1):
            raise ConnectionError(f"no route with {os.environ.get('MISBEHAVING_TOKEN')}")
        (self._about.folder / "told").open("a").write("".join(f"{point.step} {point.kind}\n" for point in points))

    def finish(self, ending: Ending) -> None:
        (self._about.folder / "ending").write_text(repr(ending))

    def close(self) -> str:
        return ""
