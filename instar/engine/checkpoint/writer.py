"""The process that makes checkpoints durable, beside the training and outside its interpreter lock.

    python -S -P instar/engine/checkpoint/writer.py <fd of the shared memory> <pid of the training>

Orders come as JSON lines on stdin, answers go as JSON lines to stdout; the bytes lie in the shared memory, already
laid out as the files they will be. For each order, in this sequence:

    1 a new folder `.tmp-<name>-<random>`; every file written, and hashed (sha256) at the same time
    2 every file fsynced; manifest.json written last; the folder fsynced
    3 the lease looked at once more, then one rename: from here on the checkpoint exists
    4 the pointers `latest` and `best` moved
    5 old checkpoints pruned, but none before its successor was through step 3

What a checkpoint is, is said by its manifest alone: `number` counts saves, `best` marks the best so far. The pointers
repeat that for people and other tools, and are put right again at the next start if this process dies after step 3.

Standard library only: it starts in a few hundredths of a second and never loads torch. It ignores the signals that
stop a training, so a save in flight ends well, and dies with the training process by whatever means that one dies.
"""

import ctypes
import errno
import hashlib
import json
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by path, without site-packages: find the package beside us
    sys.path.insert(0, str(Path(__file__).absolute().parents[3]))

from instar.engine import faults
from instar.engine.checkpoint import entries

TEMPORARY = ".tmp-"
_CHUNK = 8 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PR_SET_PDEATHSIG = 1
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


# --- one save ------------------------------------------------------------------------------------------------------


class Fenced(Exception):
    """The lease names another writer."""


