"""Loaders: batches of samples, whose content no number of workers, ranks or restarts can change.

What is in a batch is decided by `steps`, from the batch's position alone. Workers only decide when a batch is there.

Legend: B rows of a batch, H W pixels, C channels, N rows.
"""

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch

from instar.engine import faults
from instar.engine.loading import workers
from instar.engine.loading.cores import usable_cpus
from instar.engine.loading.order import Order
from instar.engine.loading.places import Arrays, Shapes
from instar.engine.loading.sharded import Sharded
from instar.engine.loading.steps import (
    PLACED,
    TRIES,
    Bad,
    Begin,
    Begun,
    Draws,
    Evaluation,
    Item,
    Reader,
    Steps,
    Training,
    keyed,
    nothing_readable,
)
from instar.engine.loading.workers import Made, Watch, Work
from instar.errors import DataError

__all__ = ["Reader", "eval_stream", "keyed", "train_stream", "usable_cpus"]

Batch = dict[str, Any]

_MOST_BYTES = 1 << 28  # of a batch whose rows differ in size


def train_stream(
    reader: Reader,
    order: Order | Sharded,
    *,
    start: int,
    total: int,
    batch: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    seed: int,
    timeout: float = 60.0,
    on_bad: Callable[[int, str], None] | None = None,
) -> Generator[Batch, None, None]:
    """This rank's part of every batch from position `start` to `total`, one item a step.

    start, total   positions in samples over all ranks
    batch          rows of a step over all ranks; this rank gets those from batch*rank//world to batch*(rank+1)//world
    timeout        seconds one sample may take in a worker
    on_bad         told row and reason of each sample that could not be read, before its batch is given out

    An item holds the reader's columns as tensors (image uint8 BHWC, label int64), row (int64, what is really shown),
    bad (rows that could not be read and had another of their class take their place, with reasons), seconds (that a
    worker took) and notes (what happened to the workers). Its arrays are used again once nobody holds them.
    Raises DataError where nothing can be read, or a worker dies or hangs for good.
    """
    steps = Training(reader, order, start, total, batch, rank, world, Draws(seed))
    return _stream(steps, reader, num_workers=workers, timeout=timeout, on_bad=on_bad)


def eval_stream(
    reader: Reader,
    rows: np.ndarray,
    *,
    batch: int,
    workers: int = 0,
    timeout: float = 60.0,
    on_bad: Callable[[int, str], None] | None = None,
) -> Generator[Batch, None, None]:
    """The given rows, each once and in this order, as evaluation sees them. Items are as those of `train_stream`.

    A row that cannot be read is there too, named in `bad`, with label -1 (unknown, so that no score counts it) and
    zeros for pixels. Where a reader's samples differ in size, fewer rows than `batch` go into one if they are large.
    """
    steps = Evaluation(reader, np.asarray(rows, np.int64), _rows_that_fit(reader, rows, batch))
    return _stream(steps, reader, num_workers=workers, timeout=timeout, on_bad=on_bad)


def _rows_that_fit(reader: Reader, rows: np.ndarray, batch: int) -> int:
    """How many rows of the largest size go into _MOST_BYTES; at most `batch`, and one at least."""
    shapes_of = getattr(reader, "shapes", None)
    if shapes_of is None or not len(rows):
        return batch
    one = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in shapes_of(rows).values())
    return max(1, min(batch, _MOST_BYTES // max(1, one)))


def _stream(
    steps: Steps,
    reader: Reader,
    *,
    num_workers: int,
    timeout: float,
    on_bad: Callable[[int, str], None] | None,
) -> Generator[Batch, None, None]:
    if steps.num == 0:
        return
    work = Work(
        num=steps.num,
        rows=steps.most,
        shapes=_largest(steps, reader) or _shapes(steps, reader),
        make=lambda number, arrays, watch: _make(steps, reader, number, arrays, watch),
        name=reader.name,
    )
    for made in workers.batches(work, workers=num_workers, timeout=timeout):
        if on_bad is not None:
            for row, reason in made.bad:
                on_bad(row, reason)
        faults.point("loader.batch")
        yield _as_tensors(made)
        del made


def _largest(steps: Steps, reader: Reader) -> Shapes | None:
    """Shape and type of a sample's arrays where they differ from row to row; None where they do not."""
    shapes_of = getattr(reader, "shapes", None)
    return shapes_of(steps.rows) if isinstance(steps, Evaluation) and shapes_of is not None else None


def _shapes(steps: Steps, reader: Reader) -> Shapes:
    """Shape and type of a sample's arrays, from the first that can be read."""
    bad: Bad = []
    for number in range(steps.num):
        for item in steps.items(number):
            sample = steps.sample(item, lambda row: None, bad)
            arrays = {name: value for name, value in sample.items() if isinstance(value, np.ndarray) and value.ndim}
            if arrays:
                return {name: (array.shape, array.dtype) for name, array in arrays.items()}
            if len(bad) == TRIES:
                raise DataError(nothing_readable(reader, bad))
    raise DataError(nothing_readable(reader, bad))


def _begun(steps: Steps, reader: Reader, items: list[Item], watch: Watch) -> list[Begun | None]:
    """What will put each row into its place; None for one that is read only then, and for one that cannot be."""
    begin: Begin | None = getattr(reader, "begin", None)
    begun: list[Begun | None] = [None] * len(items)
    if begin is None:
        return begun
    for place, item in enumerate(items):
        watch(item[0])
        with contextlib.suppress(DataError, OSError):  # it is read again, and then said
            begun[place] = steps.begin(item, begin)
    return begun


def _make(steps: Steps, reader: Reader, number: int, arrays: Arrays, watch: Watch) -> Made:
    began = time.perf_counter()
    items = steps.items(number)
    scalars: dict[str, list[Any]] = {}
    bad: Bad = []
    begun = _begun(steps, reader, items, watch)
    for place, item in enumerate(items):
        faults.point("loader.read")
        sample = steps.sample(item, watch, bad, {name: array[place] for name, array in arrays.items()}, begun[place])
        for name, array in arrays.items():
            value = sample.pop(name, 0)
            if value is PLACED:
                continue
            if isinstance(value, np.ndarray) and value.shape != array.shape[1:]:
                array[place][tuple(slice(side) for side in value.shape)] = value
            else:
                array[place] = value
        for name, value in sample.items():
            scalars.setdefault(name, [0] * len(items))[place] = value
    filled = {name: array[: len(items)] for name, array in arrays.items()}
    columns = {name: np.asarray(values) for name, values in scalars.items()}
    return Made(filled, columns, bad, time.perf_counter() - began)


def _as_tensors(made: Made) -> Batch:
    columns = {**made.arrays, **made.scalars}
    tensors = {name: torch.from_numpy(array) for name, array in columns.items()}
    return {**tensors, "bad": made.bad, "seconds": made.seconds, "notes": made.notes}
