"""The page of one run, from the files of its folder alone."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import instar
from instar.documents import read as read_document
from instar.errors import InstarError
from instar.report import balance, exports, learning, lineage, methods, timeline
from instar.report.blocks import Code, Note, Page, Quote, Section, Text
from instar.run import Run

Document = dict[str, Any]


def page(
    run: Run,
    *,
    metric: str,
    mode: str,
    results: Sequence[Section],
    scores: Document,
    split: str,
    skipped: int = 0,
    also: Sequence[str] = (),
    aim: methods.Aim | None = None,
    divided: bool = False,
) -> Page:
    """The page; what a folder lacks is said to be missing, never guessed.

    results   what the task shows of its predictions; the first may be without a title and opens the page
    scores    of that split, empty where there are none
    also      validation scores to draw over epochs, beside the metric
    aim       what the task says of itself, for the methods section
    divided   whether the files came divided
    """
    experiment, plan, start = _experiment(run), read_json(run.plan_file), last_start(run)
    metrics, events = run.metrics(), run.events()
    turns = timeline.attempts(events, metrics)
    best = learning.best_point(metrics, metric, mode)
    opening = [section for section in results if not section.title]
    if not results:
        opening = [Section("", (Note(_nothing_yet(run, split)),))]
    root = (experiment.get("data") or {}).get("root", "")
    result = methods.result_sentence(scores, split, _best_epoch(scores, best), metric)
    sections = (
        *opening,
        *learning_sections(metrics, turns, plan, metric, mode=mode, also=also),
        *filter(None, [balance.section(metrics, plan)]),
        *(section for section in results if section.title),
        *filter(None, [exports.section(run.cards())]),
        _methods(methods.methods(experiment, plan, start, result, aim=aim, events=events, divided=divided)),
        Section(
            "Cost", cost(turns, events, metrics, plan, start), "What it took, and everything that happened on the way."
        ),
        Section("Configuration", configuration(run, plan), "What was asked for, and what followed from it."),
        Section(
            "Lineage",
            (
                lineage.data_facts(plan, str(root), skipped),
                lineage.code_facts(start),
                lineage.machine_facts(start, plan),
            ),
            "Data, code and machine this result comes from.",
        ),
    )
    return Page(
        title=run.name,
        lead=_lead(experiment, plan, metrics, best),
        sections=sections,
        kicker=_kicker(run, split, events),
        foot=f"Made by Instar {instar.__version__}, {timeline.clock(time.time())} {time.strftime('%Z')}. This file is "
        f"complete in itself; the rows behind it are in predictions/{split}.parquet.",
    )


def learning_sections(
    metrics: Sequence[Document],
    turns: Sequence[timeline.Attempt],
    plan: Document,
    metric: str,
    *,
    mode: str,
    also: Sequence[str],
) -> list[Section]:
    """The curves and their numbers, with every interruption."""
    if not metrics:
        return [Section("Learning", (Note("Nothing was measured yet."),))]
    epoch_samples = int(plan.get("epoch_samples") or 0)
    charts = learning.charts(metrics, turns, metric=metric, mode=mode, epoch_samples=epoch_samples, also=also)
    table = learning.numbers(metrics, metric, mode, also)
    kills = len(turns) - 1
    lead = "Training and validation, over epochs."
    if kills > 0:
        often = {1: "once", 2: "twice"}.get(kills, f"{kills} times")
        lead += f" Interrupted {often}, where the dotted lines are, and carried on where it stood."
    return [Section("Learning", (charts, table) if table.rows else (charts,), lead)]


def _best_epoch(scores: Document, best: Document | None) -> str | None:
    """The epoch of the best checkpoint, where that is what the scores are of."""
    samples = (scores.get("about") or {}).get("samples")
    return learning.epochs(best["epoch"]) if best and samples in (None, best.get("samples")) else None


def _methods(sentence: str) -> Section:
    lead = "A paragraph for the paper. Check it, and add where the images come from."
    return Section("Methods", (Quote(sentence),), lead)


def cost(
    turns: Sequence[timeline.Attempt],
    events: Sequence[Document],
    metrics: Sequence[Document],
    plan: Document,
    start: Document,
) -> tuple[Any, ...]:
    """The attempts on a line, the bill, and every event."""
    drawn = timeline.drawn(turns, events)
    bill = timeline.bill(turns, plan, metrics, start.get("cpus"), events)
    return (*((drawn,) if drawn else (Text("No event was recorded."),)), bill, timeline.table(events))


def configuration(run: Run, plan: Document) -> tuple[Any, ...]:
    """The recipe as it was validated, and what followed from it."""
    try:
        text = run.experiment_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return (Note("experiment.yaml is missing."),)
    return (Code(text, "experiment.yaml"), lineage.plan_facts(plan))


def _lead(experiment: Document, plan: Document, metrics: Sequence[Document], best: Document | None) -> str:
    model = experiment.get("model") or {}
    classes = len(plan.get("classes") or ())
    whole = sum(int(plan.get(f"{split}_rows") or 0) for split in ("train", "val", "test"))
    name = model.get("name") or model.get("kind") or "A network"
    if not plan:
        return "This run has not been planned yet."
    done = max((float(point.get("epoch", 0)) for point in metrics), default=0.0)
    start = "pretrained" if model.get("pretrained") or model.get("weights") else "from scratch"
    what = "pairs" if plan.get("other_channels") else "images"
    what += f" of {classes} classes" if classes > 1 else ""
    text = f"{name}, {start}, on {whole:,} {what}".replace(",", ",", 1)
    asked = (experiment.get("train") or {}).get("epochs", 0)
    text += f", {learning.epochs(min(done, asked or done))} of {asked:g} epochs"
    return f"{text}; best at epoch {learning.epochs(best['epoch'])}." if best else f"{text}."


def _kicker(run: Run, split: str, events: Sequence[Document]) -> str:
    last = timeline.clock(events[-1].get("time"))[:16] if events else "not started"
    return f"Instar run · {split} split · {last}"


def _nothing_yet(run: Run, split: str) -> str:
    return (
        f"There are no predictions of the {split} split yet. Make them and this page with: instar evaluate {run.name}"
    )


def _experiment(run: Run) -> Document:
    try:
        return dict(read_document(run.experiment_file))
    except InstarError:
        return {}


def last_start(run: Run) -> Document:
    """The provenance of the newest start."""
    found = read_json(run.provenance_file)
    starts = found.get("starts")
    return dict(starts[-1]) if isinstance(starts, list) and starts else found


def read_json(path: Path) -> Document:
    """What a JSON file holds; nothing where it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {"starts": value} if isinstance(value, list) else value if isinstance(value, dict) else {}
