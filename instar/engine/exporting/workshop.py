"""Where unfinished exports lie: a folder that nobody takes for an export, and the moment when one gets its name."""

import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from instar.atomic import sync
from instar.errors import ExportError
from instar.run import Run


class workshop:  # a context: everything in it is gone at the end, however that comes
    """A folder beside the exports that unfinished ones lie in; those of exports that were killed are cleared away."""

    def __init__(self, run: Run):
        self._exports = run.exports
        self._folder = run.exports / f".part-{socket.gethostname()}-{os.getpid()}"

    def __enter__(self) -> Path:
        self._exports.mkdir(parents=True, exist_ok=True)
        for left in self._exports.glob(f".part-{socket.gethostname()}-*"):
            if not Path(f"/proc/{left.name.rpartition('-')[2]}").exists():
                shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            self._exports.rmdir()


def named(run: Run, label: str, folder: Path) -> Path:
    """Give a finished folder its name, which no other export has."""
    for path in folder.iterdir():
        sync(path)
    sync(folder)
    number = 1
    while True:
        target = run.exports / (label if number == 1 else f"{label}-{number}")
        # A rename onto a folder that is not empty fails, so nobody's files are ever replaced.
        with suppress(OSError):
            if not target.exists():
                folder.rename(target)
                sync(run.exports)
                return target
        number += 1
        if number > 10**4:
            raise ExportError(f"{target}: cannot be written")
