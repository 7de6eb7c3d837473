"""The measured points of a run, in a file whose length every checkpoint remembers."""

import json
import os
from pathlib import Path
from typing import Any

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
        self.last = line
        if self._path:
            os.write(self._file, (json.dumps(line) + "\n").encode())

    def sync(self) -> None:
        """Make what was written durable, before a checkpoint says how long it is."""
        if self._path:
            os.fsync(self._file)

    def cut(self, length: int) -> None:
        """Go back to what a checkpoint remembers: later points belong to steps that are taken again."""
        if self._path:
            cut_back(self._path, length)

    def close(self) -> None:
        if self._path:
            os.close(self._file)
