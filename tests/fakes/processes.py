"""Real `instar train` processes on made-up images: started, disturbed, and searched for what they leave behind."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.run import Run
from instar.settings import dump
from tests.fakes.images import folder_of_images
from tests.fakes.training import recipe

ROOT = Path(__file__).parent.parent.parent
# A machine that others use too may need long to import torch; a test that hangs must still end.
PATIENCE = 180.0
NOT_OURS = ("INSTAR_", "SLURM_", "OMPI_", "PMI", "RANK", "WORLD_SIZE", "MASTER_")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its code as Python gives it (negative for a signal), what it printed, and when."""

    code: int
    output: str
    at: float


class Command:
    """One training that is started again and again by the same command, in a folder of its own."""

    def __init__(self, folder: Path, *, ranks: int = 1, run: str = "run", **changes: Any):
        self.folder = folder
        self.ranks = ranks
        self.run = Run(folder / run)
        self.mark = secrets.token_hex(8)
        root = folder / "some 'images'"
        if not root.exists():
            folder_of_images(root)
        self._recipe = folder / f"{Path(run).name}.yaml"
        self._recipe.write_text(dump(recipe(root, **changes)), encoding="utf-8")

    def line(self, *words: str) -> list[str]:
        own = [f"run={self.run.path}", f"devices={self.ranks}", "workers=0", "device=cpu"]
        changed = {word.partition("=")[0] for word in words}
        return [
            sys.executable, "-m", "instar", "train", str(self._recipe),
            *(word for word in own if word.partition("=")[0] not in changed), *words,
        ]  # fmt: skip

    def environ(self, fault: str = "", **more: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "INSTAR_FAULT": fault, "STARTED_BY_TEST": self.mark}
        return {**inherited, **own, **more}

    def start(self, *words: str, fault: str = "", before: Sequence[str] = (), **environ: str) -> "Started":
        """Start it; `before` is put in front of the command, as a wrapper's would be."""
        process = subprocess.Popen(
            [*before, *self.line(*words)],
            cwd=self.folder,
            env=self.environ(fault, **environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        return Started(self, process)

    def go(self, *words: str, fault: str = "", before: Sequence[str] = (), **environ: str) -> Ended:
        """Start it and wait for its end."""
        return self.start(*words, fault=fault, before=before, **environ).end()

    def events(self, *names: str) -> list[dict[str, Any]]:
        return [event for event in self.run.events() if event["event"] in names]

    def left(self) -> list[int]:
        """Processes that some start of this command left behind."""
        return list(_marked(self.mark))

    def sweep(self) -> None:
        for pid in self.left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


class Started:
    """One start of a command."""

    def __init__(self, command: Command, process: "subprocess.Popen[str]"):
        self.command = command
        self.process = process
        self._begun = self._beginnings()

    def until_it_trains(self) -> None:
        """Wait until the first step of this start is about to be taken."""
        self.until(lambda: self._beginnings() > self._begun)

    def until(self, there: Callable[[], bool]) -> None:
        """Wait for something; what the process printed is shown where it ends before."""
        end = time.monotonic() + PATIENCE
        while not there():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"it never came to that: {self.end().output}")
            time.sleep(0.02)

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, seconds: float = PATIENCE) -> Ended:
        """Wait for its end; where that does not come within so many seconds, kill everything and fail."""
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.command.sweep()
            output, _ = self.process.communicate()
            raise AssertionError(f"still there after {seconds} s: {output}") from None
        return Ended(self.process.returncode, output, time.time())

    def children(self) -> list[int]:
        """Direct children that are copies of the process itself: loader workers, not the writer of checkpoints."""
        own = _words(self.process.pid)
        return [pid for pid in _marked(self.command.mark) if _parent(pid) == self.process.pid and _words(pid) == own]

    def _beginnings(self) -> int:
        return len(self.command.events("started", "resumed"))


@contextmanager
def command(folder: Path, **settings: Any) -> Iterator[Command]:
    """A command whose processes are all ended at the end of the block, whatever happens in it."""
    made = Command(folder, **settings)
    try:
        yield made
    finally:
        made.sweep()


def losses(run: Run) -> list[float]:
    return [line["loss"] for line in run.metrics() if line["kind"] == "train"]


def facts(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _marked(mark: str) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"STARTED_BY_TEST={mark}".encode() in (folder / "environ").read_bytes() and _state(folder) not in "ZX":
                yield int(folder.name)
        except OSError:
            continue


def _state(folder: Path) -> str:
    return (folder / "stat").read_text().rpartition(")")[2].split()[0]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
