"""Checkpoints: whole states on disk, which training waits for no longer than one copy in memory.

    found = checkpoint.load(run.checkpoints)                      # None: a fresh start
    if found:
        for name, reason in found.rejected:
            ...                                                   # log it: an older one had to do
        model.load_state_dict(found.files["model"])
        checkpoint.restore_optimizer(optimizer, found.files["optimizer"], found.state["optimizer"])

    with checkpoint.Checkpoints(run.checkpoints, keep=2, fence=(run.lease_file, token)) as checkpoints:
        for step in ...:
            ...
            if due:
                tensors, rest = checkpoint.flatten_optimizer(optimizer)
                files = {"model": model.state_dict(), "optimizer": tensors}
                checkpoints.save(files, {"optimizer": rest, "samples": samples}, samples=samples, best=improved)
            for saved in checkpoints.poll():                      # never waits
                saved.check()                                     # raises Again (75) on a full disk, ...
                run.log_event("saved", checkpoint=saved.name, seconds=saved.seconds)
        checkpoints.wait()                                        # before exit: until the save in flight is durable
        ...                                                       # and poll once more

On disk, in a folder a save:

    checkpoints/samples-000000012345/model.safetensors optimizer.safetensors state.json manifest.json
    checkpoints/latest  checkpoints/best       text files with a name; the manifests are what counts

A save is one copy into shared memory (`snapshot`), an order to a process of its own (`writer`), and later an answer.
The fault points on the way are save.copy and save.handed here, and writer.begin, .bytes, .synced, .manifest, .renamed,
.pointer and .pruned there. A `kill` at one of the latter takes the training process along, as kill -9 of the whole
tree does; an `exit` ends the writer alone.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from instar.engine import faults
from instar.engine.checkpoint import entries, exact_json
from instar.engine.checkpoint.optimizer_state import flatten_optimizer, restore_optimizer
from instar.engine.checkpoint.snapshot import SharedMemory
from instar.engine.checkpoint.tensor_files import Files, Layout, size
from instar.engine.checkpoint.whole import Checkpoint, load, load_best, load_number, names
from instar.engine.checkpoint.writer_process import WriterDied, WriterProcess
from instar.errors import Again, CheckpointError, InstarError, RunError

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Saved",
    "flatten_optimizer",
    "load",
    "load_best",
    "load_number",
    "names",
    "restore_optimizer",
    "room",
    "size",
]

Problem = Literal["", "full", "fenced", "unwritable", "broken"]
_LAST_SECONDS = 8.0
_FILES_BESIDE = 6  # state, manifest, two pointers and what they are made from


@dataclass(frozen=True)
class Saved:
    """How one save went.

    name      its folder; '' where none was made
    bytes     of all its files
    stall     seconds that training waited for the copy
    seconds   from the call of `save` until it was durable
    problem   '' when all is well; else full, fenced (another process has the lease), unwritable, or broken
    error     the problem as a sentence; '' when all is well
    """

    name: str
    samples: int
    best: bool
    bytes: int
    stall: float
    seconds: float
    problem: Problem = ""
    error: str = ""

    def check(self) -> None:
        """Raise what a failed save should end a training with; all earlier checkpoints are as they were.

        Again where the same command can carry on later (full, unwritable), RunError where another process writes this
        run now, CheckpointError where the writer itself is broken.
        """
        kinds: dict[str, Callable[[str], InstarError]] = {"fenced": RunError, "broken": CheckpointError}
        if self.problem:
            raise kinds.get(self.problem, Again)(self.error)


class Checkpoints:
    """Saves the checkpoints of one training. Made in the main thread, by the one process that holds the lease.

    keep     how many of the newest whole checkpoints stay, beside the best one
    fence    (lease file, our token): no save becomes visible once the lease is another's
    pauses   seconds to wait before each further attempt, where the folder is read-only or has vanished
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 2,
        fence: tuple[Path, str] | None = None,
        pauses: Sequence[float] = (0.2, 1.0, 3.0),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder.absolute()
        self._settings: dict[str, Any] = {
            "folder": str(self._folder),
            "keep": max(1, keep),
            "fence": [str(fence[0].absolute()), fence[1]] if fence else None,
            "pauses": list(pauses),
        }
        self._memory = SharedMemory()
        self._writer = WriterProcess(self._memory.fd, **self._settings)
        self._layout: Layout | None = None
        self._order: dict[str, Any] | None = None  # of the save in flight
        self._pending: Saved | None = None
        self._begun = 0.0
        self._restarted = False
        self._finished: list[Saved] = []

    def reserve(self, bytes: int) -> None:
        """Have the memory ready, so that the first save waits no longer than the others; an estimate will do.

        Raises CheckpointError where there is not so much memory.
        """
        if self._memory.reserve(bytes):
            self._start_writer()

    def save(self, files: Files, state: dict[str, Any], *, samples: int, best: bool = False) -> None:
        """Copy the state and hand it to the writer; returns when the tensors may change again.

        files     file name -> tensor name -> tensor, on any device, in any memory order
        state     everything else: numbers, texts, None, lists, tuples, dicts with text keys
        samples   the position, which becomes the name

        Waits first for a save in flight. Raises CheckpointError for what cannot be saved at all; whether the writing
        went well is in the next `poll`.
        """
        self.wait()
        self._begun = time.monotonic()
        text = exact_json.dumps(state).encode()
        if self._layout is None or not self._layout.fits(files):
            self._layout = Layout(files)
        layout = self._layout
        parts = [(part.file, part.offset, part.bytes) for part in layout.parts]
        parts.append((entries.STATE, layout.bytes, len(text)))
        total = sum(length for _, _, length in parts)
        self._pending = Saved("", samples, best, total, 0.0, 0.0)
        missing = ""
        with suppress(OSError):  # a folder that cannot be looked at: the writer tries more than once, and reports
            missing = _missing(self._folder, total, len(parts) + _FILES_BESIDE)
        if missing:
            self._finish({"problem": "full", "reason": missing})
            return
        self.reserve(layout.bytes + len(text))
        faults.point("save.copy")
        self._memory.copy(files, layout)
        self._memory.put(layout.bytes, text)
        self._order = {"samples": samples, "best": best, "files": parts, "memory": self._memory.bytes}
        self._restarted = False
        if not self._writer.alive:
            self._start_writer()
        self._writer.order(self._order)
        self._pending = replace(self._pending, stall=time.monotonic() - self._begun)
        faults.point("save.handed")

    @property
    def in_flight(self) -> bool:
        """Whether a save is being written, as far as `poll` and `wait` have seen."""
        return self._order is not None

    def poll(self) -> list[Saved]:
        """The saves that ended since the last call, well or not. Never waits."""
        self._listen(0.0)
        finished, self._finished = self._finished, []
        return finished

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the save in flight is durable or has failed, which `poll` then tells.

        Returns False where it is still in flight after so many seconds.
        """
        self._listen(seconds)
        return not self.in_flight

    def close(self, seconds: float | None = None) -> None:
        """Wait for the save in flight, as `wait` does, and end the writer; after so many seconds by force."""
        self.wait(seconds)
        self._writer.close(seconds)
        self._memory.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Where something went wrong, a disk that hangs must not keep the news of it.
        self.close(None if kind is None else _LAST_SECONDS)

    def _listen(self, seconds: float | None) -> None:
        while self._order is not None:
            try:
                answer = self._writer.answer(seconds)
            except WriterDied as death:
                self._start_writer()
                if self._restarted:
                    self._finish({"problem": "broken", "reason": f"the writer process {death}, twice"})
                else:  # the memory still holds the state
                    self._restarted = True
                    self._writer.order(self._order)
                continue
            if answer is None:
                return
            self._finish(answer)

    def _finish(self, answer: dict[str, Any]) -> None:
        assert self._pending is not None, "an answer to no order"
        saved = replace(self._pending, name=answer.get("name", ""), problem=answer["problem"])
        seconds = time.monotonic() - self._begun if not answer.get("seconds") else saved.stall + answer["seconds"]
        error = _sentence(self._folder, saved, answer["reason"]) if saved.problem else ""
        self._finished.append(replace(saved, seconds=seconds, error=error))
        self._order = self._pending = None

    def _start_writer(self) -> None:
        self._writer.close()
        self._writer = WriterProcess(self._memory.fd, **self._settings)


def room(folder: Path, bytes: int, *, files: int, keep: int) -> None:
    """Make sure that the disk has room for all saves of a run: those that are kept, the best, and one being written.

    bytes, files   of one save
    keep           as `Checkpoints` has it; what lies in the folder already counts as there

    Raises CheckpointError with what is needed, what was found, and what to do.
    """
    there = [item.stat().st_size for name in names(folder) for item in (folder / name).iterdir()]
    saves, block = max(1, keep) + 2, 4096  # a small file takes a block
    needed = saves * (bytes + files * block) - sum(-(-size // block) * block for size in there)
    entries_needed = saves * (files + 1) - len(there)
    what = f"the {saves} checkpoints of this run need"
    if missing := _missing(folder, max(0, needed), max(0, entries_needed), what):
        raise CheckpointError(
            f"{folder}: {missing}. Free that much, choose another disk with runs=FOLDER, or keep fewer (train.keep)."
        )


def _missing(folder: Path, bytes: int, files: int, what: str = "a checkpoint needs") -> str:
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    # Some file systems make inodes as they go, and say 0 of 0.
    inodes = disk.f_favail if disk.f_files else files
    if free >= bytes and inodes >= files:
        return ""
    return f"{what} {bytes / 1e6:,.1f} MB and {files} files, found {free / 1e6:,.1f} MB and {inodes:,} free inodes"


def _sentence(folder: Path, saved: Saved, reason: str) -> str:
    what = {
        "full": f"the disk is full ({reason}). Free at least {saved.bytes / 1e6:,.1f} MB",
        "fenced": f"another process writes this run now: {reason}. This one stops",
        "unwritable": f"the folder cannot be written ({reason}). See to the disk",
        "broken": f"{reason}. See the messages above",
    }[saved.problem]
    earlier = []
    with suppress(OSError):
        earlier = [entry.name for entry in entries.find(folder) if entry.number >= 0]
    last = f"The newest one there is {earlier[0]}." if earlier else "There is no earlier one to be seen."
    return f"{folder}: the checkpoint at {saved.samples} samples was not saved: {what}. {last}"
