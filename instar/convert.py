"""Convert: arrays in HDF5 or NetCDF files -> .npy files that can be mapped. Over processes, and over MPI ranks.

Ranks need no messages: the work is divided by rank, every rank writes down what it finished in a file of its own, and
whoever finds all of it finished puts the statistics together. The same command again carries on, and `fix` makes anew
what is broken. Each file is written under a hidden name and renamed; every byte of it goes through xxh3.
"""

import io
import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from instar import fields, packed
from instar.engine import faults
from instar.engine.loading.cores import usable_cpus
from instar.engine.packing.pool import Piece, written
from instar.engine.packing.tasks import Task, at, sources, tasks
from instar.engine.ranks.place import Place
from instar.errors import DataError
from instar.fields import Field
from instar.metrics import moments
from instar.metrics.moments import Moments
from instar.run import write_atomically

__all__ = ["RECORDS", "STATISTICS", "Options", "Outcome", "Task", "convert", "sources", "tasks"]

RECORDS = "converted"  # converted-0003.jsonl: what rank 3 finished
STATISTICS = "stats.json"
_BUFFER = 1 << 20  # stays in the processor's cache between reading, hashing and writing; 8 MB took 1.2 times as long

_WINDOW = 1 << 26  # bytes that are mapped at once
_MAPPED = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)

_LARGEST = 1 << 28  # for what is compressed together

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Options:
    """How to convert.

    fix         look at what is there, and make anew what is broken
    stats       mean, spread and range of every channel
    channels    where the channels are: last, first or none
    processes   how many convert; null for one a core of this rank
    """

    fix: bool = False
    stats: bool = False
    channels: str = "last"
    processes: int | None = None


@dataclass(frozen=True)
class Outcome:
    """made, kept: outputs of this rank, new and from before. broken: (source, reason). whole: everything is there."""

    made: int
    kept: int
    broken: tuple[tuple[str, str], ...]
    whole: bool
    bytes: int
    statistics: dict[str, Moments] | None = None


