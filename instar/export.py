"""A run -> files for other programs, each with the proof that it gives the same answers.

Read top to bottom: take rows, ask PyTorch, then for each format convert, ask its own runtime, compare, and only then
give the file its name. Converting and asking happen in processes of their own.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from instar import contract as contracts
from instar import exported, phones, plugins
from instar.contract import Contract
from instar.engine import trained
from instar.engine.exporting import child, convert, measure, proof
from instar.engine.exporting.proof import Gate
from instar.engine.exporting.question import Question, ask
from instar.engine.exporting.workshop import named, workshop
from instar.errors import ExportError, InstarError
from instar.run import Run, write_atomically

CARD = "card.json"


@dataclass(frozen=True)
class Options:
    """How to export.

    stored        float32, fp16 or int8;  checkpoint  best or latest
    rows          of the test split that are compared;  calibration  rows of the validation split that int8 sees
    agreement     least share of equal answers, drop  most of the score that may be lost; None for the usual ones
    threads       that compute where time is taken
    seconds       one conversion may take
    """

    stored: str = "float32"
    checkpoint: str = "best"
    rows: int = 200
    calibration: int = 128
    agreement: float | None = None
    drop: float | None = None
    threads: int = 1
    seconds: float = 1800.0


@dataclass(frozen=True)
class Made:
    """What came of one format: a folder and its card, or why there is none."""

    kind: str
    folder: Path | None
    card: dict[str, Any]
    error: str = ""
    already: bool = False


def export(
    run: Run, *, to: Sequence[str], options: Options, told: Callable[[str], None] = lambda what: None
) -> list[Made]:
    """Export a run to some formats. One that fails says why, leaves nothing behind, and the others are still made.

    told   told what is being done
    Raises RunError, CheckpointError or DataError where there is nothing to export or to compare with, ConfigError for
    a format that is none.
    """
    for kind in to:
        plugins.load("exporters", kind)
    learnt = trained.load(run, checkpoint=options.checkpoint)
    manifest = trained.manifest(run)
    with workshop(run) as shop:
        told("asking PyTorch")
        rows, calibration, threads = options.rows, options.calibration, options.threads
        question = ask(learnt, manifest, rows=rows, calibration=calibration, threads=threads, shop=shop)
        return [_made(run, kind, question=question, options=options, shop=shop, told=told) for kind in to]


@dataclass(frozen=True, eq=False)
class _Work:
    """One format on its way.

    folder   everything of it that nobody may see yet;  file  the model in it, beside which its companions go
    """

    kind: str
    label: str
    folder: Path
    file: Path
    contract: Contract
    question: Question
    options: Options


def _made(
    run: Run, kind: str, *, question: Question, options: Options, shop: Path, told: Callable[[str], None]
) -> Made:
    """One format: convert, ask, compare; only what passes gets its name."""
    label = kind.rpartition(".")[2] + ("" if options.stored == "float32" else f"-{options.stored}")
    folder = shop / f"{len(list(shop.iterdir()))}-{label}"
    folder.mkdir()
    try:
        contract, suffix = _agreed(kind, question, options)
        if (there := _already(run, label, question, options)) is not None:
            return Made(kind, there[0], there[1], already=True)
        work = _Work(kind, label, folder, folder / "out" / f"model{suffix}", contract, question, options)
        work.file.parent.mkdir()
        told(f"converting to {label}")
        seconds = _converted(work)
        told(f"asking {label}")
        card = {**_card(work), "seconds": round(seconds, 1)}
        _judge(card)
        phones.write(work.file.parent, replace(contract, stored=options.stored), model=work.file.name)
        write_atomically(work.file.parent / CARD, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        made = named(run, label, work.file.parent)
    except InstarError as error:
        run.log_event("export_failed", format=label, reason=str(error))
        return Made(kind, None, {}, f"{error}{_kept_log(run, folder, label)}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    run.log_event("exported", format=label, folder=str(made), agreement=card["agreement"])
    return Made(kind, made, card)


def _agreed(kind: str, question: Question, options: Options) -> tuple[Contract, str]:
    """The contract for a format, and how its files end. Raises ExportError where the format cannot do what is asked."""
    exporter = plugins.load("exporters", kind)
    if options.stored not in exporter.STORES:
        raise ExportError(
            f"{kind} cannot store weights as {options.stored}, only as {', '.join(exporter.STORES)}. "
            f"Leave quantise out."
        )
    exported.installed(exporter, exporter.NEEDS)
    contract = contracts.sized(question.contract, any_size=exporter.ANY_SIZE, any_batch=exporter.ANY_BATCH)
    return contract, exporter.SUFFIX


def _converted(work: _Work) -> float:
    """Convert in a process of its own; returns the seconds it took."""
    request = convert.Request(
        run=str(work.question.learnt.run.path.resolve()),
        checkpoint=work.options.checkpoint,
        kind=work.kind,
        stored=work.options.stored,
        file=str(work.file),
        contract=contracts.text(work.contract),
        calibration=work.question.calibration if work.options.stored == "int8" else [],
    )
    began = time.monotonic()
    _child(work, "convert", request, what=f"the converter to {work.kind}")
    if not work.file.is_file():
        raise ExportError(f"the converter to {work.kind} ended well but wrote no file")
    return time.monotonic() - began


def _card(work: _Work) -> dict[str, Any]:
    """Everything that was measured of an exported file."""
    answers, question, threads = work.folder / "answers", work.question, work.options.threads
    answers.mkdir()
    request = measure.Request(str(work.file), work.kind, question.images, str(answers), threads, measure.REPEATS)
    _child(work, "measure", request, what=f"the {work.kind} file")
    seconds = json.loads((answers / "seconds.json").read_text(encoding="utf-8"))
    rows = len(question.images)
    found = proof.compared(work.contract, _rows(question.answers, rows), _rows(answers, rows), question.truth)
    data = work.file.read_bytes()
    return {
        "format": work.kind,
        "label": work.label,
        "stored": work.options.stored,
        "file": work.file.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "checkpoint": question.learnt.checkpoint,
        "split": question.split,
        "rows": rows,
        **found,
        "latency": {**_quantiles(seconds["latency"]), "threads": threads, "image": seconds["image"]},
        "pytorch": {**_quantiles(question.ours), "threads": threads},
        "loading": round(seconds["loading"], 4),
        "inside": work.contract.inside,
        "steps": contracts.steps(work.contract),
        "gate": asdict(_gate(work.options)),
    }


def _judge(card: dict[str, Any]) -> None:
    """Raises ExportError where the answers are others."""
    wrong = proof.failures(card, Gate(**card["gate"]))
    if wrong:
        other = " Or write quantise=fp16, which keeps half the size." if card["stored"] == "int8" else ""
        raise ExportError(
            f"the {card['label']} file does not answer as PyTorch does, so it was thrown away: {'; '.join(wrong)} "
            f"({card['rows']} {card['split']} rows). If that is good enough for you, say so with agree= and drop=."
            f"{other}"
        )


def _gate(options: Options) -> Gate:
    usual = proof.GATES[options.stored]
    if options.agreement is None and options.drop is None:
        return usual
    agreement = usual.agreement if options.agreement is None else options.agreement
    # Whoever says how many answers must agree has decided how far they may move.
    moved = usual.moved if options.agreement is None else 1.0
    return Gate(agreement, moved, usual.drop if options.drop is None else options.drop)


def _kept_log(run: Run, folder: Path, label: str) -> str:
    """Where to read more of what went wrong: the last log of a child is kept, and nothing else."""
    logs = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
    if not logs or not logs[-1].stat().st_size:
        return ""
    kept = run.exports / f"{label}.log"
    shutil.copyfile(logs[-1], kept)
    return f" What it printed is in {kept}."


def _already(run: Run, label: str, question: Question, options: Options) -> tuple[Path, dict[str, Any]] | None:
    """An export of the same weights that was held to the same."""
    for card in run.cards():
        same = (card.get("label"), card.get("checkpoint"), card.get("split"), card.get("rows"), card.get("gate"))
        wanted = (label, question.learnt.checkpoint, question.split, len(question.images), asdict(_gate(options)))
        file = run.exports / card["folder"] / str(card.get("file"))
        if same == wanted and file.is_file() and file.stat().st_size == card.get("bytes"):
            return file.parent, card
    return None


def _child(work: _Work, name: str, request: Any, *, what: str) -> None:
    """Let instar.engine.exporting.NAME do what is requested."""
    path = work.folder / f"{name}.json"
    path.write_text(json.dumps(asdict(request)), encoding="utf-8")
    child.start(
        f"instar.engine.exporting.{name}",
        path,
        log=work.folder / f"{name}.log",
        seconds=work.options.seconds,
        what=what,
        threads=work.options.threads,
    )


def _rows(folder: Path, number: int) -> Iterator[dict[str, np.ndarray]]:
    for row in range(number):
        with np.load(folder / f"row-{row:06d}.npz", allow_pickle=False) as outputs:
            yield {name: outputs[name] for name in outputs.files}


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(seconds)), "p95": float(np.quantile(seconds, 0.95)), "runs": len(seconds)}
