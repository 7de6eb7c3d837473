"""The measured points of a run, in a file whose length every checkpoint remembers."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instar.errors import Again
from instar.run import cut_back


class MetricsLog:
    """Appends lines to metrics.jsonl. Ranks other than 0 hold one without a file: it remembers and writes nothing."""

    def __init__(self, path: Path | None):
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if path else -1
        self.last: dict[str, Any] = {}

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._file).st_size if self._path else 0

    def write(self, line: dict[str, Any]) -> None:
        """Append a point. Raises Again where the disk is full or gone; what is torn then is cut at the next start."""
        self.last = line
        if self._path:
            data = (json.dumps(line) + "\n").encode()
            with self._disk():
                while data:
                    data = data[os.write(self._file, data) :]

    def sync(self) -> None:
        """Make what was written durable, before a checkpoint says how long it is."""
        if self._path:
            with self._disk():
                os.fsync(self._file)

    def cut(self, length: int) -> None:
        """Go back to what a checkpoint remembers: later points belong to steps that are taken again."""
        if self._path:
            cut_back(self._path, length)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Again(f"{self._path} cannot be written ({error.strerror or error}). See to the disk.") from error

    def close(self) -> None:
        if self._path:
            os.close(self._file)
