"""Images a second beside torchvision's ImageFolder with the classic transforms, on the same JPEGs.

    python benchmarks/loader.py [--images FOLDER] [--camera 24] [--rounds 5] [--passes 5] [--only PART]

All sides do what ImageNet training does: a random area of 8 to 100 % resized to 224 x 224, mirrored half of the time,
in shuffled batches of 64. torchvision gives normalised floats; instar gives uint8, which the model normalises as its
first operation, on the device. What that costs where the device is this CPU is the case "normalised here". Each case
gives `--passes` epochs with workers that are started once, so that starting them is a small part for all.
Without --images the benchmark makes photo-like JPEGs of about 500 x 375 itself. `--camera` photos are enlarged ones
with a short side of about 2200 pixels.
"""

import argparse
import gc
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _peers import BATCH, MEAN, SIZE, STD, classic, image_folder, lit_chunks, lit_data, timm_loader, web_dataset
from _side_by_side import ratios, report
from _side_by_side import rounds as run_rounds
from PIL import Image

from instar import pack, plugins, prepare
from instar.augment import Augment
from instar.engine.loading.loaders import eval_stream, train_stream
from instar.engine.loading.order import Order
from instar.experiment import Data
from instar.manifest import Manifest
from instar.networks import pixels
from instar.readers import _jpeg, _native

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchvision import datasets, transforms

PARTS = ("train", "evaluate", "packed", "camera")
SHARD = 4 << 20  # bytes: several, so that WebDataset has one for each worker


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=Path, help="a folder of class folders of JPEGs; made up without it")
    arguments.add_argument("--most", type=int, default=6 * BATCH, help="images to use of it, in whole batches")
    arguments.add_argument("--camera", type=int, default=24, help="enlarged photos; 0 for none")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--workers", type=int, nargs="*", default=[2, 0])
    arguments.add_argument("--passes", type=int, default=5, help="epochs of each case in a round")
    arguments.add_argument("--only", choices=PARTS, help="leave the other parts out")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    wanted = [chosen.only] if chosen.only else list(PARTS)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "photos"
        what = chosen.images or "made-up photos"
        copied(chosen.images, root, chosen.most) if chosen.images else painted(root, chosen.most)
        photos = manifest_of(root)
        middle = (photos.statistics["median_width"], photos.statistics["median_height"])
        print(f"{len(photos)} images of {what}, median {middle[0]} x {middle[1]}, decoder {_jpeg.decoder()}")
        told = {"rounds": chosen.rounds, "passes": chosen.passes}
        goal = 2.1 if _native.is_there() else 1.4
        for workers in chosen.workers if "train" in wanted else []:
            train(f"train, {workers} workers", photos, workers=workers, goal=goal, **told)
        if "evaluate" in wanted:
            evaluate(photos, rounds=chosen.rounds)
        if "packed" in wanted:
            packs = Packs(photos, Path(made) / "packed")
            for workers in chosen.workers:
                packs.beside_others(workers=workers, **told)
        if chosen.camera and "camera" in wanted:
            enlarged(photos, Path(made) / "camera", chosen.camera)
            large = manifest_of(Path(made) / "camera")
            middle = (large.statistics["median_width"], large.statistics["median_height"])
            print(f"\n{len(large)} of them enlarged, median {middle[0]} x {middle[1]}")
            goal = 8.0 if _native.is_there() else 5.0
            train("train on camera photos, 0 workers", large, workers=0, goal=goal, **told)


def manifest_of(root: Path) -> Manifest:
    return prepare.manifest(Data.model_validate({"root": root, "split": {"test": 0.0, "val": 0.0}}), 0)


def opened(rows: Manifest) -> tuple[Any, Order]:
    """A reader of these rows, loose or packed, and their order: what a training makes once."""
    reader = plugins.load("readers", "image_label").open(
        Data(root=rows.root).reader, rows, Augment(kind="imagenet", size=SIZE)
    )
    return reader, Order([np.arange(len(rows))], [len(rows)], seed=0)


def streamed(source: tuple[Any, Order], *, workers: int, passes: int) -> Iterator[torch.Tensor]:
    """Our own loader."""
    reader, order = source
    total = passes * order.epoch_samples
    stream = train_stream(reader, order, start=0, total=total, batch=BATCH, seed=0, workers=workers)
    return (batch["image"] for batch in stream)


def train(name: str, rows: Manifest, *, workers: int, rounds: int, passes: int, goal: float) -> None:
    """Some epochs a round, the classic way and ours, in wall and in CPU time."""
    told, source = {"workers": workers, "passes": passes}, opened(rows)
    cases = {
        "ImageFolder, classic transforms": lambda: image_folder(rows.root, **told),
        "instar": lambda: streamed(source, **told),
        "instar, normalised here": lambda: (pixels(batch, MEAN, STD) for batch in streamed(source, **told)),
    }
    compare(name, cases, {"instar": 1 / goal}, images=passes * len(rows), rounds=rounds)


