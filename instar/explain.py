"""Run + rows -> what mattered in each image -> page with overlays, and the maps as numbers.

Read top to bottom: choose the rows, ask the network, write.
"""

import hashlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, Field

from instar import embeddings, plugins
from instar import manifest as manifests
from instar import predictions as stored
from instar.engine.chosen import choose
from instar.errors import ConfigError, DataError
from instar.experiment import Experiment
from instar.machine import Machine
from instar.manifest import Manifest
from instar.report import explainpage, html
from instar.run import Run, write_atomically
from instar.settings import Settings

if TYPE_CHECKING:
    from instar.engine.trained import WithRows

AT_ONCE = 4  # rows: attention of all blocks, and gradients of all maps, are kept meanwhile
LARGEST = 320  # pixels of the longer side of an image in the page


def _method(kind: str) -> str:
    if kind != "auto" and "." not in kind and kind not in plugins.kinds("explainers"):
        raise ValueError(f"must be auto, {' or '.join(plugins.kinds('explainers'))}")
    return kind


class Question(Settings):
    """What is asked about a run's rows."""

    method: Annotated[str, AfterValidator(_method)] = "auto"
    """How; auto takes attention for a ViT, and gradcam for others."""
    layer: str | None = None
    """Part of the network whose map Grad-CAM takes; null for the last."""
    split: Literal["test", "val", "train"] = "test"
    """Where worst:8 and class:NAME look."""
    most: Annotated[int, Field(ge=1, le=200)] = 16
    """Rows of class:NAME and of a whole split, drawn by the seed."""
    checkpoint: Literal["best", "latest"] = "best"
    """Which state of the run."""
    seed: Annotated[int, Field(ge=0)] = 0
    """What rows are drawn from."""


@dataclass(frozen=True, eq=False)
class Explained:
    """What was found about one row.

    image   what the network was shown, uint8 H x W x 3, by branch
    maps    one a branch, as an explainer gives them
    answer  what the network says, and how sure it is;  truth   what it is, where that is something else
    """

    name: str
    image: dict[str, np.ndarray]
    maps: list[Any]
    answer: tuple[str, str]
    truth: str


def explain(
    run: Run, rows: Sequence[str], question: Question | None = None, *, machine: Machine | None = None
) -> dict[str, Any]:
    """Explain rows, and write their page and their maps; returns where those are, and what was asked.

    rows   worst:8, class:NAME, a split, a row's name or number, or an image file by its path
    Raises ConfigError or DataError for rows nobody knows, all of them at once, or a network that cannot be explained.
    """
    from instar.engine import build, trained

    question, machine = question or Question(), machine or Machine()
    asked = trained.with_rows(run, checkpoint=question.checkpoint, machine=machine, devices=1)
    _refuse_pixels(run, asked.experiment)
    method, explainer = _explainer(question.method, asked.learner.module)
    chosen, files = choose(
        run,
        asked.manifest,
        rows,
        task=plugins.load("tasks", asked.experiment.task.kind),
        split=question.split,
        most=question.most,
        seed=question.seed,
    )
    found, unread = _asked_about(asked, chosen, explainer, question)
    if files:
        loose = _of_files(asked.experiment, asked.manifest, files)
        reader = build.reader(asked.experiment, loose, machine)
        every = range(len(files))
        more, torn = _asked_about(asked, every, explainer, question, reader=reader, manifest=loose)
        found, unread = found + more, unread + torn
    if not found:
        raise DataError(f"none of these rows can be read: {'; '.join(unread)}")
    name = f"{_slug(rows)}-{method.rpartition('.')[2]}"
    _write_maps(found, run.explanation_maps(name))
    _write_page(run, found, name, method=method, asked=asked, question=question, unread=unread)
    run.log_event("explained", rank=0, method=method, rows=len(found), checkpoint=asked.checkpoint)
    return {
        "method": method,
        "how": found[0].maps[0].note,
        "rows": [one.name for one in found],
        "unreadable": unread,
        "page": str(run.explanation(name)),
        "maps": str(run.explanation_maps(name)),
    }