class Writer:
    """Serves the orders of one training.

    folder   the checkpoints folder, which must stay where it is
    keep     how many of the newest whole checkpoints stay, beside the best
    fence    [lease file, token], or None: nothing becomes visible unless the file still has the token
    pauses   seconds between attempts when the folder cannot be written
    """

    def __init__(
        self, memory: int, parent: int, *, folder: str, keep: int, fence: list[str] | None, pauses: list[float]
    ):
        self._memory, self._parent = memory, parent
        self._folder, self._keep, self._fence, self._pauses = Path(folder), keep, fence, pauses
        self._mapped: mmap.mmap | None = None
        # Checkpoints of earlier processes are verified once, before they count as one of those that are kept.
        self._whole: set[str] = set()

    def settle(self) -> None:
        """Clear away what a killed writer left, and put the pointers right."""
        try:
            for item in self._folder.iterdir():
                if item.name.startswith(TEMPORARY):
                    remove(item)
            self._point()
        except OSError:
            pass  # the first save will find out, and say so

    def save(self, order: dict[str, Any]) -> dict[str, Any]:
        """Make one checkpoint durable; the answer says how that went, in `problem` and `reason`."""
        begun = time.monotonic()
        name = problem = reason = ""
        try:
            name = self._patiently(lambda: self._commit(order))
            faults.point("writer.renamed")
            self._whole.add(name)
            self._patiently(self._point)
        except Fenced as error:
            problem, reason = "fenced", str(error)
        except OSError as error:
            problem, reason = "full" if error.errno in _FULL else "unwritable", str(error)
        except Exception as error:  # the training decides what becomes of it; silence would be a hang
            problem, reason = "broken", f"{type(error).__name__}: {error}"
        return {"name": name, "problem": problem, "reason": reason, "seconds": time.monotonic() - begun}

    def prune(self) -> None:
        """Remove all but the newest `keep` whole checkpoints and the best one. What fails waits for the next time."""
        with suppress(OSError):
            self._prune()

    def _prune(self) -> None:
        found = entries.find(self._folder)
        kept: list[str] = []
        for entry in found:
            if len(kept) < self._keep and self._is_whole(entry):
                kept.append(entry.name)
        kept += [entry.name for entry in found if entry.best][:1]
        for entry in found:
            if kept and entry.name not in kept:
                # Renamed first, so that half a checkpoint never goes by the name of one.
                gone = self._folder / f"{TEMPORARY}{entry.name}-{os.urandom(4).hex()}"
                (self._folder / entry.name).rename(gone)
                remove(gone)

    def _is_whole(self, entry: entries.Entry) -> bool:
        if entry.name not in self._whole and not entries.damage(self._folder, entry):
            self._whole.add(entry.name)
        return entry.name in self._whole

    def _patiently(self, action: Callable[[], Any]) -> Any:
        """Try again after each pause: file servers come back. A full disk does not get empty by waiting."""
        for pause in self._pauses:
            try:
                return action()
            except OSError as error:
                if error.errno in _FULL:
                    raise
                time.sleep(pause)
        return action()

    def _commit(self, order: dict[str, Any]) -> str:
        """Steps 1 to 3; returns the name it got. Whatever goes wrong, nothing is left but what was there before."""
        faults.point("writer.begin")
        name, number = self._next(order["samples"])
        temporary = self._folder / f"{TEMPORARY}{name}-{os.urandom(4).hex()}"
        try:
            temporary.mkdir()
            files = self._write_all(temporary, order)
            faults.point("writer.synced")
            body = {"number": number, "samples": order["samples"], "best": order["best"], "files": files}
            write_small(temporary / entries.MANIFEST, entries.seal(body))
            sync_folder(temporary)
            faults.point("writer.manifest")
            self._check_fence()
            temporary.rename(self._folder / name)
        except BaseException:
            remove(temporary)
            self._check_fence()  # who took the lease sweeps our temporary folder: then that is the reason
            raise
        return name

    def _next(self, samples: int) -> tuple[str, int]:
        """A name nobody has (a second save of one position gets a number behind it), and the number of this save."""
        found = entries.find(self._folder)
        taken = {entry.name for entry in found}
        name, again = f"{entries.PREFIX}{samples:012d}", 2
        while name in taken:
            name, again = f"{entries.PREFIX}{samples:012d}-{again}", again + 1
        return name, 1 + max((entry.number for entry in found), default=0)

    def _write_all(self, temporary: Path, order: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Write every file while other threads hash the same bytes, then wait for the disk; returns the sums."""
        whole = memoryview(self._map(order["memory"]))
        parts = [(file, whole[offset : offset + length]) for file, offset, length in order["files"]]
        sums = {file: hashlib.sha256() for file, _ in parts}
        # hashlib lets go of the interpreter lock, so hashing costs no time as long as the disk is slower.
        threads = [threading.Thread(target=sums[file].update, args=(part,), daemon=True) for file, part in parts]
        for thread in threads:
            thread.start()
        descriptors: list[int] = []
        try:
            for file, part in parts:
                descriptors.append(_create(temporary / file))
                _write(descriptors[-1], part)
            for descriptor in descriptors:
                os.fsync(descriptor)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            for thread in threads:
                thread.join()
        return {file: {"bytes": len(part), "sha256": sums[file].hexdigest()} for file, part in parts}

    def _map(self, size: int) -> mmap.mmap:
        if self._mapped is None or len(self._mapped) != size:
            self._mapped = mmap.mmap(self._memory, size, prot=mmap.PROT_READ)
        return self._mapped

    def _check_fence(self) -> None:
        """Raises Fenced where the lease is another's, and ends this process where the training has gone."""
        if os.getppid() != self._parent:
            os._exit(1)
        if self._fence is None or not self._folder.is_dir():
            return
        path, token = self._fence
        holder = _token(Path(path))
        if holder != token:
            raise Fenced(f"{path} names another holder ({holder or 'none'})")

    def _point(self) -> None:
        """Make the renames durable and let the pointers say what the manifests say."""
        sync_folder(self._folder)
        found = [entry for entry in entries.find(self._folder) if entry.number >= 0]
        targets = {"latest": found[:1], "best": [entry for entry in found if entry.best][:1]}
        moved = [self._move(pointer, target[0].name) for pointer, target in targets.items() if target]
        if any(moved):
            sync_folder(self._folder)

    def _move(self, pointer: str, name: str) -> bool:
        path = self._folder / pointer
        try:
            if path.read_text(encoding="utf-8") == f"{name}\n":
                return False
        except (OSError, ValueError):
            pass
        temporary = self._folder / f"{TEMPORARY}{pointer}-{os.urandom(4).hex()}"
        write_small(temporary, f"{name}\n".encode())
        temporary.replace(path)
        return True


# --- files ---------------------------------------------------------------------------------------------------------


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _write(descriptor: int, data: memoryview) -> None:
    """Write it all, passing `writer.bytes` at least twice on the way."""
    chunk = max(1, min(_CHUNK, -(-len(data) // 2)))
    done = 0
    while done < len(data):
        written = os.write(descriptor, data[done : done + chunk])
        if hasattr(os, "posix_fadvise"):
            # Sets the disk to work while we go on writing (0.85 of the time without), and frees pages for images.
            os.posix_fadvise(descriptor, done, written, os.POSIX_FADV_DONTNEED)
        done += written
        faults.point("writer.bytes")


def write_small(path: Path, data: bytes) -> None:
    descriptor = _create(path)
    try:
        _write_plainly(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_plainly(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file servers know no fsync of folders
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, or a folder of files. What cannot be removed stays for the next sweep."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        for item in path.iterdir():
            item.unlink()
        path.rmdir()
    except OSError:
        pass


def _token(path: Path) -> str | None:
    """The token of whoever holds the lease; looked at three times, in case the file server is slow to show it."""
    from instar.engine.ranks import lease  # doubles the time of starting, which no save waits for later

    for _ in range(3):
        with suppress(OSError):
            if token := lease.read(path).get("token"):
                return str(token)
        time.sleep(0.05)
    return None


# --- the process ---------------------------------------------------------------------------------------------------


def main(memory: int, parent: int) -> None:
    """Serve orders until an empty line, or until stdin ends. The first line is the settings of `Writer`."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to be told
        return
    faults.arm(os.environ.get("INSTAR_FAULT", ""), along=[parent])
    # An end of file may be long in coming: forked loader workers hold the other end of the pipe too.
    lines = iter(lambda: sys.stdin.buffer.readline().strip(), b"")
    writer = Writer(memory, parent, **json.loads(next(lines)))
    writer.settle()
    for line in lines:
        answer = writer.save(json.loads(line))
        try:
            _write_plainly(1, json.dumps(answer).encode() + b"\n")
        except BrokenPipeError:
            return
        if not answer["problem"]:
            faults.point("writer.pointer")
            writer.prune()
            faults.point("writer.pruned")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
