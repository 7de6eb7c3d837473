"""Pool: processes that make the pieces of a file and write each to its place.

A piece can be written as soon as the sizes of those before it are known; only sizes and facts go between processes, the
bytes never do.
"""

import gc
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from instar.engine import children
from instar.errors import DataError

_PIECES = 512  # that one system call may take
_HELD = 3  # pieces one process may have in hand

Make = Callable[[int], tuple[list[bytes], Any]]


@dataclass(frozen=True)
class Piece:
    """A part of a file. number: what it is made from. file: which file, in order; path: where that is written."""

    number: int
    file: int
    path: str


@dataclass(frozen=True)
class Written:
    """A piece that stands in its file."""

    piece: Piece
    offset: int
    size: int
    facts: Any


def written(pieces: Sequence[Piece], make: Make, *, processes: int, begin: int = 0) -> Iterator[Written]:
    """Make all pieces and write them one behind the other, in the order given, each file from `begin` on.

    make        from a piece's number to its bytes and facts about them; called in another process
    processes   1 makes them here
    Yields pieces of a file in order, once they are written. Raises DataError where a process ends.
    """
    if processes <= 1 or not children.possible():
        yield from _here(pieces, make, begin)
        return
    pool = _Pool(make, min(processes, max(1, len(pieces))))
    try:
        yield from pool.run(pieces, begin)
    finally:
        pool.close()


def _here(pieces: Sequence[Piece], make: Make, begin: int) -> Iterator[Written]:
    ends: dict[int, int] = {}
    for piece in pieces:
        data, facts = make(piece.number)
        offset = ends.get(piece.file, begin)
        ends[piece.file] = offset + _put(piece.path, offset, data)
        yield Written(piece, offset, ends[piece.file] - offset, facts)


def _put(path: str, offset: int, data: list[bytes]) -> int:
    """Write pieces of bytes to their place in a file; returns how many there were."""
    if not data:
        return 0
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        at = offset
        for first in range(0, len(data), _PIECES):
            some = data[first : first + _PIECES]
            end = at + sum(map(len, some))
            at += os.pwritev(number, some, at)
            if at < end:  # a write may stop short, of very many bytes
                rest = memoryview(b"".join(some))[at - end :]
                while rest:
                    done = os.pwrite(number, rest, at)
                    rest, at = rest[done:], at + done
        return at - offset
    finally:
        os.close(number)


@dataclass
class _Process:
    pid: int
    pipe: Connection
    held: set[int] = field(default_factory=set)


class _Pool:
    def __init__(self, make: Make, num: int):
        self._make = make
        self._processes: list[_Process] = []
        for _ in range(num):
            self._processes.append(self._fork())

    def run(self, pieces: Sequence[Piece], begin: int) -> Iterator[Written]:
        waiting = deque(range(len(pieces)))
        owner: dict[int, _Process] = {}
        made: dict[int, tuple[int, Any]] = {}
        placed: dict[int, int] = {}
        done: set[int] = set()
        ends: dict[int, int] = {}
        to_place = to_tell = 0
        while to_tell < len(pieces):
            # One each and then another one each: pieces are written in order, so nobody should be far ahead.
            for process in sorted(self._processes * _HELD, key=lambda one: len(one.held)):
                if waiting and len(process.held) < _HELD:
                    number = waiting.popleft()
                    owner[number] = process
                    process.held.add(number)
                    process.pipe.send(("make", number, pieces[number].number))
            for process, (what, number, *rest) in self._answers():
                if what == "made":
                    made[number] = (rest[0], rest[1])
                elif what == "wrote":
                    process.held.discard(number)
                    done.add(number)
                else:
                    _fail(what, rest[0])
            while to_place in made:
                piece, size = pieces[to_place], made[to_place][0]
                placed[to_place] = ends.get(piece.file, begin)
                ends[piece.file] = placed[to_place] + size
                owner[to_place].pipe.send(("write", to_place, piece.path, placed[to_place]))
                to_place += 1
            while to_tell in done:
                size, facts = made.pop(to_tell)
                yield Written(pieces[to_tell], placed.pop(to_tell), size, facts)
                to_tell += 1

    def _answers(self) -> Iterator[tuple[_Process, tuple[Any, ...]]]:
        ready = set(wait([process.pipe for process in self._processes]))
        for process in self._processes:
            if process.pipe not in ready:
                continue
            try:
                yield process, process.pipe.recv()
            except (EOFError, OSError):
                self._processes.remove(process)
                process.pipe.close()
                raise DataError(
                    f"a packing process {children.end_of(process.pid)}. If memory is short, use fewer (workers=1). "
                    f"What is finished stays; the same command carries on."
                ) from None

    def _fork(self) -> _Process:
        return _Process(*children.forked(self._serve, siblings=[one.pipe for one in self._processes]))

    def _serve(self, pipe: Connection) -> None:
        gc.freeze()
        kept: dict[int, list[bytes]] = {}
        while True:
            try:
                what, number, *rest = pipe.recv()
                try:
                    if what == "make":
                        kept[number], facts = self._make(rest[0])
                        pipe.send(("made", number, sum(map(len, kept[number])), facts))
                    else:
                        _put(rest[0], rest[1], kept.pop(number))
                        pipe.send(("wrote", number))
                except DataError as error:
                    pipe.send(("data", number, str(error)))
                except OSError as error:
                    pipe.send(("data", number, f"{error}. What is finished stays; the same command carries on."))
                except Exception:
                    pipe.send(("mistake", number, traceback.format_exc()))
            except (EOFError, OSError):
                return

    def close(self) -> None:
        children.end((process.pid, process.pipe) for process in self._processes)
        self._processes = []


def _fail(what: str, text: str) -> None:
    if what == "data":
        raise DataError(text)
    raise RuntimeError(f"in a packing process:\n{text}")
