"""What is asked: real rows of a run, what PyTorch answers about them, and the images that int8 is shown.

Legend: H W pixels, C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from instar import exported, packed
from instar.contract import PIXELS, Contract
from instar.engine import build, trained
from instar.engine.exporting import measure
from instar.engine.trained import Trained
from instar.errors import DataError
from instar.machine import Machine
from instar.manifest import Manifest

_MOST_BYTES = 1 << 30  # of PyTorch's answers, kept while formats are compared with them


@dataclass(frozen=True, eq=False)
class Question:
    """What both are asked, and what PyTorch said.

    images        one file a row;  truth  the class of each, or its mask
    answers       folder with what PyTorch said
    calibration   images for int8
    ours          seconds of one image through PyTorch, several times
    """

    learnt: Trained
    contract: Contract
    split: str
    images: list[str]
    truth: list[Any]
    answers: Path
    calibration: list[str]
    ours: list[float]


def ask(learnt: Trained, manifest: Manifest, *, rows: int, calibration: int, threads: int, shop: Path) -> Question:
    """Let PyTorch answer at most so many rows, of the test split where there is one.

    shop   folder for its answers, and for the images of rows that are no files of their own
    Raises DataError where there is no row, or none can be read.
    """
    import torch

    split = next((name for name in ("test", "val", "train") if len(manifest.rows(name))), "")
    if not split:
        raise DataError(f"{learnt.run.path}: its manifest has no rows, so nothing can be compared.")
    contract = trained.contract(learnt)
    reader = build.reader(learnt.experiment, manifest, Machine(device="cpu", workers=0))
    of_field = trained.is_field(learnt.experiment)
    answers = shop / "pytorch"
    answers.mkdir()
    images: list[str] = []
    truth: list[Any] = []
    wrong, used = "", 0
    torch.set_num_threads(threads)
    seconds: list[float] = []
    for row in _spread(manifest.rows(split), rows):
        try:
            sample = reader.read(row, None)
        except (DataError, OSError) as error:
            wrong = f"{manifest.ids[row]}: {error}"
            continue
        said = _said(learnt, sample["image"])
        measure.keep(said, answers, len(images))
        images.append(_file_of(manifest, row, shop, reader=reader, of_field=of_field))
        truth.append(sample.get("mask", sample["label"]))
        if not seconds:
            seconds = measure.latency(lambda: _said(learnt, sample["image"]), repeats=measure.REPEATS)  # noqa: B023
        used += sum(value.nbytes for value in said.values())
        if used > _MOST_BYTES:
            break
    if not images:
        raise DataError(f"not one of the {split} rows can be read. {wrong}")
    if contract.answers == PIXELS:  # formats of one size take that of most rows
        height, width = _most_frequent([one.shape[:2] for one in _looked_at(images, contract)])
        contract = replace(contract, height=height, width=width)
    shown = _spread(manifest.rows("val" if len(manifest.rows("val")) else "train"), calibration)
    seen = [_file_of(manifest, row, shop, reader=reader, of_field=of_field) for row in shown]
    return Question(learnt, contract, split, images, truth, answers, seen, seconds)


def _said(learnt: Trained, image_HWC: np.ndarray) -> dict[str, np.ndarray]:
    import torch

    with torch.inference_mode():
        outputs = learnt.learner.answer(torch.from_numpy(np.array(image_HWC)[None]))
    return {name: value[0].numpy() for name, value in outputs.items()}


def _spread(rows: np.ndarray, most: int) -> list[int]:
    """At most so many rows, evenly spaced."""
    number = min(most, len(rows))
    return rows[np.linspace(0, len(rows) - 1, number).round().astype(int)].tolist() if number else []


def _file_of(manifest: Manifest, row: int, shop: Path, *, reader: Any, of_field: bool) -> str:
    """A file with what an app would hand over for a row: the row's own, or one that is written from what it is."""
    path = manifest.path(row)
    if not of_field and path.is_file():
        return str(path.resolve())
    place = shop / "rows"
    place.mkdir(exist_ok=True)
    file = place / f"{row:09d}.npy"
    if of_field:
        np.save(file, reader.read(row, None)["image"])
    elif (found := packed.at_path(path)) is not None:
        pack, number = found
        if pack.about.payload in (packed.RAW256, packed.ARRAYS):
            np.save(file, pack.array(number))
        else:
            file = file.with_suffix(".img")
            file.write_bytes(pack.stored(number))
    else:
        raise DataError(f"{path}: no such file, so the run's own rows cannot be compared.")
    return str(file.resolve())


def _looked_at(images: Sequence[str], contract: Contract) -> Iterator[np.ndarray]:
    return (exported.seen(image, contract) for image in images)


def _most_frequent(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return max(set(shapes), key=shapes.count)