class Packs:
    """The same photographs packed in each way, by us and by litdata."""

    def __init__(self, rows: Manifest, folder: Path):
        self.loose, self.folder = rows, folder
        found = pack.of_manifest(rows, divided=False)
        self.sources = {}
        for payload in ("original", "jpeg256", "raw256"):
            pack.pack(found, folder / payload, pack.Options(payload=payload, shard=SHARD))
            self.sources[payload] = opened(manifest_of(folder / payload))
        lit_chunks([rows.path(row) for row in range(len(rows))], folder / "litdata")

    def beside_others(self, *, workers: int, rounds: int, passes: int) -> None:
        """Our packed data of each kind, and three other loaders on the bytes of the originals, beside ImageFolder."""
        told = {"workers": workers, "passes": passes}
        others = {
            "timm": lambda: timm_loader(self.loose.root, **told),
            "WebDataset": lambda: web_dataset(self.folder / "original", **told),
            "litdata": lambda: lit_data(self.folder / "litdata", **told),
        }
        ours = {f"packed {name}": partial(streamed, source, **told) for name, source in self.sources.items()}
        cases = {"ImageFolder": lambda: image_folder(self.loose.root, **told), **others, **ours}
        goals = {"packed original": 1 / 2.1, "packed jpeg256": 1 / 5, "packed raw256": 1 / 8}
        images = passes * len(self.loose)
        taken = compare(f"packed, {workers} workers", cases, goals, images=images, rounds=rounds)
        for clock, seconds in taken.items():
            for other in others:
                factor = (
                    1
                    / ratios({"packed original": seconds["packed original"], other: seconds[other]}, other)[
                        "packed original"
                    ]
                )
                verdict = "met" if factor >= 2 else "MISSED"
                print(f"  packed original beside {other}, {clock}: {factor:.2f} x  goal >= 2 {verdict}")


def evaluate(rows: Manifest, *, rounds: int) -> None:
    """Resize(256) and CenterCrop(224): how far the pixels are apart, and how fast."""
    reader = plugins.load("readers", "image_label").open(Data(root=rows.root).reader, rows, Augment(size=SIZE))
    crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(SIZE)])
    differences = [
        np.abs(reader.read(row, None)["image"].astype(np.int16) - np.asarray(crop(loaded(rows.path(row))))).mean()
        for row in range(0, len(rows), max(1, len(rows) // 100))
    ]
    mean, worst = float(np.mean(differences)), float(np.max(differences))
    verdict = "met" if mean <= 0.05 else "MISSED"
    print(f"\nevaluation: mean difference {mean:.4f} of 255 (worst image {worst:.3f})  goal <= 0.05 {verdict}")
    folder = datasets.ImageFolder(rows.root, classic(transforms.Resize(256), transforms.CenterCrop(SIZE)))
    cases: dict[str, Callable[[], Iterable[torch.Tensor]]] = {
        "ImageFolder, classic transforms": lambda: (
            images for images, _ in torch.utils.data.DataLoader(folder, BATCH, num_workers=0)
        ),
        "instar": lambda: (batch["image"] for batch in eval_stream(reader, np.arange(len(rows)), batch=BATCH)),
    }
    compare("evaluate, 0 workers", cases, {"instar": 1 / 1.5}, images=len(rows), rounds=rounds)


def compare(
    name: str,
    cases: dict[str, Callable[[], Iterable[torch.Tensor]]],
    goals: dict[str, float],
    *,
    images: int,
    rounds: int,
) -> dict[str, dict[str, list[float]]]:
    """Tables of both clocks; seconds of each case in each round by clock."""
    cpu: dict[str, list[float]] = {case: [] for case in cases}

    def timed(case: str) -> Callable[[], None]:
        def run() -> None:
            gc.collect()
            gc.freeze()  # or what all libraries have made, 0.24 s of it, would be gone through on this one's clock
            before = cpu_seconds()
            seen = sum(len(batch) for batch in cases[case]())
            gc.collect()  # some loaders hold their workers in a circle, and only those that ended are counted
            cpu[case].append(cpu_seconds() - before)
            assert seen == images, f"{case} gave {seen} of {images} images"

        return run

    base = next(iter(cases))
    wall = run_rounds({case: timed(case) for case in cases}, rounds=rounds)
    cpu = {case: taken[-rounds:] for case, taken in cpu.items()}
    report(f"{name}: wall time of {images} images", wall, base, goals)
    report(f"{name}: CPU time of {images} images", cpu, base, goals)
    for case in cases:
        rate, cost = images / float(np.median(wall[case])), 1e3 * float(np.median(cpu[case])) / images
        print(f"  {case:<32} {rate:7.0f} images/s  {cost:6.2f} CPU-ms an image")
    return {"wall": wall, "processor": cpu}


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def loaded(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def copied(folder: Path, root: Path, most: int) -> None:
    """The first images of every class, linked so that nothing beside the folder is written."""
    files = sorted(file for ending in ("jpg", "jpeg", "JPG") for file in folder.glob(f"*/*.{ending}"))
    for file in files[:: max(1, len(files) // most)][:most]:
        (root / file.parent.name).mkdir(parents=True, exist_ok=True)
        (root / file.parent.name / file.name).symlink_to(file.resolve())


def painted(root: Path, count: int) -> None:
    """Photo-like JPEGs: clouds of every size, stronger the larger, with a little grain."""
    random = np.random.default_rng(0)
    for number in range(count):
        width, height = (500, 375) if number % 4 else (375, 500)
        total = np.zeros((height, width, 3), np.float32)
        for cells in (4, 12, 40, 120, 300):
            grid = (random.normal(0, 60, (cells, cells, 3)) / cells**0.4).astype(np.float32)
            for band in range(3):
                total[..., band] += np.asarray(Image.fromarray(grid[..., band]).resize((width, height)))
        pixels = (120 + total + random.normal(0, 3, total.shape)).clip(0, 255).astype(np.uint8)
        file = root / f"class {number % 4}" / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file, quality=90)


def enlarged(rows: Manifest, root: Path, count: int) -> None:
    for row in range(0, len(rows), max(1, len(rows) // count)):
        image = loaded(rows.path(row))
        scale = 2226 / min(image.size)
        file = root / rows.ids[row]
        file.parent.mkdir(parents=True, exist_ok=True)
        image.resize((round(image.width * scale), round(image.height * scale))).save(file, quality=90)


if __name__ == "__main__":
    main()