# --- what the network says -------------------------------------------------------------------------------------------


def _of_files(experiment: Experiment, manifest: Manifest, files: Sequence[Path]) -> Manifest:
    """Image files as rows of their own, without a class."""
    if experiment.data.reader.kind != "image_label":
        raise ConfigError(
            f"{files[0]}: files by their path are for the reader image_label, and this run has "
            f"{experiment.data.reader.kind}. Name a row of the run."
        )
    folder = Path(os.path.commonpath([file.parent for file in files]))
    paths = [str(file.relative_to(folder)) for file in files]
    columns: dict[str, Any] = {"id": [str(file) for file in files], "file": paths, "target": [-1] * len(files)}
    rest = {"group": None, "split": "none", "width": 0, "height": 0, "content": 0}
    columns |= {name: [value] * len(files) for name, value in rest.items()}
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in manifests.SCHEMA})
    return Manifest(folder, table, manifest.classes, statistics=manifest.statistics)


def _explainer(wanted: str, module: Any) -> tuple[str, ModuleType]:
    """The explainer, by its kind or the first that fits; raises ConfigError where none does."""
    reasons = []
    for kind in plugins.kinds("explainers") if wanted == "auto" else [wanted]:
        explainer = plugins.load("explainers", kind)
        if not (reason := explainer.reason_against(module)):
            return kind, explainer
        reasons.append(f"method={kind}: {reason}")
    raise ConfigError(reasons)


def _asked_about(
    asked: "WithRows",
    rows: Sequence[int],
    explainer: ModuleType,
    question: Question,
    *,
    reader: Any = None,
    manifest: Manifest | None = None,
) -> tuple[list[Explained], list[str]]:
    """What was found about rows, of the run or of a manifest and reader of their own, and which cannot be read, why."""
    from instar.engine.loading import loaders

    reader, manifest = reader or asked.reader, manifest or asked.manifest

    found: list[Explained] = []
    unread: dict[int, str] = {}
    for batch in loaders.eval_stream(reader, np.array(rows, np.int64), batch=AT_ONCE) if len(rows) else ():
        unread |= dict(batch["bad"])
        good = [at for at, row in enumerate(batch["row"].tolist()) if row not in unread]
        if good:
            columns = [name for name in batch if name not in ("bad", "seconds", "notes")]
            whole = {name: batch[name][good].to(asked.plan.device) for name in columns}
            found += _of_batch(asked, whole, manifest, explainer, question)
    return found, [f"{manifest.ids[row]}: {reason}" for row, reason in unread.items()]


def _of_batch(
    asked: "WithRows", batch: dict[str, Any], manifest: Manifest, explainer: ModuleType, question: Question
) -> list[Explained]:
    import torch

    from instar.engine import stamps

    asked.learner.module.eval()
    with torch.no_grad():
        said = asked.learner.predict(batch)
    rows = batch["row"].tolist()
    probability_BK = said["probability"].cpu().numpy() if "probability" in said else None
    classes = None if probability_BK is None else _classes(probability_BK, batch["label"].tolist())
    maps = explainer.explain(asked.learner, batch, layer=question.layer, classes=classes)
    images = {
        branch: stamps.shown(batch[branch], _fitting(batch[branch].shape[1:3])).cpu().numpy()
        for branch in dict.fromkeys(one.branch for one in maps[0])
    }
    return [
        Explained(
            name=manifest.ids[row],
            image={branch: shown_BHW3[at] for branch, shown_BHW3 in images.items()},
            maps=maps[at],
            answer=_answer(
                manifest, int(manifest.targets[row]), None if probability_BK is None else probability_BK[at]
            ),
            truth=_truth(manifest, int(manifest.targets[row]), None if probability_BK is None else probability_BK[at]),
        )
        for at, row in enumerate(rows)
    ]


