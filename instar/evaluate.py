"""Run + split -> Predictions -> scores -> report page. And runs side by side, where that is honest.

Read top to bottom: predict, score, write the page, compare.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from instar import experiment as experiments
from instar import manifest as manifests
from instar import plugins
from instar import predictions as stored
from instar.errors import Again, DataError, RunError
from instar.experiment import Experiment
from instar.machine import Machine
from instar.manifest import Manifest
from instar.metrics import intervals
from instar.report import html, runpage, timeline
from instar.run import Run, write_atomically

SPLITS = ("test", "val", "train")


def evaluate(
    run: Run,
    *,
    split: str = "test",
    checkpoint: str = "best",
    machine: Machine | None = None,
    world: Any = None,
    tick: Callable[[int], None] = lambda rows: None,
) -> dict[str, Any]:
    """Predict every row of a split exactly once, score it, and write predictions, scores and the page.

    checkpoint   best or latest
    world        the ranks that do it together; by default this process alone. Only rank 0 gets and writes the scores
    tick         told the rows done so far
    Raises RunError or CheckpointError where there is nothing to evaluate, DataError where the split has no rows, and
    Again where a signal came meanwhile.
    """
    experiment, manifest, machine = experiments.load(run.path), _manifest(run), machine or Machine()
    with nullcontext(world) if world is not None else _alone(run, machine) as together:
        found = predict(
            run, experiment, manifest, split=split, checkpoint=checkpoint, machine=machine, world=together, tick=tick
        )
    if found is None:
        return {}
    task = plugins.load("tasks", experiment.task.kind)
    stored.stored_by(task).write(found, run.predictions(split))
    scores = {**task.scores(found), "about": {**found.meta, "rows_hash": rows_hash(found, stored.stored_by(task))}}
    write_atomically(run.scores_file(split), json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    run.log_event("evaluated", rank=0, split=split, checkpoint=found.meta["checkpoint"], rows=len(found))
    report(run)
    return scores


def predict(
    run: Run,
    experiment: Experiment,
    manifest: Manifest,
    *,
    split: str,
    checkpoint: str,
    machine: Machine,
    world: Any,
    tick: Callable[[int], None],
) -> Any:
    """What a checkpoint says about the rows of a split, in the order of the manifest; None on ranks other than 0."""
    from instar.engine import build, deadline, planning, trained
    from instar.engine import predict as engine
    from instar.engine.loading import loaders

    rows = manifest.rows(split)
    if not len(rows):
        raise DataError(f"{run.name} has no {split} rows. Evaluate {' or '.join(_filled(manifest)) or 'another run'}.")
    plan = planning.plan(experiment, manifest, machine, devices=world.size)
    found = trained.checkpoint_of(run, checkpoint)
    learner = build.learner(experiment, plan, empty=True)
    learner.module.load_state_dict(trained.weights_of(found))
    reader = build.reader(experiment, manifest, machine)

    def note_bad(row: int, reason: str) -> None:
        run.log_event("bad_sample", rank=world.rank, split=split, row=row, path=manifest.ids[row], reason=reason)

    batches = partial(
        loaders.eval_stream,
        reader,
        batch=plan.micro,
        workers=plan.workers,
        timeout=machine.timeout.seconds,
        on_bad=note_bad,
    )
    try:
        columns = engine.split(
            learner,
            batches,
            rows,
            precision=plan.precision,
            world=world,
            keep=build.keep(experiment, whole=True),
            tick=tick,
            stopping=lambda: deadline.received() is not None,
        )
    except engine.Abandoned as given_up:
        raise Again(f"signal {deadline.received()} while the {split} rows were scored") from given_up
    if not columns:
        return None
    # A row that cannot be read comes back without its label, so that no score counts it.
    unreadable = int(((columns["label"] < 0) & (manifest.targets[columns["row"]] >= 0)).sum())
    return stored.stored_by(plugins.load("tasks", experiment.task.kind)).of(
        columns,
        ids=[manifest.ids[row] for row in columns["row"].tolist()],
        paths=[str(manifest.path(row)) for row in columns["row"].tolist()],
        classes=manifest.classes,
        meta={
            "run": run.name,
            "split": split,
            "checkpoint": found.name,
            "samples": found.samples,
            "manifest": manifest.hash,
            "unreadable": unreadable,
            "parameters": sum(weight.numel() for weight in learner.module.parameters()),
        },
    )


def report(run: Run, *, split: str | None = None) -> Path:
    """Write the page of a run from its files alone; returns its path.

    split   which predictions it shows; by default the test split, or else the first that was evaluated
    """
    from instar.engine import faults

    experiment = experiments.load(run.path)
    task = plugins.load("tasks", experiment.task.kind)
    shown = split or next((name for name in SPLITS if run.predictions(name).exists()), "test")
    scores, results = run.scores(shown), []
    if run.predictions(shown).exists():
        predictions = stored.stored_by(task).read(run.predictions(shown))
        scores = scores or task.scores(predictions)
        results = task.sections(predictions, scores)
    rows = _manifest(run) if run.manifest_file.exists() else None
    aim = getattr(task, "aim", None)
    page = runpage.page(
        run,
        metric=experiment.train.metric or task.METRIC,
        mode=experiment.train.mode or task.MODE,
        results=results,
        scores=scores,
        split=shown,
        skipped=len(rows.skipped) if rows else 0,
        also=getattr(task, "curves", tuple)(),
        aim=aim(experiment.task, len(rows.classes) if rows else 0) if aim else None,
        divided=bool(rows and rows.statistics.get("divided")),
    )
    return html.write(page, run.report, halfway=lambda: faults.point("report.write"))


# --- side by side --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One run in a comparison.

    value, interval   of the task's metric on the split, with its 95 % interval
    ahead             how far it is ahead of the run above it, in the same unit, with the interval of that difference:
                      both were scored on the same rows, so their shared luck cancels. None for the first
    seconds           at work, over all attempts
    """

    name: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    ahead: tuple[float, float, float] | None
    parameters: int | None
    seconds: float
    epochs: float
    differences: tuple[str, ...]


