"""Files that are whole or not there: a reader, or a kill, meets the old content or the new and nothing between."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def writing(path: Path, *, lasting: bool = True) -> Iterator[BinaryIO]:
    """A new file, open for bytes, that gets its name once the block has ended and all of it is on the disk.

    lasting   outlives a power cut; False where it can be made again, and nobody should wait for the disk

    The folder is made where there is none. A file that had the name keeps it until then, and for good where the block
    raises; then nothing else is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = hidden(path)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def hidden(path: Path) -> Path:
    """A name beside this one that nobody else uses: other nodes and containers have processes of the same number."""
    return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")


def sync(path: Path) -> None:
    """Make what a file holds, or names that were given in a folder, outlive a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