def _classes(probability_BK: np.ndarray, labels: Sequence[int]) -> list[tuple[int, ...]]:
    """Of each row the class it was taken for, then its own where that is another one."""
    answers = probability_BK.argmax(axis=1).tolist()
    return [(said, label) if 0 <= label != said else (said,) for said, label in zip(answers, labels, strict=True)]


def _answer(manifest: Manifest, label: int, probability_K: np.ndarray | None) -> tuple[str, str]:
    """What the network says of a row and how sure it is; or its class, where it says none."""
    if probability_K is None:
        return (manifest.classes[label] if _is_known(manifest, label) else "", "")
    said = int(probability_K.argmax())
    return manifest.classes[said], html.percent(float(probability_K[said]), 0)


def _truth(manifest: Manifest, label: int, probability_K: np.ndarray | None) -> str:
    """What a row is and how probable that was to the network, where it said something else."""
    if probability_K is None or not _is_known(manifest, label) or int(probability_K.argmax()) == label:
        return ""
    return f"{html.harmless(manifest.classes[label])}, {html.percent(float(probability_K[label]), 0)}"


def _is_known(manifest: Manifest, label: int) -> bool:
    return label >= 0 and len(manifest.classes) > 1


def _fitting(size: Sequence[int]) -> tuple[int, int]:
    """Height and width of an image in the page."""
    share = min(1.0, LARGEST / max(size))
    height, width = (max(1, round(share * side)) for side in size)
    return height, width


def _refuse_pixels(run: Run, experiment: Experiment) -> None:
    model = plugins.load("models", experiment.model.kind)
    if getattr(model, "answers", lambda settings: "image")(experiment.model) == "pixels":
        raise ConfigError(
            f"{run.name} answers each pixel, and its page shows where it is right and wrong: {run.report}. "
            "instar explain is for networks that answer once an image."
        )


# --- what is written -------------------------------------------------------------------------------------------------


def _write_maps(found: Sequence[Explained], path: Path) -> None:
    """The maps as numbers: `0003 image` holds those of the branch image of the third row of `rows`, named in `maps`."""
    arrays: dict[str, np.ndarray] = {"rows": np.array(stored.texts([one.name for one in found]))}
    for at, one in enumerate(found):
        for maps in one.maps:
            arrays[f"{at:04} {maps.branch}"] = maps.value_LHW
            arrays[f"{at:04} {maps.branch} names"] = np.array(maps.names)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def _write_page(
    run: Run,
    found: Sequence[Explained],
    name: str,
    *,
    method: str,
    asked: "WithRows",
    question: Question,
    unread: Sequence[str],
) -> None:
    branches = list(dict.fromkeys(maps.branch for one in found for maps in one.maps))
    called = embeddings.names_of(asked.experiment)
    shown = [
        explainpage.seen(
            one.image[maps.branch],
            maps.value_LHW,
            names=maps.names,
            row=one.name,
            answer=one.answer,
            truth=one.truth,
            branch=called[maps.branch] if len(branches) > 1 else "",
        )
        for one in found
        for maps in one.maps
    ]
    how = dict.fromkeys(
        f"{called[maps.branch]}: {maps.note}" if len(branches) > 1 else maps.note for maps in found[0].maps
    )
    about: dict[str, Any] = {"run": run.name, "checkpoint": asked.checkpoint, "method": "; ".join(how)}
    about |= {"split": question.split, "seed": question.seed}
    notes = [f"{len(unread)} rows cannot be read: {'; '.join(unread[:3])}"] if unread else []
    lead = explainpage.sentence(len(found), method, branches=[called[branch] for branch in branches])
    page = explainpage.page(run.name, shown, method=method, about=about, notes=notes, lead=lead)
    html.write(page, run.explanation(name))


def _slug(words: Sequence[str]) -> str:
    """A file name for what was asked for; the same words give the same."""
    whole = " ".join(words)
    slug = re.sub(r"[^a-z0-9]+", "-", whole.lower()).strip("-")[:40]
    plain = whole.replace(":", "-") == slug
    return (
        slug
        if plain
        else f"{slug}-{hashlib.sha256(whole.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}".strip("-")
    )
