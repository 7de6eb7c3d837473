"""A step of DeepCAM's network, and reading its fields, beside what is written plainly.

    python benchmarks/deepcam.py [--rounds 5] [--only step read] [--folder FOLDER]

step   DeepLabv3+ Xception (56 million weights), 2 fields of 96 x 144 x 16 on the CPU, LAMB: the engine's step with the
       task's loss, counts and guard; beside the same network, loss and optimiser in six lines
read   fields of 768 x 1152 x 16 (57 MB, made-up numbers) with their labels, checked for NaN, into a batch that is
       there: from HDF5 files and packed, also rolled and mirrored; beside read() of the bytes into a buffer that is
       used again, and beside h5py's own `[...]` and the usual arithmetic; warm, processor time

Medians of the ratios of each round. The machine's own state is in both.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _side_by_side import Case, report
from _side_by_side import rounds as timed
from torch.nn import functional

from instar import convert, fields, pack, plugins, prepare
from instar import experiment as experiments
from instar.bench import weather
from instar.engine import optimise as optimising
from instar.engine.loading.loaders import keyed
from instar.engine.step import Forward, Stepper
from instar.plan import Plan

ROWS, HEIGHT, WIDTH, CLASSES = 2, 96, 144, 3
CHANNELS = len(weather.CHANNELS)
WEIGHTS = [share**-0.125 for share in weather.FREQUENCIES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=["step", "read"], default=["step", "read"])
    parser.add_argument("--folder", type=Path, help="where to write the field; by default a temporary folder")
    given = parser.parse_args()
    if "step" in given.only:
        step(given.rounds)
    if "read" in given.only:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            read(Path(name), given.rounds)


def settings(shelf: str, kind: str, **values: Any) -> Any:
    return plugins.load(shelf, kind).Settings.model_validate({"kind": kind, **values})


def network() -> Any:
    torch.manual_seed(0)
    chosen = settings("models", "deeplab_xception")
    return plugins.load("models", "deeplab_xception").build(chosen, channels=CHANNELS, classes=CLASSES, size=HEIGHT)


def step(rounds: int) -> None:
    data = [weather.sample(0, time, height=HEIGHT, width=WIDTH) for time in range(ROWS)]
    image_BHWC = torch.from_numpy(np.stack([field for field, _ in data])) / 1e4
    mask_BHW = torch.from_numpy(np.stack([mask for _, mask in data]).astype(np.uint8))
    cases = {"six lines": plain(image_BHWC, mask_BHW), "instar": ours(image_BHWC, mask_BHW)}
    report("deepcam step", timed(cases, rounds=rounds), "six lines", {"instar": 1.01})


def plain(image_BHWC: torch.Tensor, mask_BHW: torch.Tensor) -> Case:
    model = network().network.train()
    groups = [{"params": list(model.parameters()), "weight_decay": 0.01}]
    optimizer = plugins.load("optimizers", "lamb").build(settings("optimizers", "lamb"), groups)
    weight_K = torch.tensor(WEIGHTS)

    def one() -> None:
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).contiguous()
        logits_BKHW = model(image_BCHW)
        loss = functional.cross_entropy(logits_BKHW, mask_BHW.long(), weight=weight_K, reduction="none").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return one


def ours(image_BHWC: torch.Tensor, mask_BHW: torch.Tensor) -> Case:
    plan = Plan(
        classes=weather.CLASSES,
        channels=CHANNELS,
        size=HEIGHT,
        train_rows=ROWS,
        val_rows=0,
        test_rows=0,
        class_counts_K=(ROWS, 0, 0),
        quotas_K=(ROWS, 0, 0),
        class_weights_K=tuple(WEIGHTS),
        epoch_samples=ROWS,
        total_samples=ROWS * 10_000,
        batch=ROWS,
        micro=ROWS,
        devices=1,
        workers=0,
        device="cpu",
        precision="fp32",
        channels_last=False,
        manifest_hash="",
        seed=0,
    )
    task = settings("tasks", "segmentation", weight_power=0.125, frequencies=list(weather.FREQUENCIES))
    learner = plugins.load("tasks", "segmentation").learner(task, network(), plan)
    learner.module.train()
    optimise = optimising.Optimise(learner.module, settings("optimizers", "lamb", weight_decay=0.01, decay_all=True))
    stepper = Stepper(learner, Forward(learner), optimise, plan=plan, rank=0)
    batch = {"image": image_BHWC, "mask": mask_BHW, "label": torch.zeros(ROWS).long(), "row": torch.arange(ROWS)}
    samples = iter(range(0, plan.total_samples, ROWS))
    return lambda: stepper.take(batch, plan.progress(next(samples)))


def read(folder: Path, rounds: int) -> None:
    random = np.random.default_rng(0)
    root = folder / "files"
    (root / "train").mkdir(parents=True)
    for number in range(2):
        data = random.random((768, 1152, CHANNELS), np.float32)
        labels = random.integers(0, CLASSES, (768, 1152), np.int32)
        fields.write(root / "train" / f"data-{number}.h5", {"climate/data": data, "climate/labels_0": labels})
    fields.write(root / "stats.h5", {"climate/minval": np.zeros(CHANNELS), "climate/maxval": np.ones(CHANNELS)})
    pack.pack(convert.sources(root, convert.tasks(root)), folder / "packed", pack.Options("array", processes=1))
    files = [root / "train" / f"data-{number}.h5" for number in range(2)]
    buffer = bytearray(files[0].stat().st_size)
    places = {"image": np.empty((768, 1152, CHANNELS), np.float32), "mask": np.empty((768, 1152), np.uint8)}

    def raw() -> None:
        for file in files:
            with file.open("rb", buffering=0) as opened:
                opened.readinto(buffer)

    def ours(root: Path, *, varied: bool = False) -> Case:
        said = {"kind": "field", "classes": list(weather.CLASSES)}
        experiment = experiments.load({"data": {"root": str(root), "reader": said}, "augment": {"kind": "field"}})
        rows = prepare.manifest(experiment.data, 0)
        reader = plugins.load("readers", "field").open(experiment.data.reader, rows, experiment.augment)

        def one() -> None:
            for row in range(2):
                reader.read_into(row, keyed(0, 0, row) if varied else None, places)

        one()  # what is packed is compared the first time
        return one

    low_C, high_C = np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32)

    def usual() -> None:
        for file in files:
            field_HWC, mask_HW = fields.read(file, "climate/data"), fields.read(file, "climate/labels_0")
            field_HWC = (field_HWC - low_C) / (high_C - low_C)
            assert np.isfinite(field_HWC).all() and mask_HW.max() < CLASSES

    cases = {
        "read() into a buffer": raw,
        "h5py and numpy": usual,
        "HDF5": ours(root),
        "packed": ours(folder / "packed"),
        "packed, rolled and mirrored": ours(folder / "packed", varied=True),
    }
    seconds = timed(cases, rounds=rounds, clock=time.process_time)
    report("deepcam read", seconds, "read() into a buffer", {"HDF5": 1 / 0.9, "packed": 1 / 0.9})


if __name__ == "__main__":
    main()
