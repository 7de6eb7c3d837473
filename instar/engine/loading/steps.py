"""Steps: which samples each batch has, and how one of them is read.

Which rows a batch has is decided by the order, from the batch's position alone; how a row is varied by a generator
keyed by (seed, epoch, row, repeat); which row takes the place of one that cannot be read by the same and the number of
the try.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from instar.engine.loading.order import Order
from instar.engine.loading.places import Arrays
from instar.engine.loading.sharded import Sharded
from instar.engine.loading.workers import Watch
from instar.errors import DataError

Sample = dict[str, Any]
Begun = Callable[[Arrays], Sample]
Begin = Callable[[int, np.random.Generator | None], Begun | None]
Item = tuple[int, int, int]
"""Row, epoch and repeat of a sample."""
Bad = list[tuple[int, str]]
"""Rows that could not be read, with reasons."""

_SAME_CLASS = 8  # tries to find another row of the class, where one cannot be read
_ANY_CLASS = 8  # and then of any
TRIES = _SAME_CLASS + _ANY_CLASS
_TORN = 3  # rows named in an error
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
    # so that they are not copied once more; and
    #     begin(row, draw) -> what does that when it is given the places, or None where read_into is to
    # All rows of a batch are begun before the first is done: between images, whatever little Python is needed for one
    # is no longer in the processor's cache, and takes three times as long. `draw` is good until begin returns.


def keyed(seed: int, epoch: int, row: int, repeat: int = 0, attempt: int = 0) -> np.random.Generator:
    """The generator of one showing of one row. The four numbers are its counter and key: no two can overlap."""
    return np.random.Generator(np.random.Philox(counter=[0, attempt, row, repeat], key=[seed, epoch]))


class Draws:
    """What `keyed` gives for one seed, from one generator that is set anew: it is good until the next is asked for."""

    def __init__(self, seed: int):
        self._seed, self._epoch = seed, -1

    def of(self, epoch: int, row: int, repeat: int = 0, attempt: int = 0) -> np.random.Generator:
        """The generator of one showing of one row."""
        if epoch != self._epoch:
            self._epoch, self._generator = epoch, keyed(self._seed, epoch, 0)
            self._state: Any = self._generator.bit_generator.state
        self._state["state"]["counter"][:] = 0, attempt, row, repeat
        self._generator.bit_generator.state = self._state
        return self._generator


class Steps(Protocol):
    @property
    def num(self) -> int:
        """Number of batches."""

    @property
    def most(self) -> int:
        """Rows of the largest."""

    def items(self, number: int) -> list[Item]:
        """Every sample of a batch."""

    def begin(self, item: Item, begin: Begin) -> Begun | None:
        """What will put a sample into its places."""

    def sample(
        self, item: Item, watch: Watch, bad: Bad, places: Arrays | None = None, begun: Begun | None = None
    ) -> Sample:
        """One sample; rows that cannot be read are added to `bad`. Arrays that stand in their places are PLACED."""


@dataclass(frozen=True)
class Training:
    reader: Reader
    order: Order | Sharded
    start: int
    total: int
    batch: int
    rank: int
    world: int
    draws: Draws

    @property
    def num(self) -> int:
        return max(0, -(-(self.total - self.start) // self.batch))

    @property
    def most(self) -> int:
        return -(-self.batch // self.world)

    def items(self, number: int) -> list[Item]:
        low = self.start + number * self.batch
        rows = min(self.batch, self.total - low)
        mine = np.arange(low + rows * self.rank // self.world, low + rows * (self.rank + 1) // self.world)
        drawn = self.order.draw(mine)
        return list(zip(drawn.row_N.tolist(), drawn.epoch_N.tolist(), drawn.repeat_N.tolist(), strict=True))

    def begin(self, item: Item, begin: Begin) -> Begun | None:
        row, epoch, repeat = item
        return begin(row, self.draws.of(epoch, row, repeat))

    def sample(
        self, item: Item, watch: Watch, bad: Bad, places: Arrays | None = None, begun: Begun | None = None
    ) -> Sample:
        row, epoch, repeat = item
        tried = {row}
        for attempt in range(TRIES + 1):
            shown = row if attempt == 0 else self._another(item, attempt)
            if attempt and shown in tried:
                continue
            tried.add(shown)
            watch(shown)
            try:
                if begun is not None and places is not None and attempt == 0:
                    sample = _placed(begun, places)
                else:
                    sample = _read(self.reader, shown, self.draws.of(epoch, shown, repeat, attempt), places)
            except (DataError, OSError) as error:
                bad.append((shown, str(error)))
                continue
            sample["row"] = shown
            return sample
        raise DataError(nothing_readable(self.reader, bad))

    def _another(self, item: Item, attempt: int) -> int:
        row, epoch, repeat = item
        share = self.draws.of(epoch, row, repeat, attempt).random()
        if attempt <= _SAME_CLASS:
            others = self.order.companions(row)
            return int(others[int(share * len(others))])
        return self.order.anyone(row, share)


@dataclass(frozen=True)
class Evaluation:
    reader: Reader
    rows: np.ndarray
    batch: int

    @property
    def num(self) -> int:
        return -(-len(self.rows) // self.batch)

    @property
    def most(self) -> int:
        return self.batch

    def items(self, number: int) -> list[Item]:
        return [(row, 0, 0) for row in self.rows[number * self.batch : (number + 1) * self.batch].tolist()]

    def begin(self, item: Item, begin: Begin) -> Begun | None:
        return begin(item[0], None)

    def sample(
        self, item: Item, watch: Watch, bad: Bad, places: Arrays | None = None, begun: Begun | None = None
    ) -> Sample:
        row = item[0]
        watch(row)
        try:
            if begun is not None and places is not None:
                return {**_placed(begun, places), "row": row}
            return {**_read(self.reader, row, None, places), "row": row}
        except (DataError, OSError) as error:
            bad.append((row, str(error)))
            return {"row": row, "label": -1}


def _read(reader: Reader, row: int, draw: np.random.Generator | None, places: Arrays | None) -> Sample:
    into = getattr(reader, "read_into", None)
    if places is None or into is None:
        return reader.read(row, draw)
    return _placed(partial(into, row, draw), places)


def _placed(begun: Begun, places: Arrays) -> Sample:
    return {**dict.fromkeys(places, PLACED), **begun(places)}


def nothing_readable(reader: Reader, bad: Bad) -> str:
    first = "; ".join(f"{reader.name(row)}: {reason}" for row, reason in bad[-_TORN:])
    return f"{len(bad)} images one after the other cannot be read ({first}). Is their folder still there?"
