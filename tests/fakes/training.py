"""Trainings of a second, in this process, on made-up images."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from instar import experiment as experiments
from instar import prepare
from instar import train as stage
from instar.engine import deadline, faults
from instar.engine.view import Quiet, View
from instar.machine import Machine
from instar.run import Run
from tests.fakes.images import folder_of_images

BASE: dict[str, Any] = {
    "seed": 7,
    "data": {"split": {"test": 0.1, "val": 0.2}},
    "model": {"kind": "tests.fakes.tiny_cnn"},
    "task": {"kind": "classification"},
    "augment": {"kind": "standard", "size": 8},
    "optim": {"kind": "adamw", "lr": 0.01, "clip": 1.0},
    "schedule": {"kind": "cosine", "warmup": "10 %"},
    "train": {"epochs": 4, "batch": 8, "log": 2, "every": "24 samples"},
}


def recipe(root: Path, **changes: Any) -> experiments.Experiment:
    """The base experiment on `root`, with changes by dotted name (two underscores for a dot)."""
    overrides = [f"data.root={json.dumps(str(root))}"]
    overrides += [f"{name.replace('__', '.')}={json.dumps(value)}" for name, value in changes.items()]
    return experiments.load(BASE | {"data": BASE["data"] | {"root": str(root)}}, overrides)


def train(
    folder: Path,
    *,
    run: str | None = "run",
    root: Path | None = None,
    fault: str = "",
    machine: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    view: View | None = None,
    **changes: Any,
) -> stage.Outcome:
    """Train the base experiment with changes in `folder`/runs/`run`; a fault on purpose is armed first."""
    root = root or folder_of_images(folder / "some 'images'")
    experiment = recipe(root, **changes)
    deadline.install()
    try:
        with _Armed(fault):
            return stage.train(
                experiment,
                lambda: prepare.manifest(experiment.data, experiment.seed),
                machine=Machine(**{"workers": 0, "device": "cpu", "devices": 1} | (machine or {})),
                options=stage.Options(run_name=run, runs_folder=folder / "runs", **(options or {})),
                view=view,
            )
    finally:
        deadline.restore()


class Notes(Quiet):
    """A view that keeps the notes."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def note(self, text: str) -> None:
        self.all.append(text)


class _Armed:
    """Faults on purpose inside the block; `join` reads them from the environment."""

    def __init__(self, fault: str):
        self._fault = fault

    def __enter__(self) -> None:
        os.environ["INSTAR_FAULT"] = self._fault

    def __exit__(self, *_: object) -> None:
        os.environ.pop("INSTAR_FAULT")
        faults.arm("")


def fingerprint(run: Run) -> dict[str, str]:
    """sha256 of the newest checkpoint's tensors and of the metrics without times."""
    newest = run.checkpoints / (run.checkpoints / "latest").read_text().strip()
    prints = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(newest.glob("*.safetensors"))}
    aside = ("time", "images_per_second", "loader_ceiling")
    kept = [{name: value for name, value in line.items() if name not in aside} for line in run.metrics()]
    return {**prints, "metrics": hashlib.sha256(json.dumps(kept).encode()).hexdigest()}
