"""Inspection: every file of a data set looked at once, to its last pixel, by all processors. Answers are remembered.

Legend: N files, C channels.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from instar.engine.loading.cores import usable_cpus
from instar.engine.scan import look, patient, remembered
from instar.engine.scan.headers import Headers

ENDED = "reading it ended the process that did: is it made to fill the memory?"

PATIENCE = 60.0  # seconds that one file may take

_AT_ONCE = 64  # files a process takes in one go
_ALONE = 200  # files that this process looks at by itself, before others have even started

Rows = list[dict[str, Any]]
LookAt = Callable[[Sequence[str]], Rows]


@dataclass(frozen=True)
class Inspection:
    """What was found about N files, in their order.

    table    columns of look.SCHEMA
    new      files that were opened now; the others were known
    notes    sentences about the cache where it could not be used
    """

    table: pa.Table
    new: int
    notes: tuple[str, ...] = ()

    def column(self, name: str) -> np.ndarray:
        """One column of numbers or texts, N long."""
        return self.table[name].to_numpy()

    def headers(self) -> Headers:
        """The same as `headers.check` gives, but a file that breaks in its middle is bad here too."""
        texts = {name: self.table[name].to_numpy().astype(object) for name in ("mode", "reason")}
        width_N, height_N, content_N = (self.column(name) for name in ("width", "height", "content"))
        return Headers(width_N, height_N, content_N, texts["mode"], texts["reason"], "; ".join(self.notes))


def inspect(
    root: Path,
    files: Sequence[str],
    *,
    workers: int | None = None,
    patience: float = PATIENCE,
    progress: Callable[[int], None] = lambda done: None,
) -> Inspection:
    """Look at every file below the root, or remember what was found while its size and time are the same.

    workers    processes; None for as many as there are usable processors
    patience   seconds one file may take before it is given up, and named
    progress   told how many files are done, now and then
    """
    kept = remembered.Remembered("inspections", root, look.SCHEMA, version=look.VERSION)
    known, place_N = kept.read(files)
    held_N = remembered.holding(root, files, known, place_N)
    todo = np.flatnonzero(~held_N).tolist()
    processes = usable_cpus() if workers is None else workers
    look_at_each = partial(look_at, os.fspath(root), patience=patience)
    looked = looked_at(os.fspath(root), look_at_each, files, todo, processes)
    whole = kept.completed(known, np.where(held_N, place_N, -1), looked, progress=progress)
    return Inspection(whole, len(todo), tuple(filter(None, [kept.note])))


def looked_at(
    root: str, look_at_each: LookAt, files: Sequence[str], todo: list[int], workers: int
) -> Iterator[tuple[list[int], Rows]]:
    """Parts of what is to be looked at, and what was found, as they are ready."""
    parts = [todo[at : at + _AT_ONCE] for at in range(0, len(todo), _AT_ONCE)]
    if workers <= 1 or len(todo) <= _ALONE:
        for part in parts:
            yield part, look_at_each([files[number] for number in part])
        return
    parts.reverse()
    while parts:
        broken: list[list[int]] = []
        yield from _by_processes(look_at_each, files, parts, workers, broken)
        # Something in these ended a process. One by one, in a process that may end, shows which.
        singly = [[number] for part in broken for number in part]
        while singly:
            guilty: list[list[int]] = []
            yield from _by_processes(look_at_each, files, singly, 1, guilty)
            for part in guilty:
                yield part, [look.ended(root, files[number], ENDED) for number in part]


def _by_processes(
    look_at_each: LookAt, files: Sequence[str], parts: list[list[int]], workers: int, broken: list[list[int]]
) -> Iterator[tuple[list[int], Rows]]:
    """Take parts from the end of the list until it is empty or a process ended; `broken` gets what was at hand."""
    # Spawned, since this process has threads, which a fork would leave in the middle of things.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin) as pool:
        at_hand: dict[Future[Rows], list[int]] = {}
        try:
            while parts or at_hand:
                while parts and len(at_hand) < (2 * workers if workers > 1 else 1):
                    part = parts.pop()
                    at_hand[pool.submit(look_at_each, [files[number] for number in part])] = part
                for ready in wait(at_hand, return_when=FIRST_COMPLETED).done:
                    rows = ready.result()
                    yield at_hand.pop(ready), rows
        except BrokenProcessPool:
            broken += at_hand.values()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Leave Ctrl-C to the process that waits, and end when that one does, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker holds both ends of the pipe it gets work from, so a parent that was killed would never be missed there.
    parent = multiprocessing.parent_process()
    assert parent is not None, "only workers begin here"
    parent.join()
    os._exit(1)


def look_at(root: str, files: Sequence[str], *, patience: float) -> Rows:
    """What there is to know about some files. One that takes longer than `patience` seconds is named, and left."""
    return patient.answers(
        lambda file: look.look(root, file),
        files,
        patience=patience,
        given_up=lambda file: look.given_up(file, patient.TOO_LONG.format(patience)),
    )


# --- statistics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Channel:
    """The values of one channel over all images of a kind.

    none   values that are no number or infinite; the others are what the rest is of
    """

    kind: str
    channel: str
    images: int
    values: int
    mean: float
    std: float
    low: float
    high: float
    none: int


def channels(table: pa.Table) -> list[Channel]:
    """Per-channel statistics of the good files, the commonest kind first.

    Sums are exactly rounded (math.fsum), so neither the order of files nor the number of processes changes a digit.
    """
    kind_N = table["kind"].to_numpy()
    kinds, count = np.unique(kind_N[kind_N != ""].astype(str), return_counts=True)
    found = []
    for kind in kinds[np.argsort(-count, kind="stable")].tolist():
        part = table.filter(pa.array(kind_N == kind))
        columns = {
            name: part[name].combine_chunks().flatten().to_numpy().reshape(len(part), -1)
            for name in ("num", "mean", "squares", "low", "high", "none")
        }
        found += [
            _merged(kind, name, {column: values[:, at] for column, values in columns.items()})
            for at, name in enumerate(_names(kind, columns["num"].shape[1]))
        ]
    return found


def _merged(kind: str, name: str, values: dict[str, np.ndarray]) -> Channel:
    """Means and variances of parts as those of the whole. Chan, Golub and LeVeque 1979, eq. 2.1, for many parts.

    values   num, mean, squares, low, high and none of each image
    """
    num_N, mean_N = values["num"], values["mean"]
    has_N = num_N > 0
    total, none = int(num_N.sum()), int(values["none"].sum())
    if not total:
        return Channel(kind, name, len(num_N), 0, math.nan, math.nan, math.nan, math.nan, none)
    mean = math.fsum((num_N * mean_N).tolist()) / total
    between = math.fsum((num_N * np.square(mean_N - mean)).tolist())
    std = math.sqrt((math.fsum(values["squares"].tolist()) + between) / total)
    low, high = float(values["low"][has_N].min()), float(values["high"][has_N].max())
    return Channel(kind, name, len(num_N), total, mean, std, low, high, none)


def _names(kind: str, num: int) -> list[str]:
    named = {"RGB": ["red", "green", "blue"], "RGBA": ["red", "green", "blue", "alpha"], "LA": ["grey", "alpha"]}
    return named.get(kind, ["grey"] if num == 1 else [str(number) for number in range(num)])
