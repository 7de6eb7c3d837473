"""The journal as a file: mended after a kill, and told apart where it is damaged."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock
from optuna.storages.journal._file import BaseJournalFileLock

from instar.errors import RunError


class Mending(BaseJournalFileLock):
    """Optuna's lock for network file systems, which mends the journal while it holds it.

    A process that is killed, or a disk that is full, may leave half a line; what is appended to that could never be
    read again.
    """

    def __init__(self, journal: Path):
        self._journal = journal
        self._inner = JournalFileSymlinkLock(str(journal), grace_period=15)

    def acquire(self) -> bool:
        self._inner.acquire()
        with suppress(FileNotFoundError):
            mend(self._journal)
        return True

    def release(self) -> None:
        with suppress(RuntimeError):  # taken away from us after we had been silent for too long
            self._inner.release()


def mend(journal: Path) -> int:
    """Cut a torn last line off; returns how many bytes went. Only the holder of the lock may."""
    with open(journal, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 4096)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)
        return size - end


@contextmanager
def opened(journal: Path) -> Iterator[None]:
    """Tells a damaged journal from everything else that may go wrong inside."""
    try:
        yield
    except (json.JSONDecodeError, KeyError) as error:
        raise RunError(
            f"{journal} is damaged: {error}. Bring it back from a copy; the trials themselves are ordinary runs beside "
            f"it, and lose nothing."
        ) from error