def convert(
    root: Path,
    todo: Sequence[Task],
    folder: Path,
    options: Options,
    place: Place,
    *,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Convert this rank's part of the tasks into a folder, or go on with that.

    Raises DataError where it cannot be written; files that cannot be read are in the outcome.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = _records(folder)
    mine = list(todo)[place.rank :: place.world]
    pieces = [Piece(number, 0, "") for number in range(len(mine))]
    one = _Converter(root, mine, folder, options, known)
    broken, made, kept, size = [], 0, 0, 0
    with open(folder / f"{RECORDS}-{place.rank:04d}.jsonl", "a", encoding="utf-8") as records:
        for done, piece in enumerate(written(pieces, one.make, processes=options.processes or _cores(place)), start=1):
            facts, new = piece.facts
            if "reason" in facts:
                broken.append((f"{facts['source']}: {facts['array']}", facts["reason"]))
            else:
                made, kept, size = made + new, kept + (not new), size + facts["size"]
                if new:
                    records.write(json.dumps(facts) + "\n")
                    records.flush()
            progress(done, len(mine))
            faults.point("convert.done")
    known = _records(folder)
    whole = all(_is_recorded(task, known) for task in todo)
    statistics = _put_together(folder, todo, known) if whole and options.stats else None
    return Outcome(made, kept, tuple(broken), whole, size, statistics)


# --- one array -------------------------------------------------------------------------------------------------------


class _Converter:
    """Makes one output, in another process."""

    def __init__(self, root: Path, mine: Sequence[Task], folder: Path, options: Options, known: dict[str, Any]):
        self._root, self._mine, self._folder = root, mine, folder
        self._options, self._known = options, known
        self._buffer = np.empty(_BUFFER, np.uint8)

    def make(self, number: int) -> tuple[list[bytes], Any]:
        """No bytes to be put anywhere; what is known of the output, and whether it is new."""
        task = self._mine[number]
        before = self._known.get(task.output)
        source, output = at(self._root, task.source), self._folder / task.output
        try:
            state = source.stat()
            if before is not None and self._still_holds(before, output, state):
                return [], (before, False)
            facts = self._converted(task, source, output)
        except DataError as error:
            return [], ({**asdict(task), "reason": str(error)}, True)
        except FileNotFoundError as error:
            return [], ({**asdict(task), "reason": f"{error.filename}: no such file"}, True)
        return [], ({**facts, "from": [state.st_size, state.st_mtime_ns]}, True)

    def _still_holds(self, before: dict[str, Any], output: Path, state: os.stat_result) -> bool:
        """Whether the output of an earlier start is there, from the same source, as long as it was, and wanted so."""
        if before["from"] != [state.st_size, state.st_mtime_ns] or not output.is_file():
            return False
        if output.stat().st_size != before["size"] or (
            self._options.stats and before.get("stats") is None and not before.get("whole")
        ):
            return False
        return not self._options.fix or packed.xxh3_of(output) == before["xxh3"]

    def _converted(self, task: Task, source: Path, output: Path) -> dict[str, Any]:
        about = Field("", (), np.dtype(np.uint8)) if task.whole else fields.field(source, task.array)
        output.parent.mkdir(parents=True, exist_ok=True)
        part = output.with_name(f".{output.name}.part")  # of a killed start too: nobody else writes this output
        whole = xxhash.xxh3_128()
        try:
            with open(part, "wb", buffering=0) as file:
                for piece in self._bytes_of(source) if task.whole else self._all(source, about):
                    _write(file, piece)
                    whole.update(piece)  # in the processor's cache still
            found = self._moments(part) if self._options.stats and not task.whole else None
            size = part.stat().st_size
            faults.point("convert.rename")
            part.replace(output)
        finally:
            part.unlink(missing_ok=True)
        return {
            **asdict(task),
            "shape": list(about.shape),
            "dtype": about.dtype.str,
            "size": size,
            "xxh3": whole.hexdigest(),
            "stats": found and asdict(found),
        }

    def _bytes_of(self, source: Path) -> Iterator[memoryview]:
        """All bytes of a file, through the one buffer."""
        with open(source, "rb", buffering=0) as file:
            while got := file.readinto(self._buffer.data):
                yield self._buffer.data[:got]

    def _all(self, source: Path, about: Field) -> Iterator[Any]:
        yield _head(about)
        yield from self._bytes(source, about)

    def _bytes(self, source: Path, about: Field) -> Iterator[memoryview]:
        """All bytes of an array; HDF5 need not be asked for one that lies in one piece."""
        if about.offset is None:
            if self._buffer.size < about.least <= _LARGEST:
                self._buffer = np.empty(about.least, np.uint8)
            yield from fields.blocks(source, about.name, out=self._buffer)
            return
        yield from _lying(source, about, self._buffer)

    def _moments(self, part: Path) -> Moments:
        array = np.lib.format.open_memmap(part, mode="r")
        axis = {"last": -1, "first": 0}.get(self._options.channels) if array.ndim > 2 else None
        return moments.of_array(array, axis=axis)


def _lying(source: Path, about: Field, buffer: np.ndarray) -> Iterator[memoryview]:
    """All bytes of an array that lies in one piece, as they are mapped: so the only copy is that into the output.

    buffer   for a file system that maps nothing
    """
    assert about.offset is not None, "the caller looked"
    at, end = about.offset, about.offset + about.size
    with open(source, "rb", buffering=0) as file:
        missing = end - os.fstat(file.fileno()).st_size
        if missing > 0:
            raise DataError(f"{source}: is truncated: {about.name!r} ends {missing} bytes after the file does")
        while at < end:
            begin = at // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            size = min(_WINDOW, end - at)
            try:
                mapped = mmap.mmap(file.fileno(), at + size - begin, _MAPPED, mmap.PROT_READ, offset=begin)
            except OSError:
                size = os.preadv(file.fileno(), [buffer.data[: min(buffer.size, size)]], at)
                yield buffer.data[:size]
            else:
                with mapped, memoryview(mapped)[at - begin :] as window:
                    for start in range(0, size, _BUFFER):
                        with window[start : start + _BUFFER] as piece:
                            yield piece
            at += size


def _head(about: Field) -> bytes:
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(about.dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": about.shape})
    return file.getvalue()


def _write(file: io.FileIO, piece: Any) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) or 0 :]


# --- what is known ---------------------------------------------------------------------------------------------------


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    """What any rank ever finished, by output; the line that a kill cut off is no record."""
    known: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob(f"{RECORDS}-*.jsonl"), key=lambda one: one.stat().st_mtime_ns):
        for line in file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                known[record["output"]] = record
    return known


def _is_recorded(task: Task, known: dict[str, dict[str, Any]]) -> bool:
    record = known.get(task.output)
    return record is not None and record["source"] == task.source and record["array"] == task.array


def _put_together(folder: Path, todo: Sequence[Task], known: dict[str, dict[str, Any]]) -> dict[str, Moments] | None:
    """The statistics of every array over all files, written for others to read; None where a part has none."""
    made: dict[str, Moments] = {}
    todo = [task for task in todo if not task.whole]
    for name in sorted({task.array for task in todo}):
        parts = [known[task.output].get("stats") for task in sorted(todo, key=_by_source) if task.array == name]
        if not all(parts):
            return None
        try:
            made[name] = moments.together([Moments(**{k: tuple(v) for k, v in part.items()}) for part in parts if part])
        except ValueError as error:
            raise DataError(f"{name}: {error}. Leave the others out, or write channels=none.") from error
    said = {name: {**asdict(one), "std": one.std} for name, one in made.items()}
    write_atomically(folder / STATISTICS, json.dumps(said, indent=1) + "\n")
    return made


def _by_source(task: Task) -> str:
    return task.source


def _cores(place: Place) -> int:
    return max(1, usable_cpus() // (place.local_world or place.world))
