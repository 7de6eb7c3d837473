"""Chosen: the rows that words stand for: worst:8, class:NAME, a split, a row's name or number, an image file."""

import difflib
import itertools
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np

from instar import plugins
from instar import predictions as stored
from instar.errors import ConfigError, DataError, RunError
from instar.manifest import SPLITS, Manifest
from instar.run import Run


def choose(
    run: Run, manifest: Manifest, words: Sequence[str], *, task: ModuleType, split: str, most: int, seed: int
) -> tuple[list[int], list[Path]]:
    """The rows that words stand for, each once, and the image files among them.

    task    of the run, which knows what its worst rows are
    split   where worst:8 and class:NAME look
    most    rows of class:NAME and of a whole split, drawn by `seed`
    Raises ConfigError that names every word nobody knows.
    """
    rows: list[int] = []
    files: list[Path] = []
    mistakes: list[str] = []
    number_of = {name: row for row, name in enumerate(stored.texts(manifest.ids))}
    for word in words:
        try:
            found = _rows_of(
                run, manifest, number_of, word, task=task, split=split, draw=partial(_drawn, most=most, seed=seed)
            )
        except (ConfigError, DataError) as error:
            mistakes.append(str(error))
            continue
        if isinstance(found, Path):
            files.append(found)
        else:
            rows += found
    if mistakes:
        raise ConfigError(mistakes)
    return list(dict.fromkeys(rows)), list(dict.fromkeys(files))


def _rows_of(
    run: Run,
    manifest: Manifest,
    number_of: dict[str, int],
    word: str,
    *,
    task: ModuleType,
    split: str,
    draw: Callable[..., list[int]],
) -> list[int] | Path:
    if word in number_of:
        return [number_of[word]]
    kind, colon, rest = word.partition(":")
    if kind == "worst":
        return _worst(run, number_of, rest if colon else "8", split=split, task=task)
    if kind == "class" and colon:
        if rest not in manifest.classes:
            raise ConfigError(plugins.unknown(rest, list(manifest.classes), what="class"))
        rows = manifest.rows(split)
        return draw(rows[manifest.targets[rows] == manifest.classes.index(rest)], word, split=split)
    if word in SPLITS:
        return draw(manifest.rows(word), word, split=word)
    if re.fullmatch(r"[0-9]+", word):
        if int(word) >= len(manifest):
            raise ConfigError(f"row {word}: there are {len(manifest)} rows, 0 to {len(manifest) - 1}.")
        return [int(word)]
    if Path(word).is_file():
        return Path(word).resolve()
    near = difflib.get_close_matches(word, itertools.islice(number_of, 20_000), n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"{run.name} has rows such as {next(iter(number_of), '')!r}."
    raise ConfigError(f"{word!r} is no row, and no file. {hint} Or write worst:8, class:NAME, or test.")


def _worst(run: Run, number_of: dict[str, int], count: str, *, split: str, task: ModuleType) -> list[int]:
    """The rows that the run did worst on, as its task sees it."""
    if not re.fullmatch(r"[1-9][0-9]{0,2}", count):
        raise ConfigError(f"worst:{count}: write how many, from 1 to 999, such as worst:8")
    try:
        found = stored.stored_by(task).read(run.predictions(split))
    except RunError as error:
        raise ConfigError(f"worst:{count}: {error}") from error
    order = getattr(task, "worst", _least_probable)(found)[: int(count)]
    return [number_of[found.ids[row]] for row in order.tolist() if found.ids[row] in number_of]


def _least_probable(found: stored.Predictions) -> np.ndarray:
    """Rows, those first to whose true class the least probability was given."""
    known = np.flatnonzero(found.known_N)
    return known[np.argsort(found.probability_NK[known, found.label_N[known]], kind="stable")]


def _drawn(rows: np.ndarray, word: str, *, split: str, most: int, seed: int) -> list[int]:
    if not len(rows):
        raise ConfigError(f"{word!r}: there is no such row in the {split} split.")
    return np.sort(np.random.default_rng(seed).choice(rows, min(most, len(rows)), replace=False)).tolist()
