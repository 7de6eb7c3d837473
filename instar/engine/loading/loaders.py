"""Loaders: batches of samples, whose content no number of workers, ranks or restarts can change.

Which rows a batch has is decided by the order, from the batch's position alone; how a row is varied by a generator
keyed by (seed, epoch, row, repeat); which row takes the place of one that cannot be read by the same and the number of
the try. Workers only decide when a batch is there.

Legend: B rows of a batch, H W pixels, C channels, N rows.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from instar.engine import faults
from instar.engine.loading import workers
from instar.engine.loading.cores import usable_cpus
from instar.engine.loading.order import Order
from instar.engine.loading.places import Arrays, Shapes
from instar.engine.loading.sharded import Sharded
from instar.engine.loading.workers import Made, Watch, Work
from instar.errors import DataError

__all__ = ["Reader", "eval_stream", "keyed", "train_stream", "usable_cpus"]

Batch = dict[str, Any]
Sample = dict[str, Any]

_SAME_CLASS = 8  # tries to find another row of the class, where one cannot be read
_ANY_CLASS = 8  # and then of any
_TORN = 3  # rows named in an error
_MOST_BYTES = 1 << 28  # of a batch whose rows differ in size
PLACED = object()  # in a sample, where its array stands in the batch already


class Reader(Protocol):
    """What a module on the shelf `readers` opens."""

    def read(self, row: int, draw: np.random.Generator | None) -> Sample:
        """One sample: arrays of one shape for all rows, and numbers. Raises DataError or OSError where it is bad.

        draw   decides how the sample is varied; None for what evaluation sees
        """

    def name(self, row: int) -> str:
        """What the row is called in messages."""

    # A reader whose samples differ in size in evaluation also has
    #     shapes(rows) -> {name: (shape, type)}
    # the largest that each array is for any of these rows. A smaller one then stands at the top left of its place, and
    # numbers of the sample say how large it is; what is around it is left over from other rows.
    # One whose arrays are large may have
    #     read_into(row, draw, places) -> the sample without the arrays that it put into these places
    # so that they are not copied once more.


def keyed(seed: int, epoch: int, row: int, repeat: int = 0, attempt: int = 0) -> np.random.Generator:
    """The generator of one showing of one row. The four numbers are its counter and key: no two can overlap."""
    return np.random.Generator(np.random.Philox(counter=[0, attempt, row, repeat], key=[seed, epoch]))


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
    steps = _Training(reader, order, start, total, batch, rank, world, seed)
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
    steps = _Evaluation(reader, np.asarray(rows, np.int64), _rows_that_fit(reader, rows, batch))
    return _stream(steps, reader, num_workers=workers, timeout=timeout, on_bad=on_bad)


def _rows_that_fit(reader: Reader, rows: np.ndarray, batch: int) -> int:
    """How many rows of the largest size go into _MOST_BYTES; at most `batch`, and one at least."""
    shapes_of = getattr(reader, "shapes", None)
    if shapes_of is None or not len(rows):
        return batch
    one = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in shapes_of(rows).values())
    return max(1, min(batch, _MOST_BYTES // max(1, one)))


# --- what is in a batch --------------------------------------------------------------------------------------------


class _Steps(Protocol):
    @property
    def num(self) -> int:
        """Number of batches."""

    @property
    def most(self) -> int:
        """Rows of the largest."""

    def items(self, number: int) -> list[tuple[int, int, int]]:
        """(row, epoch, repeat) of every sample of a batch."""

    def sample(
        self, item: tuple[int, int, int], watch: Watch, bad: list[tuple[int, str]], places: Arrays | None = None
    ) -> Sample:
        """One sample; rows that cannot be read are added to `bad`. Arrays that stand in their places are PLACED."""


@dataclass(frozen=True)
class _Training:
    reader: Reader
    order: Order | Sharded
    start: int
    total: int
    batch: int
    rank: int
    world: int
    seed: int

    @property
    def num(self) -> int:
        return max(0, -(-(self.total - self.start) // self.batch))

    @property
    def most(self) -> int:
        return -(-self.batch // self.world)

    def items(self, number: int) -> list[tuple[int, int, int]]:
        low = self.start + number * self.batch
        rows = min(self.batch, self.total - low)
        mine = np.arange(low + rows * self.rank // self.world, low + rows * (self.rank + 1) // self.world)
        drawn = self.order.draw(mine)
        return list(zip(drawn.row_N.tolist(), drawn.epoch_N.tolist(), drawn.repeat_N.tolist(), strict=True))

    def sample(
        self, item: tuple[int, int, int], watch: Watch, bad: list[tuple[int, str]], places: Arrays | None = None
    ) -> Sample:
        row, epoch, repeat = item
        tried = {row}
        for attempt in range(_SAME_CLASS + _ANY_CLASS + 1):
            shown = row if attempt == 0 else self._another(item, attempt)
            if attempt and shown in tried:
                continue
            tried.add(shown)
            watch(shown)
            try:
                sample = _read(self.reader, shown, keyed(self.seed, epoch, shown, repeat, attempt), places)
            except (DataError, OSError) as error:
                bad.append((shown, str(error)))
                continue
            return {**sample, "row": shown}
        raise DataError(_nothing_readable(self.reader, bad))

    def _another(self, item: tuple[int, int, int], attempt: int) -> int:
        row, epoch, repeat = item
        share = keyed(self.seed, epoch, row, repeat, attempt).random()
        if attempt <= _SAME_CLASS:
            others = self.order.companions(row)
            return int(others[int(share * len(others))])
        return self.order.anyone(row, share)


@dataclass(frozen=True)
class _Evaluation:
    reader: Reader
    rows: np.ndarray
    batch: int

    @property
    def num(self) -> int:
        return -(-len(self.rows) // self.batch)

    @property
    def most(self) -> int:
        return self.batch

    def items(self, number: int) -> list[tuple[int, int, int]]:
        return [(row, 0, 0) for row in self.rows[number * self.batch : (number + 1) * self.batch].tolist()]

    def sample(
        self, item: tuple[int, int, int], watch: Watch, bad: list[tuple[int, str]], places: Arrays | None = None
    ) -> Sample:
        row = item[0]
        watch(row)
        try:
            return {**_read(self.reader, row, None, places), "row": row}
        except (DataError, OSError) as error:
            bad.append((row, str(error)))
            return {"row": row, "label": -1}


def _read(reader: Reader, row: int, draw: np.random.Generator | None, places: Arrays | None) -> Sample:
    into = getattr(reader, "read_into", None)
    if places is None or into is None:
        return reader.read(row, draw)
    return {**dict.fromkeys(places, PLACED), **into(row, draw, places)}


def _nothing_readable(reader: Reader, bad: list[tuple[int, str]]) -> str:
    first = "; ".join(f"{reader.name(row)}: {reason}" for row, reason in bad[-_TORN:])
    return f"{len(bad)} images one after the other cannot be read ({first}). Is their folder still there?"


# --- how it is made ------------------------------------------------------------------------------------------------


def _stream(
    steps: _Steps,
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
        make=lambda number, arrays, watch: _make(steps, number, arrays, watch),
        name=reader.name,
    )
    for made in workers.batches(work, workers=num_workers, timeout=timeout):
        if on_bad is not None:
            for row, reason in made.bad:
                on_bad(row, reason)
        faults.point("loader.batch")
        yield _as_tensors(made)
        del made


def _largest(steps: _Steps, reader: Reader) -> Shapes | None:
    """Shape and type of a sample's arrays where they differ from row to row; None where they do not."""
    shapes_of = getattr(reader, "shapes", None)
    return shapes_of(steps.rows) if isinstance(steps, _Evaluation) and shapes_of is not None else None


def _shapes(steps: _Steps, reader: Reader) -> Shapes:
    """Shape and type of a sample's arrays, from the first that can be read."""
    bad: list[tuple[int, str]] = []
    for number in range(steps.num):
        for item in steps.items(number):
            sample = steps.sample(item, lambda row: None, bad)
            arrays = {name: value for name, value in sample.items() if isinstance(value, np.ndarray) and value.ndim}
            if arrays:
                return {name: (array.shape, array.dtype) for name, array in arrays.items()}
            if len(bad) == _SAME_CLASS + _ANY_CLASS:
                raise DataError(_nothing_readable(reader, bad))
    raise DataError(_nothing_readable(reader, bad))


def _make(steps: _Steps, number: int, arrays: Arrays, watch: Watch) -> Made:
    began = time.perf_counter()
    items = steps.items(number)
    scalars: dict[str, list[Any]] = {}
    bad: list[tuple[int, str]] = []
    for place, item in enumerate(items):
        faults.point("loader.read")
        sample = steps.sample(item, watch, bad, {name: array[place] for name, array in arrays.items()})
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
