"""Remembered: what was found out about files, kept in pieces in the cache folder so that a kill loses at most one.

Each piece is a Parquet file that is written whole or not at all; when all is done they become one. An answer holds
while the file's size and time of change do. Whatever is wrong with the cache is a note, and no error.

Legend: N files.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from instar import atomic
from instar.engine import faults
from instar.engine.loading.cores import usable_cpus
from instar.engine.scan import headers

_AT_ONCE = 1024  # files a thread looks at in one go
_KEEP_FILES = 2048  # new answers that are written as one piece
_KEEP_SECONDS = 15.0  # or those of so long

STATE = [("file", pa.string()), ("bytes", pa.int64()), ("changed_ns", pa.int64())]


class Remembered:
    """The answers of one kind about the files of one folder.

    schema    columns of an answer: STATE first, then whatever was found
    version   of what is found and how; answers of another version are forgotten
    note      a sentence where the cache could not be used; '' otherwise
    """

    def __init__(self, kind: str, root: Path, schema: pa.Schema, *, version: str):
        self.note = ""
        name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
        self._folder = headers.cache_folder() / kind / name
        self._schema = schema.with_metadata({"instar.version": version})
        self._version = version.encode()

    def read(self, files: Sequence[str]) -> tuple[pa.Table, np.ndarray]:
        """What is known: a table of answers, and for each of these files its row in it, int64; -1 for none.

        The newest answer about a file counts. Whether it still holds is for the caller to see.
        """
        tables = []
        for path in sorted(self._folder.glob("*.parquet")) if self._folder.is_dir() else ():
            try:
                table = pq.read_table(path, partitioning=None)
            except (OSError, pa.ArrowException) as error:
                self.note = f"{path}: this piece of the cache could not be read ({error})"
                continue
            if (table.schema.metadata or {}).get(b"instar.version") == self._version:
                tables.append(table.select(self._schema.names).cast(self._schema))
        known = pa.concat_tables(tables).combine_chunks() if tables else self._schema.empty_table()
        if not len(known):
            return known, np.full(len(files), -1, np.int64)
        # index_in gives the first of equal names, so the newest have to come first.
        backwards = known["file"].combine_chunks().take(pa.array(np.arange(len(known))[::-1]))
        place_N = pc.fill_null(pc.index_in(pa.array(files, pa.string()), value_set=backwards), len(known))
        return known, len(known) - 1 - place_N.to_numpy().astype(np.int64)

    def add(self, answers: pa.Table) -> None:
        """Keep some new answers."""
        self._write(answers, self._new_name())

    def replace(self, answers: pa.Table) -> None:
        """Keep these answers and forget all pieces before them."""
        before = set(self._folder.glob("*.parquet")) if self._folder.is_dir() else set()
        name = self._new_name()
        if self._write(answers, name):
            for path in before - {self._folder / name}:
                with suppress(OSError):
                    path.unlink()

    def completed(
        self,
        known: pa.Table,
        place_N: np.ndarray,
        looked: Iterable[tuple[list[int], list[dict[str, Any]]]],
        *,
        progress: Callable[[int], None],
    ) -> pa.Table:
        """The answers about all N files, in their order; new ones are kept as they come, a piece at a time.

        known, place_N   what holds: the row of each file in `known`, -1 for those that are looked at
        looked           numbers of files, and the answers about them, as they are found
        progress         told how many files are done, now and then
        """
        held = np.flatnonzero(place_N >= 0)
        tables, order, done = [known.take(pa.array(place_N[held])).cast(self._schema)], [held], len(held)
        waiting: list[dict[str, Any]] = []
        numbers: list[int] = []
        written = time.monotonic()

        def keep() -> None:
            if waiting:
                tables.append(pa.Table.from_pylist(waiting, self._schema))
                order.append(np.array(numbers, np.int64))
                self.add(tables[-1])
                waiting.clear()
                numbers.clear()

        progress(done)
        try:
            for part, answers in looked:
                waiting += answers
                numbers += part
                done += len(part)
                progress(done)
                faults.point("check.chunk")
                if len(waiting) >= _KEEP_FILES or time.monotonic() - written > _KEEP_SECONDS:
                    keep()
                    written = time.monotonic()
        finally:
            keep()
        whole = pa.concat_tables(tables).combine_chunks()
        whole = whole.take(pa.array(np.argsort(np.concatenate(order), kind="stable"))).replace_schema_metadata(None)
        if len(held) < len(place_N):
            self.replace(whole)
        return whole

    def _new_name(self) -> str:
        """Names sort by time, over any number of runs; two processes at once, on two machines too, do not meet."""
        numbers = (
            [path.name.partition("-")[0] for path in self._folder.glob("*.parquet")] if self._folder.is_dir() else []
        )
        following = max((int(number) for number in numbers if number.isdigit()), default=0) + 1
        return f"{following:012d}-{os.urandom(4).hex()}.parquet"

    def _write(self, answers: pa.Table, name: str) -> bool:
        try:
            with atomic.writing(self._folder / name, lasting=False) as file:
                pq.write_table(answers.cast(self._schema), file, compression="zstd")
        except (OSError, pa.ArrowException) as error:
            self.note = (
                f"{self._folder}: what was found cannot be kept ({error}), so the next time every file is read again. "
                f"Name another folder in INSTAR_CACHE."
            )
            return False
        return True


def holding(root: Path, files: Sequence[str], known: pa.Table, place_N: np.ndarray) -> np.ndarray:
    """Which files are as they were when the answer about them was found, bool. Looks at sizes and times, in threads."""
    state_M = list(zip(known["bytes"].to_pylist(), known["changed_ns"].to_pylist(), strict=True))
    folder, rows = f"{root}/", np.flatnonzero(place_N >= 0)

    def look(part: np.ndarray) -> list[bool]:
        asked = zip(part.tolist(), place_N[part].tolist(), strict=True)
        return [headers.state(folder + files[row]) == state_M[at] for row, at in asked]

    held_N = np.zeros(len(files), bool)
    parts = [rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE)]
    with ThreadPoolExecutor(min(32, 4 * usable_cpus())) as threads:
        for part, answer in zip(parts, threads.map(look, parts), strict=True):
            held_N[part] = answer
    return held_N
