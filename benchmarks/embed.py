"""Embeddings a second beside bare inference on the same packed images; t-SNE and a map of 10,000 points.

    python benchmarks/embed.py [--images 512] [--size 128] [--rounds 5] [--points 10000]

Both sides read the same packed JPEGs with the same reader and send the same batches through the same network. "Bare"
stops there; "embed" also keeps the features of every row exactly once, in order, and makes a small picture of each.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _side_by_side import report, rounds
from PIL import Image

from instar import cli, plugins, prepare
from instar.augment import Augment
from instar.engine import mapping, predict, stamps
from instar.engine.loading.loaders import eval_stream
from instar.engine.ranks import world as worlds
from instar.experiment import Data
from instar.tasks import classification


class _Plan:
    classes = ("a", "b")
    class_weights_K = None
    channels_last = False
    seed, batch = 0, 32


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=int, default=512)
    arguments.add_argument("--size", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--points", type=int, default=10_000)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        throughput(Path(made), chosen.images, chosen.size, chosen.rounds)
    if chosen.points:
        projection(chosen.points)


def throughput(folder: Path, images: int, size: int, num_rounds: int) -> None:
    manifest = packed(folder, images)
    shelf = plugins.load("readers", "image_label")
    reader = shelf.open(shelf.Settings(), manifest, Augment(size=size, resize=size))
    models = plugins.load("models", "timm")
    encoder = models.build(models.Settings(name="resnet18"), channels=3, classes=2, size=size)
    learner = classification.learner(classification.Settings(), encoder, _Plan())
    learner.module.eval()
    rows = np.arange(len(manifest))
    batches = partial(eval_stream, reader, batch=32)
    here = worlds.join(worlds.Place(), folder=folder)

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches(rows):
                learner.predict(batch)["probability"].numpy()

    def keep(columns: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        pictures = stamps.of(batch, "image", [True] * len(columns["row"]), side=64)
        return {"row": columns["row"], "image": columns["image"], "stamp": np.array([*pictures, None], object)[:-1]}

    def embed() -> None:
        found = predict.split(learner, batches, rows, precision="fp32", world=here, ask=learner.embed, keep=keep)
        assert found["image"].shape == (len(rows), 512)

    seconds = rounds({"bare inference": bare, "embed": embed}, rounds=num_rounds)
    report(
        f"{images} packed JPEGs, resnet18 at {size} pixels, one thread", seconds, "bare inference", {"embed": 1 / 0.9}
    )


def packed(folder: Path, images: int) -> Any:
    """Photo-like JPEGs of 256 pixels, packed; their manifest."""
    generator = np.random.default_rng(0)
    for number in range(images):
        file = folder / "loose" / f"class {number % 2}" / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(file, quality=90)
    assert cli.main(["pack", str(folder / "loose"), f"to={folder / 'packed'}", "--quiet"]) == 0
    return prepare.manifest(Data.model_validate({"root": folder / "packed", "split": {"test": 0.0, "val": 0.0}}), 0)


def projection(points: int) -> None:
    """Processor time of one thread, which is what the map takes on a machine of its own."""
    generator = np.random.default_rng(0)
    middle_KD = 1.2 * generator.normal(size=(10, 256))
    feature_PD = (middle_KD[generator.integers(0, 10, points)] + generator.normal(size=(points, 256))).astype(
        np.float32
    )
    began = time.process_time()
    made = mapping.make(feature_PD, seed=0, k=10)
    taken = time.process_time() - began
    near_PM, _ = mapping.neighbours(made.place_P2)
    kept = np.mean([len(set(a) & set(b)) for a, b in zip(near_PM.tolist(), made.near_PM.tolist(), strict=True)])
    facts = {"points": points, "cpu_seconds": round(taken, 1), "goal_seconds": 60, "met": taken <= 60}
    print(
        f"\na map of {points} points: components, neighbours, clusters, t-SNE: {taken:.1f} s of one processor (goal 60)"
    )
    print(json.dumps({"benchmark": "map", **facts, "neighbours_kept": round(float(kept) / mapping.NEIGHBOURS, 3)}))


if __name__ == "__main__":
    main()