def compare(runs: Sequence[Run], *, split: str = "test") -> list[dict[str, Any]]:
    """Runs side by side, the best first: score with interval, size, time, and the settings in which they differ.

    Raises RunError where one was not evaluated, or where they were scored on different rows, which proves nothing.
    """
    if len(runs) < 2:
        raise RunError("a comparison takes at least two runs. See: instar runs")
    scores = {run: _scored(run, split) for run in runs}
    _same_rows(scores, split)
    experiment = {run: experiments.load(run.path) for run in runs}
    task = {run: plugins.load("tasks", experiment[run].task.kind) for run in runs}
    metric = _common_metric(task.values())
    up = task[runs[0]].MODE == "max"
    ordered = sorted(runs, key=lambda run: scores[run][metric], reverse=up)
    ahead = [None, *(_ahead(below, above, split, task[below]) for above, below in pairwise(ordered))]
    first = experiment[ordered[0]]
    return [
        asdict(
            Row(
                name=run.name,
                metric=metric,
                value=scores[run][metric],
                interval=tuple((scores[run].get("intervals") or {}).get(metric) or ()) or None,
                ahead=lead,
                parameters=scores[run]["about"].get("parameters"),
                seconds=sum(turn.seconds for turn in timeline.attempts(run.events(), run.metrics())),
                epochs=max((float(point.get("epoch", 0)) for point in run.metrics()), default=0.0),
                differences=tuple(experiments.differences(first, experiment[run])),
            )
        )
        for run, lead in zip(ordered, ahead, strict=True)
    ]


def rows_hash(predictions: Any, noun: ModuleType = stored) -> str:
    """sha256 over the names of the rows and what is true of them, whatever the order and the numbers of classes."""
    pairs = sorted(zip(predictions.ids, noun.truths(predictions), strict=True), key=lambda pair: pair[0])
    whole = hashlib.sha256()
    for pair in pairs:
        whole.update(json.dumps(pair).encode() + b"\n")
    return whole.hexdigest()


def _scored(run: Run, split: str) -> dict[str, Any]:
    scores = run.scores(split)
    if "rows_hash" not in scores.get("about", {}):
        raise RunError(f"{run.name} has no scores of the {split} split. Make them with: instar evaluate {run.name}")
    return scores


def _same_rows(scores: dict[Run, dict[str, Any]], split: str) -> None:
    (first, expected), *others = ((run, found["about"]["rows_hash"]) for run, found in scores.items())
    different = [run.name for run, found in others if found != expected]
    if different:
        raise RunError(
            f"{', '.join(different)} and {first.name} were scored on different {split} rows, so their scores say "
            f"nothing about each other. Train both on the same data, data.split and seed."
        )


def _common_metric(tasks: Iterable[ModuleType]) -> str:
    metrics = {task.METRIC for task in tasks}
    if len(metrics) > 1:
        raise RunError(f"these runs are scored by different metrics: {', '.join(sorted(metrics))}")
    return metrics.pop()


def _ahead(below: Run, above: Run, split: str, task: ModuleType) -> tuple[float, float, float] | None:
    """By how much the score is higher in `below` (negative: lower), row by row; None where the rows are gone."""
    try:
        first, second = (stored.stored_by(task).read(run.predictions(split)) for run in (above, below))
    except RunError:
        return None
    if (of_task := getattr(task, "ahead", None)) is not None:
        return of_task(first, second)
    right = dict(zip(first.ids, first.correct_N.tolist(), strict=True))
    before_N = np.array([right[name] for name in second.ids], bool)[second.known_N]
    now_N = second.correct_N[second.known_N]
    gained, lost = int((now_N & ~before_N).sum()), int((before_N & ~now_N).sum())
    return (gained - lost) / max(1, len(now_N)), *intervals.difference(gained, lost, len(now_N))


def _alone(run: Run, machine: Machine) -> Any:
    """A world of this process only, whatever launcher it runs under: the other ranks of a training may have gone."""
    from instar.engine import planning
    from instar.engine.ranks import world as worlds

    return worlds.join(worlds.Place(), folder=run.path, device=planning.device_of(machine.device))


def _manifest(run: Run) -> Manifest:
    if not run.manifest_file.exists():
        raise RunError(f"{run.path}: manifest.parquet is missing, so its rows are not known. Train again to make it.")
    return manifests.read(run.manifest_file)


def _filled(manifest: Manifest) -> list[str]:
    return [f"split={split}" for split in SPLITS if len(manifest.rows(split))]
