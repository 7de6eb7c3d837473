"""Workers: processes that make batches ahead of time.

Each is a child with a pipe of its own, which ends with the training. Nothing here draws a random number.
"""

import contextlib
import gc
import mmap
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import numpy as np
import torch

from instar.engine import children
from instar.engine.loading.places import Arrays, Places, Shapes, empty
from instar.errors import DataError

Watch = Callable[[int], None]

_AHEAD = 2  # batches each worker may be ahead
_HERE = 3  # batches for which memory is kept where there is no worker: the one in use, one before and one after it
_LOOK = 0.5  # seconds between two looks at a worker that is waited for
_STEADY = 100  # batches after which an earlier death is forgotten


@dataclass
class Made:
    """One batch.

    arrays    large columns, B x …
    scalars   one number a row
    bad       rows that could not be read, with reasons
    seconds   time it took to make
    notes     what happened to the workers meanwhile, for the user
    """

    arrays: Arrays
    scalars: Arrays
    bad: list[tuple[int, str]]
    seconds: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """What is to be made.

    num      number of batches
    rows     most rows in one
    shapes   shape and type of the large columns of one row
    make     from a batch's number, arrays to fill, and a function to tell each row's number to, to the batch
    name     what a row is called in messages
    """

    num: int
    rows: int
    shapes: Shapes
    make: Callable[[int, Arrays, Watch], Made]
    name: Callable[[int], str]


def batches(work: Work, *, workers: int, timeout: float) -> Iterator[Made]:
    """All batches in order.

    workers   processes; 0 makes them here
    timeout   seconds one row may take before its worker is given up; without workers nobody can tell
    Raises DataError where a row takes too long, or where workers keep dying.
    """
    if workers == 0 or not children.possible():
        places = Places(work.shapes, work.rows, _HERE)
        for number in range(work.num):
            yield _here(work, number, places)
        return
    pool = _Pool(work, min(workers, work.num), timeout)
    try:
        yield from pool.batches()
    finally:
        pool.close()


def _here(work: Work, number: int, places: Places | None = None) -> Made:
    """A batch made by this process, in fresh memory where no place is free."""
    if places is None or not places.free:
        return work.make(number, empty(work.shapes, work.rows), lambda row: None)
    place = places.free.popleft()
    made = work.make(number, places.arrays(place), lambda row: None)  # if it raises, nobody asks for another batch
    return replace(made, arrays=places.lend(place, len(next(iter(made.scalars.values()), ()))))


@dataclass
class _Worker:
    pid: int
    pipe: Connection
    waiting: int = 0  # batches it was told to make and has not sent


