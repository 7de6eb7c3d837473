"""How a run learnt: curves with every stop and resume, and the numbers behind them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from instar import formats
from instar.report.blocks import Chart, Charts, Line, Mark, Table
from instar.report.timeline import Attempt

Point = dict[str, Any]
_TITLES = {
    "lr": "learning rate",
    "images_per_second": "images/s",
    "knn": "kNN",
    "std": "deviation of features",
    "spread": "spread, 1 where scattered",
    "cosine": "cosine between rows",
    "retrieval": "retrieval at 1",
    "retrieval_5": "retrieval among 5",
    "sample_iou": "IoU by image",
    "mean_iou": "mean IoU",
}
_NO_SHARES = ("std", "spread", "cosine")  # between 0 and 1 by chance


def best_point(metrics: Sequence[Point], metric: str, mode: str) -> Point | None:
    """The evaluation with the best `metric`; the last of equals, as the run itself chose."""
    points = [point for point in metrics if point.get("kind") == "val" and _finite(point.get(metric))]
    if not points:
        return None
    sign = 1 if mode == "max" else -1
    return max(reversed(points), key=lambda point: sign * point[metric])


def charts(
    metrics: Sequence[Point],
    attempts: Sequence[Attempt],
    *,
    metric: str,
    mode: str,
    epoch_samples: int,
    also: Sequence[str] = (),
) -> Charts:
    """Loss, the watched metric and the learning rate over epochs; stops and resumes are marked in each.

    also   further validation scores to draw
    """
    train = [point for point in metrics if point.get("kind") == "train"]
    val = [point for point in metrics if point.get("kind") == "val"]
    marks = interruptions(attempts, epoch_samples)
    best = best_point(metrics, metric, mode)
    made = [
        _loss_chart(train, val, marks, best if metric == "loss" else None),
        _metric_chart(val, metric, marks, best),
        *(_metric_chart(val, name, marks, None) for name in also if name != metric),
        _chart("Learning rate", (_line("rate", train, "lr", style="faint"),), marks, short=True),
        _chart("Weight decay", (_line("decay", train, "weight_decay", style="faint"),), marks, short=True),
        _chart("Images per second", (_line("rate", train, "images_per_second", style="faint"),), marks, short=True),
    ]
    legend = [("main", "training"), ("second", "validation")]
    legend += [("best", f"best epoch ({epochs(best['epoch'])})")] if best else []
    legend += [("stop", "stopped or killed, and resumed")] if marks else []
    end = max((point["epoch"] for point in metrics if _finite(point.get("epoch"))), default=None)
    return Charts(tuple(replace(chart, x_end=end) for chart in made if chart.lines), tuple(legend))


def interruptions(attempts: Sequence[Attempt], epoch_samples: int) -> tuple[Mark, ...]:
    """Where training was taken up again after a stop or a kill."""
    return tuple(
        Mark(x=attempt.samples / epoch_samples, text=f"{before.ended}, resumed", style="stop")
        for before, attempt in pairwise(attempts)
        if epoch_samples
    )


def numbers(metrics: Sequence[Point], metric: str, mode: str, also: Sequence[str] = ()) -> Table:
    """Every evaluation as a row, newest first."""
    val = [point for point in metrics if point.get("kind") == "val"]
    best = best_point(metrics, metric, mode)
    names = [
        name
        for name in ("loss", "accuracy", metric, *also, "train_accuracy", "lr", "weight_decay", "images_per_second")
        if _any(val, name)
    ]
    names = list(dict.fromkeys(names))
    columns = ("epoch", *names)
    rows = []
    for point in reversed(val):
        mark = " ★" if point is best else ""
        rows.append((f"{epochs(point.get('epoch', 0))}{mark}", *(_shown(point.get(name)) for name in names)))
    return Table(
        tuple(_title(name) for name in columns),
        tuple(rows),
        title="Every evaluation in numbers",
        numeric=frozenset(map(_title, columns)),
        shown=0,
    )


def epochs(number: float) -> str:
    """A number of epochs as one would say it: 3, 0.5, 12.4. Batches seldom end where epochs do."""
    return f"{number:.1f}".removesuffix(".0") if number >= 1 else f"{number:.2g}"


def _loss_chart(train: Sequence[Point], val: Sequence[Point], marks: tuple[Mark, ...], best: Point | None) -> Chart:
    if best is not None:
        marks = (*marks, Mark(best["epoch"], f"{best['loss']:.4g}", "best", y=best["loss"]))
    return _chart("Loss", (_line("train", train, "loss"), _line("validation", val, "loss", style="second")), marks)


def _metric_chart(val: Sequence[Point], metric: str, marks: tuple[Mark, ...], best: Point | None) -> Chart:
    if metric == "loss":
        return Chart("", (), "epoch")
    lines = (_line("train", val, f"train_{metric}"), _line("validation", val, metric, style="second"))
    values = [value for line in lines if line for value in line.y]
    percent = bool(values) and min(values) >= 0 and max(values) <= 1 and metric not in _NO_SHARES
    if best is not None:
        text = f"{100 * best[metric]:.1f} %" if percent else f"{best[metric]:.4g}"
        marks = (*marks, Mark(best["epoch"], text, "best", y=best[metric]))
    return _chart(_capital(_title(metric)), lines, marks, percent=percent)


def _chart(
    title: str, lines: Sequence[Line | None], marks: tuple[Mark, ...], *, percent: bool = False, short: bool = False
) -> Chart:
    return Chart(title, tuple(line for line in lines if line), "epoch", marks=marks, percent=percent, short=short)


def _line(name: str, points: Sequence[Point], key: str, *, style: str = "main") -> Line | None:
    kept = [(point["epoch"], point[key]) for point in points if _finite(point.get(key)) and _finite(point.get("epoch"))]
    return Line(name, tuple(x for x, _ in kept), tuple(y for _, y in kept), style) if kept else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _any(points: Sequence[Point], name: str) -> bool:
    return any(name in point for point in points)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _title(name: str) -> str:
    return _TITLES.get(name, formats.words(name))


def _capital(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]
