"""The page of one study, from its folder alone: what was tried, what mattered, what to take."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import instar
from instar import documents
from instar.formats import is_share, score, words
from instar.report import html
from instar.report.blocks import (
    Axis,
    Bar,
    Bars,
    Chart,
    Charts,
    Code,
    Headline,
    Line,
    Mark,
    Note,
    Number,
    Page,
    Parallel,
    Section,
    Table,
    Text,
    Trace,
)
from instar.space import Dimension
from instar.study import Definition, Study
from instar.tune import journal_of, judged_by, summary
from instar.tune.searcher import Searcher, Trial
from instar.tune.worker import spent

_TICKS = 4
_FEW_TICKS, _MOST_TICKS = 2, 6  # between the ends of an axis
_CLOSE = 0.08  # of an axis: what stands closer to an end would lie on its words
_MOST_LABELS = 23  # on one axis: more would lie on each other
_GOOD_SHARE = 0.2


def write(study: Study) -> Path:
    """Write the page of a study; returns its path."""
    definition, journal = journal_of(study)
    return html.write(page(study, definition, journal), study.report)


def page(study: Study, definition: Definition, journal: Searcher) -> Page:
    """The page; what is not known yet is said to be missing."""
    metric, mode = judged_by(definition.experiment)
    trials = [one for one in journal.trials() if one.place is not None]
    wanted = int(study.summary().get("samples") or len(trials))
    found = summary.of(study, trials, samples=wanted, metric=metric, mode=mode)
    best = summary.best_of(trials, mode)
    sections = (
        _opening(study, found, best, metric),
        *_best(definition, best, metric),
        *_tried(definition, trials, best, metric, mode),
        *_importance(journal, trials),
        *_went(trials, best, metric=metric, mode=mode),
        _every(trials, metric),
        Section(
            "Configuration",
            (Code(documents.dump(definition.spelled_out()), "study.yaml"),),
            "What was searched, and how.",
        ),
    )
    counts = found["counts"]
    ended = sum(counts[name] for name in ("finished", "pruned", "failed"))
    names = ", ".join(definition.space.names)
    return Page(
        title=study.name,
        lead=f"{ended} of {wanted} trials over {names}, judged by validation {words(metric)}.",
        sections=sections,
        kicker="Instar study",
        foot=f"Made by Instar {instar.__version__}, {time.strftime('%Y-%m-%d %H:%M:%S %Z')}. This file is complete in "
        f"itself; every trial is a run in trials/, with a page by instar report.",
    )


def _opening(study: Study, found: Mapping[str, Any], best: Trial | None, metric: str) -> Section:
    counts, hours = found["counts"], found["hours"]
    numbers = []
    if best is not None and best.value is not None:
        test = study.trial(best.place or 0).scores("test").get(metric)
        note = f"trial {best.place:04}" + (f"; on the test rows {score(metric, test)}" if test is not None else "")
        share = best.value if is_share(metric) else None
        numbers.append(Number(f"best validation {words(metric)}", score(metric, best.value), note, share=share))
    numbers.append(
        Number(
            "trials",
            f"{found['samples']}",
            f"{counts['finished']} finished, {counts['pruned']} stopped early"
            + "".join(
                f", {counts[name]} {said}"
                for name, said in (("failed", "failed"), ("running", "under way"))
                if counts[name]
            ),
        )
    )
    unit = "gpu" if hours["gpu"] else "cpu"
    numbers.append(Number(f"{unit.upper()} hours", f"{hours[unit]:.3g}", "over all trials"))
    blocks: tuple[Any, ...] = (Headline(tuple(numbers)),)
    return Section("", blocks if best is not None else (*blocks, Note("No trial has finished yet.")))


def _best(definition: Definition, best: Trial | None, metric: str) -> list[Section]:
    if best is None:
        return []
    rows = tuple((name, _said(value), definition.space.texts().get(name, "")) for name, value in best.settings.items())
    blocks = (
        Table(("setting", "value", "searched in"), rows),
        Code(summary.best_recipe(definition, best.settings), "best.yaml", copy=True),
    )
    lead = f"Trial {best.place:04}, {score(metric, best.value or 0.0)}. The recipe trains with these settings."
    return [Section("Best settings", blocks, lead)]


# --- what was tried --------------------------------------------------------------------------------------------------


def _tried(
    definition: Definition, trials: Sequence[Trial], best: Trial | None, metric: str, mode: str
) -> list[Section]:
    """Parallel coordinates: a line a trial, an axis a setting, the score last."""
    shown = [one for one in trials if one.settings]
    if len(shown) < 2:
        return []
    scored = sorted(value for one in shown if (value := _reached(one, mode)) is not None)
    axes = [_axis(one) for one in definition.space.dimensions]
    last = _scale(scored[0], scored[-1], metric) if scored else Axis(words(metric), ())
    good = _good(shown, mode)
    traces = [
        Trace(
            heights=(
                *(
                    _height(dimension, one.settings.get(dimension.name, ...))
                    for dimension in definition.space.dimensions
                ),
                _between(_reached(one, mode), scored),
            ),
            style=_style(one, best, good),
            text=f"trial {one.place:04}, {one.state}: "
            + ", ".join(f"{name} {_said(value)}" for name, value in one.settings.items()),
        )
        for one in sorted(shown, key=lambda one: (one is best, one.place in good))
    ]
    block = Parallel("Settings and score of every trial", (*axes, last), tuple(traces))
    lead = (
        "One line a trial: the best one thick and orange, the best fifth blue, those that were stopped early or failed "
        "dashed."
    )
    return [Section("What was tried", (block,), lead)]


def _style(one: Trial, best: Trial | None, good: set[int | None]) -> str:
    if best is not None and one.place == best.place:
        return "best"
    if one.state in ("pruned", "failed"):
        return "faint"
    return "good" if one.place in good else "plain"


def _good(trials: Sequence[Trial], mode: str) -> set[int | None]:
    finished = [one for one in trials if one.state == "finished" and one.value is not None]
    ordered = sorted(finished, key=lambda one: float(one.value or 0.0), reverse=mode == "max")
    return {one.place for one in ordered[: math.ceil(_GOOD_SHARE * len(ordered))]}


def _reached(one: Trial, mode: str) -> float | None:
    """The best score a trial had, if it ended early or not; None where it had none."""
    values = [value for value in (*one.curve.values(), one.value) if value is not None and math.isfinite(value)]
    return (max if mode == "max" else min)(values) if values else None


def _axis(one: Dimension) -> Axis:
    name = one.name.rpartition(".")[2] if one.name.count(".") else one.name
    if one.kind == "choice":
        every = math.ceil(len(one.choices) / _MOST_LABELS)
        heights = [(_height(one, choice) or 0.0, _label(one, choice)) for choice in one.choices[::every]]
        return Axis(name, tuple(heights))
    return Axis(name, tuple((_height(one, value) or 0.0, _said(value)) for value in _ticks(one)))


def _label(one: Dimension, choice: Any) -> str:
    """What stands on an axis: short, and with all of a group where its name alone stands there twice."""
    names = [_said(other) for other in one.choices]
    return (_said(choice) if names.count(_said(choice)) == 1 else str(choice))[:22]


def _height(one: Dimension, value: Any) -> float | None:
    """Where a value is on its axis, from 0 to 1; None where the setting was not drawn."""
    if value is ...:
        return None
    if one.kind == "choice":
        number = next((i for i, choice in enumerate(one.choices) if choice == value), None)
        return None if number is None else (number + 0.5) / len(one.choices)
    low, high, here = (math.log(part) if one.is_log else part for part in (one.low, one.high, float(value)))
    return min(1.0, max(0.0, (here - low) / (high - low)))


def _ticks(one: Dimension) -> list[float]:
    """Both ends of a range, and round numbers in between: powers of ten on a logarithmic axis that spans some."""

    def far(values: Iterable[float]) -> list[float]:
        return [value for value in values if _CLOSE < (_height(one, value) or 0.0) < 1 - _CLOSE]

    if not one.is_log:
        return [one.low, *far(_round(one.low, one.high)), one.high]
    powers = range(math.floor(math.log10(one.low)), math.ceil(math.log10(one.high)) + 1)
    every = math.ceil(len(powers) / _MOST_TICKS)
    inner = far(10.0**power for power in powers[::every])
    if len(inner) < _FEW_TICKS:
        inner = far(times * 10.0**power for power in powers for times in (1, 2, 5))
    return [one.low, *inner, one.high]


def _round(low: float, high: float) -> list[float]:
    """Round numbers between two, about as many as there are ticks."""
    step = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step *= next((times for times in (1, 2, 5) if (high - low) / (times * step) <= _MOST_TICKS), 10)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _scale(low: float, high: float, metric: str) -> Axis:
    if high <= low:
        return Axis(words(metric), ((0.5, score(metric, low)),))
    inner = [value for value in _round(low, high) if _CLOSE < (value - low) / (high - low) < 1 - _CLOSE]
    ticks = [((value - low) / (high - low), score(metric, value)) for value in (low, *inner, high)]
    return Axis(words(metric), tuple(ticks))


def _between(value: float | None, scored: Sequence[float]) -> float | None:
    if value is None:
        return None
    return (value - scored[0]) / (scored[-1] - scored[0]) if scored[-1] > scored[0] else 0.5


# --- what mattered, how it went --------------------------------------------------------------------------------------


def _importance(journal: Searcher, trials: Sequence[Trial]) -> list[Section]:
    found = journal.importance()
    if not found:
        return [Section("What mattered", (Text("That takes at least four finished trials that differ."),))]
    finished = sum(one.state == "finished" for one in trials)
    rows = tuple(
        Bar(name, sum(one.state == "finished" and name in one.settings for one in trials), (share,))
        for name, share in found.items()
    )
    block = Bars(("share of the differences",), rows, count_name="trials", row_name="setting")
    lead = f"How much of the differences between the {finished} finished trials each setting explains (fANOVA)."
    note = (Note("So few trials say little about that."),) if finished < 10 * len(rows) else ()
    return [Section("What mattered", (block, *note), lead)]


def _went(trials: Sequence[Trial], best: Trial | None, *, metric: str, mode: str) -> list[Section]:
    charts = [chart for chart in (_curves(trials, best, metric), _gain(trials, metric, mode)) if chart is not None]
    if not charts:
        return []
    stopped = [one for one in trials if one.state == "pruned"]
    spent, saved = (sum(_hours(one) for one in some) for some in (trials, stopped))
    lead = "The best trial is blue."
    if stopped:
        lead += f" {len(stopped)} were stopped early, at the dots; they took {saved:.3g} of {spent:.3g} hours."
    return [Section("How it went", (Charts(tuple(charts)),), lead)]


def _hours(one: Trial) -> float:
    """Of GPUs where there are, else of cores."""
    hours = spent([one])
    return hours["gpu"] or hours["cpu"]


def _curves(trials: Sequence[Trial], best: Trial | None, metric: str) -> Chart | None:
    drawn = [one for one in trials if one.curve]
    lines, marks = [], []
    for one in sorted(drawn, key=lambda one: best is not None and one.place == best.place):
        is_best = best is not None and one.place == best.place
        x, y = tuple(map(float, one.curve)), tuple(one.curve.values())
        lines.append(Line(f"trial {one.place:04}", x, y, "main" if is_best else "faint"))
        if one.state == "pruned":
            marks.append(Mark(x[-1], "", "stop", y[-1]))
    title = f"Validation {words(metric)} of every trial"
    percent = is_share(metric)
    return Chart(title, tuple(lines), "evaluation", marks=tuple(marks), percent=percent) if lines else None


def _gain(trials: Sequence[Trial], metric: str, mode: str) -> Chart | None:
    """The best score so far over the hours that were spent."""
    hours: list[float] = []
    values: list[float] = []
    total = 0.0
    best: float | None = None
    for one in trials:
        total += _hours(one)
        value = _reached(one, mode) if one.state == "finished" else None
        if value is not None and (best is None or (value > best if mode == "max" else value < best)):
            best = value
        if best is not None:
            if values and best != values[-1]:  # a stair, not a slope: nothing was known in between
                values.append(values[-1])
                hours.append(total)
            values.append(best)
            hours.append(total)
    if len(set(values)) < 2:  # nothing was gained
        return None
    line = Line("best so far", tuple(hours), tuple(values))
    unit = "GPU" if any(one.about.get("gpus") for one in trials) else "CPU"
    title = f"Best validation {words(metric)} so far"
    return Chart(title, (line,), f"{unit} hours of all trials", percent=is_share(metric))


def _every(trials: Sequence[Trial], metric: str) -> Section:
    rows = tuple(
        (
            f"{one.place:04}",
            one.state,
            "" if one.value is None else score(metric, one.value),
            ", ".join(f"{name.rpartition('.')[2]} {_said(value)}" for name, value in one.settings.items()),
            round(float(one.about.get("epoch", 0.0)), 2),
            round(float(one.about.get("seconds", 0.0)), 1),
            one.reason,
        )
        for one in trials
    )
    columns = ("trial", "how it ended", words(metric), "settings", "epochs", "seconds", "reason")
    table = Table(columns, rows, numeric=frozenset({words(metric), "epochs", "seconds"}), shown=24)
    return Section(
        "Every trial", (table,), "Each is a run of its own: instar why trials/0007, instar report trials/0007."
    )


def _said(value: Any) -> str:
    """A value as one would name it: a group by its name, or its kind."""
    if isinstance(value, dict) and (name := value.get("name") or value.get("kind")):
        return str(name)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
