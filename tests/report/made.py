"""A made-up run with predictions and pictures, small and hostile."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instar import predictions as stored
from instar.predictions import Predictions
from instar.report import html, runpage
from instar.run import Run
from instar.tasks import classification

HOSTILE = ("<script>alert(1)</script>", 'it\'s "quoted" & more', "line\nbreak", "n\udcffon", "\u202edetrever", "$x_1$")
RECIPE = """\
name: flowers
data: {root: "/data/it's <b>here</b>", split: {test: 0.1, val: 0.1, stratify: true}}
model: {kind: timm, name: resnet18, pretrained: false}
task: {kind: classification, balance: oversample, loss: cross_entropy, label_smoothing: 0.1}
optim: {kind: adamw, lr: 0.001, weight_decay: 0.01, clip: 1.0}
schedule: {kind: cosine, warmup: 5 %}
train: {epochs: 4, batch: 64}
"""


def predictions(folder: Path, *, classes: tuple[str, ...] = HOSTILE, rows: int = 60, wrong: float = 0.3) -> Predictions:
    """Rows of all classes, each with a picture; a share of them is wrong."""
    generator = np.random.default_rng(0)
    label_N = np.arange(rows) % len(classes)
    answer_N = np.where(generator.random(rows) < wrong, generator.integers(0, len(classes), rows), label_N)
    probability_NK = generator.dirichlet(np.full(len(classes), 0.5), rows) * 0.4
    probability_NK += 0.6 * np.eye(len(classes))[answer_N]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for row in range(rows):
        paths.append(folder / f"{row:03d} it's.png")
        Image.fromarray(np.full((8, 8, 3), 4 * row % 255, np.uint8)).save(paths[-1])
    return Predictions(
        ids=[f"{label}/<i>{row:03d}</i>.png" for row, label in enumerate(label_N.tolist())],
        paths=[str(path) for path in paths],
        label_N=label_N,
        probability_NK=probability_NK,
        classes=classes,
        meta={"split": "test"},
    )


def run(folder: Path, *, classes: tuple[str, ...] = HOSTILE, killed: bool = True) -> Run:
    """A run of four epochs, killed once on the way."""
    made = Run(folder / "it's a <run>")
    made.path.mkdir(parents=True)
    made.experiment_file.write_text(RECIPE)
    plan = {"classes": classes, "train_rows": 640, "val_rows": 80, "test_rows": 60, "epoch_samples": 640, "batch": 64}
    plan |= {
        "total_samples": 2560,
        "micro": 64,
        "size": 32,
        "devices": 1,
        "device": "cpu",
        "precision": "fp32",
        "seed": 7,
    }
    made.plan_file.write_text(json.dumps(plan))
    start = {"instar": "0.1.0", "python": "3.11.9", "packages": {"torch": "2.14.1"}, "cpus": 2, "host": "box"}
    start |= {"git": {"commit": "0123456789abcdef", "changed": True}, "command": "instar train '/data/$(x)'"}
    made.provenance_file.write_text(json.dumps([start]))
    _lines(made.metrics_file, _metrics())
    _lines(made.events_file, _events(killed))
    return made


def page(folder: Path, *, classes: tuple[str, ...] = HOSTILE, rows: int = 60) -> Path:
    """The page of a made-up run, as report.html."""
    shown = run(folder, classes=classes)
    found = predictions(folder / "pictures", classes=classes, rows=rows)
    stored.write(found, shown.predictions("test"))
    scores = classification.scores(found)
    results = classification.sections(found, scores)
    built = runpage.page(shown, metric="accuracy", mode="max", results=results, scores=scores, split="test", skipped=2)
    return html.write(built, shown.report)


def _metrics() -> list[dict[str, Any]]:
    lines = []
    for epoch in range(1, 5):
        where = {"step": 10 * epoch, "samples": 640 * epoch, "epoch": epoch, "time": 1000.0 + 10 * epoch}
        lines.append({"kind": "train", **where, "loss": 2 / epoch, "lr": 1e-3 / epoch, "images_per_second": 64.0})
        accuracy = (0.5, 0.7, 0.9, 0.85)[epoch - 1]
        lines.append({"kind": "val", **where, "loss": 2.2 / epoch, "accuracy": accuracy, "train_accuracy": 0.9})
    return lines


def _events(killed: bool) -> list[dict[str, Any]]:
    who = {"host": "box", "rank": 0}
    first = [{"time": 1000.0, "event": "started", "pid": 1, "samples": 0, **who}]
    first += [{"time": 1011.0, "event": "saved", "pid": 1, "samples": 640, "checkpoint": "samples-640", **who}]
    second = [{"time": 1015.0, "event": "resumed", "pid": 2, "samples": 640, **who}] if killed else []
    last = {
        "time": 1041.0,
        "event": "finished",
        "pid": 2 if killed else 1,
        "samples": 2560,
        "best": {"epoch": 3},
        **who,
    }
    return [*first, *second, last]


def _lines(path: Path, values: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
