"""Trials: runs that differ in nothing but their seed, and what they come to together.

From the files of their folders alone, of whatever kind the runs are.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from instar import documents, formats
from instar.errors import RunError
from instar.experiment import flat
from instar.run import Run

# What may differ between trials of one recipe: the seed, and what nothing of the result depends on.
_ASIDE = ("name", "seed", "track", "train.every", "train.keep", "train.log", "task.trust", "data.recheck")


@dataclass(frozen=True)
class Row:
    """The trials of one recipe.

    name       of the first of them
    seeds      of those that have scores
    interval   of the mean, 95 %, by Student's t; None for one trial. Of shares of one it ends at 0 and 1
    rows       hashes of the rows they were scored on; None where a run does not say
    """

    name: str
    metric: str
    mean: float
    interval: tuple[float, float] | None
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    rows: tuple[str, ...] | None
    differences: tuple[str, ...]


def groups(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs by recipe, in the order they were named; those of one recipe differ in their seed only."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(str(sorted(_settings(run).items(), key=lambda item: item[0])), []).append(run)
    return list(found.values())


def compare(grouped: Sequence[Sequence[Run]], *, split: str, metric: str | None = None) -> list[dict[str, Any]]:
    """Each recipe with the mean of its trials, best first where more is better; raises RunError for lacking scores.

    metric   by default the score that all have in common and that comes first
    """
    scores = {run: _scores(run, split) for group in grouped for run in group}
    common = [name for name in next(iter(scores.values())) if all(name in found for found in scores.values())]
    wanted = metric or next(iter(common), None)
    if wanted is None or wanted not in common:
        raise RunError(
            f"these runs have no score {metric or ''!r} in common; they share: {', '.join(common) or 'none'}"
        )
    first = _settings(grouped[0][0])
    rows = []
    for group in grouped:
        values = tuple(scores[run][wanted] for run in group)
        mean, interval = mean_of(values)
        if interval is not None and formats.is_share(wanted) and all(0 <= value <= 1 for value in values):
            interval = max(0.0, interval[0]), min(1.0, interval[1])
        rows.append(
            Row(
                name=group[0].name,
                metric=wanted,
                mean=mean,
                interval=interval,
                values=values,
                seeds=tuple(int(_document(run).get("seed") or 0) for run in group),
                rows=_rows_of(group, split),
                differences=_differences(first, _settings(group[0])),
            )
        )
    up = _more_is_better(grouped[0][0], wanted)
    return [asdict(row) for row in sorted(rows, key=lambda row: row.mean, reverse=up)]


def mean_of(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The mean, and its 95 % interval by Student's t with n - 1 degrees of freedom; None for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    from scipy import stats

    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, (mean - half, mean + half)


def _more_is_better(run: Run, metric: str) -> bool:
    """As the recipe says of what it watches; of any other score, as its name does."""
    train = _document(run).get("train") or {}
    if train.get("monitor") == metric and train.get("monitor_mode"):
        return bool(train["monitor_mode"] == "max")
    return formats.is_share(metric)


def _rows_of(group: Sequence[Run], split: str) -> tuple[str, ...] | None:
    """On which rows trials were scored; None where one does not say, as a LightningModule with its own loaders."""
    hashes = [(run.scores(split).get("about") or {}).get("rows_hash") for run in group]
    return tuple(sorted(map(str, hashes))) if all(hashes) else None


def _scores(run: Run, split: str) -> dict[str, float]:
    found = {name: value for name, value in run.scores(split).items() if isinstance(value, float)}
    if not found:
        raise RunError(f"{run.name} has no scores of the {split} split. Make them with: instar evaluate {run.name}")
    return found


def _document(run: Run) -> dict[str, Any]:
    return documents.read(run.experiment_file)


def _settings(run: Run) -> dict[str, Any]:
    return {name: value for name, value in flat(_document(run)) if name not in _ASIDE}


def _differences(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    names = dict.fromkeys([*before, *after])
    return tuple(f"{n}: {before.get(n)} -> {after.get(n)}" for n in names if before.get(n, ...) != after.get(n, ...))
