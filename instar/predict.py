"""A run or an exported file + images -> predictions, one a file, of exactly the pixels that evaluation sees.

An image that cannot be read is named with its reason and the others go on. An exported file is read without PyTorch.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from instar import contract as contracts
from instar import exported
from instar import run as runs
from instar.contract import CLASSES, EMBEDDING, PIXELS
from instar.errors import DataError
from instar.exported import Answer, Model
from instar.run import Run, write_atomically

READ = (".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".npy")
_AT_ONCE = 16  # images of one size that are computed together
_AHEAD = 64  # images that are decoded before they are needed


@dataclass(frozen=True, eq=False)
class Predicted:
    """One file and what was said about it; or why it could not be read."""

    path: Path
    answer: Answer | None
    reason: str = ""


def opened(
    thing: str,
    *,
    runs_folder: Path = Path("runs"),
    checkpoint: str = "best",
    device: str = "cpu",
    threads: int | None = None,
    trust: bool = False,
) -> Model:
    """The model behind a run's name or folder, an exported file, or its folder.

    Raises RunError where there is no such run, ExportError where a file cannot be read.
    """
    path = Path(thing)
    if exported.is_exported(path):
        return exported.load(path, threads=threads, trust=trust)
    return of_run(runs.find(thing, runs_folder), checkpoint=checkpoint, device=device)


def of_run(run: Run, *, checkpoint: str = "best", device: str = "cpu") -> Model:
    """A run as a model that is computed by PyTorch."""
    from instar.engine import trained as weights

    return of_trained(weights.load(run, checkpoint=checkpoint, device=device))


def of_trained(trained: Any) -> Model:
    """A learner that was brought back (engine.trained.Trained) as a model."""
    from instar.engine import trained as weights

    return Model(weights.contract(trained), partial(_computed, trained), where=str(trained.run.path))


def files(things: Sequence[str]) -> list[Path]:
    """Every image named, and every one in the folders named, at any depth and in order of their names.

    Raises DataError where something is not there, or nothing is found.
    """
    found: list[Path] = []
    missing = [thing for thing in things if not Path(thing).exists()]
    if missing:
        raise DataError(f"{', '.join(missing[:5])}: no such file or folder.")
    for thing in map(Path, things):
        inside = sorted(one for one in thing.rglob("*") if one.suffix.lower() in READ) if thing.is_dir() else [thing]
        found += inside
    if not found:
        raise DataError(f"{', '.join(things[:5])}: no image in there ({', '.join(end[1:] for end in READ)}).")
    return found


def predict(
    model: Model, paths: Sequence[Path], *, workers: int = 2, tick: Callable[[int], None] = lambda done: None
) -> Iterator[Predicted]:
    """What the model says about each file, in order.

    workers   threads that decode ahead;  tick   told the files done so far
    """
    done = 0
    look = partial(_looked, model)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(paths), _AHEAD):
            some = paths[start : start + _AHEAD]
            for one in _answered(model, pool.map(look, some)):
                done += 1
                tick(done)
                yield one


@dataclass(frozen=True, eq=False)
class _Looked:
    """The pixels that go into the model and the height and width of the image they are of; or why there are none."""

    path: Path
    image_HWC: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    reason: str = ""


def _looked(model: Model, path: Path) -> _Looked:
    try:
        image_HWC, size = exported.shown(path, model.contract)
        exported.fit(image_HWC, model.contract)
    except DataError as error:
        return _Looked(path, reason=str(error))
    return _Looked(path, image_HWC, size)


def _answered(model: Model, looked: Iterable[_Looked]) -> Iterator[Predicted]:
    """Answers in order; neighbours of one size are computed together."""
    for shape, group in groupby(looked, key=lambda one: None if one.image_HWC is None else one.image_HWC.shape):
        if shape is None:
            yield from (Predicted(one.path, None, one.reason) for one in group)
            continue
        together = list(group)
        for start in range(0, len(together), _AT_ONCE):
            some = together[start : start + _AT_ONCE]
            answers = model.answers(np.stack([one.image_HWC for one in some if one.image_HWC is not None]))
            for one, answer in zip(some, answers, strict=True):
                yield Predicted(one.path, exported.sized(answer, one.size))


def _computed(trained: Any, image_BHWC: np.ndarray) -> dict[str, Any]:
    import torch

    with torch.inference_mode():
        outputs = trained.learner.answer(
            torch.from_numpy(np.require(image_BHWC, requirements="W")).to(trained.plan.device)
        )
    return {name: value.cpu().numpy() for name, value in outputs.items()}


# --- what is written -------------------------------------------------------------------------------------------------


def document(model: Model, found: Sequence[Predicted]) -> dict[str, Any]:
    """Everything that was said, as plain values."""
    return {
        "model": {"run": model.contract.run, "checkpoint": model.contract.checkpoint, "stored": model.contract.stored},
        "labels": list(model.contract.labels),
        "rows": [_row(one.path, one.answer) for one in found if one.answer is not None],
        "broken": [{"path": str(one.path), "reason": one.reason} for one in found if one.answer is None],
    }


def _row(path: Path, answer: Answer) -> dict[str, Any]:
    if answer.probability_K is not None:
        said = {"prediction": answer.label, "confidence": answer.confidence}
        return {
            "path": str(path),
            **said,
            "probability": dict(zip(answer.labels, answer.probability_K.tolist(), strict=True)),
        }
    if answer.mask_HW is not None:
        height, width = answer.mask_HW.shape
        return {"path": str(path), "height": height, "width": width, "share": dict(answer.shares)}
    assert answer.embedding_D is not None, "an answer is one of three"
    return {"path": str(path), "embedding": answer.embedding_D.tolist()}


def write(model: Model, found: Sequence[Predicted], path: Path) -> None:
    """Write a .parquet or .json file, whole or not at all. Raises DataError for another ending."""
    if path.suffix == ".json":
        write_atomically(path, json.dumps(document(model, found), indent=1, ensure_ascii=False) + "\n")
    elif path.suffix == ".parquet":
        _write_parquet(model, found, path)
    else:
        raise DataError(f"{path}: predictions are written as .parquet or .json. Write to=NAME.parquet.")


def _write_parquet(model: Model, found: Sequence[Predicted], path: Path) -> None:
    """One row a file, also those that cannot be read, which have a reason and nothing else."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    from instar.predictions import texts

    said = [one.answer for one in found]
    columns: dict[str, Any] = {
        "path": pa.array(texts([str(one.path) for one in found])),
        "reason": pa.array(texts([one.reason for one in found])),
    }
    if model.contract.answers == CLASSES:
        columns["prediction"] = pa.array([one and one.label for one in said], pa.string())
        columns["confidence"] = pa.array([one and one.confidence for one in said], pa.float32())
        columns["probability"] = pa.array([one and one.probability_K for one in said], pa.list_(pa.float32()))
    elif model.contract.answers == PIXELS:
        columns["share"] = pa.array([one and _by_label(one) for one in said], pa.list_(pa.float32()))
    elif model.contract.answers == EMBEDDING:
        columns["embedding"] = pa.array([one and one.embedding_D for one in said], pa.list_(pa.float32()))
    about = {"instar.classes": json.dumps(model.contract.labels), "instar.contract": contracts.text(model.contract)}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(about), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def _by_label(answer: Answer) -> list[float]:
    share = dict(answer.shares)
    return [share[label] for label in answer.labels]


def write_masks(found: Iterable[Predicted], folder: Path) -> int:
    """Write the class of each pixel as a PNG a file, as large as its image; returns how many."""
    import io

    from PIL import Image

    number = 0
    for number, one in enumerate((one for one in found if one.answer is not None), 1):
        assert one.answer is not None and one.answer.mask_HW is not None, "the caller looked"
        buffer = io.BytesIO()
        Image.fromarray(one.answer.mask_HW).save(buffer, "PNG")
        write_atomically(folder / f"{number:06d}-{one.path.stem}.png", buffer.getvalue())
    return number