class _Pool:
    def __init__(self, work: Work, num: int, timeout: float):
        self._work = work
        self._num = num
        self._timeout = timeout
        # Two more than are ahead: the batch in use, and the one before it, which its user may not have let go of yet.
        self._places = Places(work.shapes, work.rows, _AHEAD * num + 2)
        # For each worker the row it is at (-1: none) and how many it came to before.
        self._board = np.frombuffer(mmap.mmap(-1, 16 * num), np.int64).reshape(num, 2)
        self._workers: list[_Worker] = []
        self._sent: dict[int, int] = {}  # batch -> place
        self._next = 0  # the first batch nobody was told to make
        self._steady = _STEADY  # batches since a worker died
        self._notes: list[str] = []

    def batches(self) -> Iterator[Made]:
        self._start()
        for number in range(self._work.num):
            self._next = max(self._next, number)
            self._send_ahead()
            # Without a free place - somebody keeps all arrays - it is made here.
            made = self._receive(number) if number in self._sent else _here(self._work, number)
            made.notes, self._notes = self._notes, []
            self._steady += 1
            yield made
            del made  # or its place would be taken for as long as the next one takes

    def _send_ahead(self) -> None:
        while self._next < self._work.num and self._places.free and self._workers:
            worker = self._workers[self._next % self._num]
            if worker.waiting == _AHEAD:
                return
            place = self._places.free.popleft()
            self._sent[self._next] = place
            worker.waiting += 1
            with contextlib.suppress(OSError):  # it is dead; who waits for its batch will see
                worker.pipe.send((self._next, place))
            self._next += 1

    def _receive(self, number: int) -> Made:
        """A batch that was sent for; where its worker died, from a new one, or made here if there can be none."""
        index = number % self._num
        while number in self._sent:
            kind, content = self._answer(index)
            if kind == "gone":
                self._start_again(index, how=content)
                self._send_ahead()
                continue
            place = self._sent.pop(number)
            self._workers[index].waiting -= 1
            if kind != "made":
                self._places.free.append(place)
                _raise(kind, content)
            rows, scalars, bad, seconds = content
            return Made(self._places.lend(place, rows), scalars, bad, seconds)
        return _here(self._work, number)

    def _answer(self, index: int) -> tuple[str, Any]:
        """What a worker sends next: its kind and content; "gone" and how, where the worker is."""
        pid, pipe = self._workers[index].pid, self._workers[index].pipe
        waited, before = 0.0, (-1, -1)
        try:
            # Time is counted in looks, not by a clock: a training that was suspended must not blame a file.
            while not pipe.poll(_LOOK):
                now = (int(self._board[index, 0]), int(self._board[index, 1]))
                waited = waited + _LOOK if now == before else 0.0
                before = now
                if waited < self._timeout:
                    continue
                if now[0] < 0:  # it has work and is at no row: somebody stopped it
                    os.kill(pid, signal.SIGKILL)
                    children.end_of(pid)
                    return "gone", "stopped answering"
                raise DataError(
                    f"{self._work.name(now[0])}: reading it takes more than {self._timeout:g} s. Is its file system "
                    f"there? Write a longer timeout if it is only slow."
                )
            return pipe.recv()
        except (EOFError, OSError):
            return "gone", children.end_of(pid)

    def _start_again(self, index: int, *, how: str) -> None:
        """Start all workers again after one is gone. Raises DataError where that happened only just before."""
        row = int(self._board[index, 0])
        at = f" at {self._work.name(row)}" if row >= 0 else ""
        self._workers.pop(index).pipe.close()
        if self._steady < _STEADY:
            raise DataError(
                f"a loader worker {how}{at}, {self._steady} batches after another one. If memory is short, use fewer "
                f"workers (workers=1). If it is always this file, take it out."
            )
        self._steady = 0
        self._notes.append(f"a loader worker {how}{at}; all were started again, and no batch is lost")
        self.close()
        self._next = min(self._sent)
        self._places.free.extend(self._sent.values())
        self._sent.clear()
        self._start()

    def _start(self) -> None:
        self._board[:, 0] = -1
        try:
            for index in range(self._num):
                self._workers.append(self._fork(index))
        except OSError as error:  # too many processes, or too little memory
            self.close()
            self._notes.append(f"no loader workers can be started ({error}): batches are made by the training itself")

    def _fork(self, index: int) -> _Worker:
        return _Worker(*children.forked(partial(self._serve, index), siblings=[one.pipe for one in self._workers]))

    def _serve(self, index: int, pipe: Connection) -> None:
        """What a worker does until its pipe closes."""
        # One thread: OpenMP's others did not survive the fork, and every core has a worker of its own.
        torch.set_num_threads(1)
        gc.freeze()  # what was there before is shared with the others, and may belong to a GPU that is not ours
        while True:
            try:
                number, place = pipe.recv()
                answer = self._attempt(index, number, place)
                self._board[index, 0] = -1
                pipe.send(answer)
            except (EOFError, OSError):
                return

    def _attempt(self, index: int, number: int, place: int) -> tuple[str, Any]:
        def watch(row: int) -> None:
            self._board[index, 1] += 1
            self._board[index, 0] = row

        try:
            made = self._work.make(number, self._places.arrays(place), watch)
            rows = len(next(iter(made.scalars.values()), ()))
            return "made", (rows, made.scalars, made.bad, made.seconds)
        except DataError as error:
            return "data", str(error)
        except MemoryError as error:
            return "memory", str(error)
        except Exception:
            return "mistake", traceback.format_exc()

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        children.end((worker.pid, worker.pipe) for worker in self._workers)
        self._workers = []


def _raise(kind: str, content: str) -> NoReturn:
    if kind == "data":
        raise DataError(content)
    if kind == "memory":
        raise MemoryError(content)
    raise RuntimeError(f"in a loader worker:\n{content}")
