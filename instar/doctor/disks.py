"""Disks: room, quota and pace of the folders one writes into, and whether their clock is ours."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from instar import caches, preflight, quota
from instar.formats import one_line, rate, size
from instar.job import Finding

_SAMPLE = 16 << 20  # bytes
_FILES = 200
_LONGEST = 2.0  # seconds a sample may take
_SLOW_BYTES = 50e6  # a second: a checkpoint of 500 MB takes ten seconds
_SLOW_FILES = 100.0  # a second
_SKEW = 2.0  # seconds; leases are renewed every few seconds and read by other nodes
_WORK = ("SCRATCH", "WORK", "WRKDIR", "FAST", "TMPDIR")  # what sites call their folders


def look(folders: Sequence[Path] = (), *, speeds: bool = True) -> list[Finding]:
    """Room and, where wanted, pace of every file system among the folders one writes into."""
    found: list[Finding] = []
    for name, folder in _distinct([*(("", path) for path in folders), *_usual()]):
        label = f"{name} {one_line(str(folder))}".strip()
        room = [*preflight.writable(folder), *preflight.space(folder)]
        wrong = [one for one in room if one.level != "ok"]
        told = [one.found for one in room[1:] if one.level == "ok"]
        if speeds and preflight.worst(room) != "error":
            paced = pace(folder)
            found.append(replace(paced, what=label, found=", ".join([*told, paced.found])))
        elif not wrong:
            found.append(Finding("ok", label, ", ".join(told)))
        found += wrong
    return found


def pace(folder: Path) -> Finding:
    """How fast a file is written and synced, how many small files a second, and how far its clock is from ours."""
    with tempfile.TemporaryDirectory(dir=quota.existing(folder), prefix=".instar-doctor-") as inside:
        skew = _skew(Path(inside))
        speed, small = _write(Path(inside)), _small_files(Path(inside))
    found = f"writes {size(speed)}/s synced, {rate(small)} small files/s"
    if abs(skew) > _SKEW:
        do = "tell the administrators: time limits and leases count on one clock (NTP)"
        return Finding("error", "disk", f"{found}; its clock is {skew:+.1f} s from this machine's", do)
    if speed < _SLOW_BYTES:
        return Finding("warning", "disk", found, "put runs and checkpoints on a faster file system: runs=FOLDER")
    if small < _SLOW_FILES:
        return Finding("warning", "disk", found, "pack images into few files before training from here: instar pack")
    return Finding("ok", "disk", found)


def _usual() -> Iterator[tuple[str, Path]]:
    yield "here", Path.cwd()
    yield "HOME", Path.home()
    yield "caches", caches.hub()
    for name in _WORK:
        if os.environ.get(name):
            yield name, Path(os.environ[name])


def _distinct(named: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """The first folder on each file system; one that is not there yet counts to where it would be made."""
    seen = set()
    for name, folder in named:
        device = quota.existing(folder).stat().st_dev
        if device not in seen:
            seen.add(device)
            yield name, folder


def _write(folder: Path) -> float:
    """Bytes a second into one file, until they are safe."""
    block, done, begun = os.urandom(1 << 20), 0, time.monotonic()
    with open(folder / "sample", "wb") as file:
        while done < _SAMPLE and time.monotonic() - begun < _LONGEST:
            file.write(block)
            file.flush()
            os.fsync(file.fileno()) if done % (8 << 20) == 0 else None
            done += len(block)
        os.fsync(file.fileno())
    return done / max(1e-6, time.monotonic() - begun)


def _small_files(folder: Path) -> float:
    """Small files a second: made, looked at and removed."""
    done, begun = 0, time.monotonic()
    while done < _FILES and time.monotonic() - begun < _LONGEST:
        path = folder / f"{done}"
        path.write_bytes(b"x")
        path.stat()
        path.unlink()
        done += 1
    return done / max(1e-6, time.monotonic() - begun)


def _skew(folder: Path) -> float:
    """Seconds that the file system's clock is ahead of ours."""
    before = time.time()
    (folder / "clock").write_bytes(b"x")
    changed = (folder / "clock").stat().st_mtime
    after = time.time()
    return changed - after if changed > after else min(0.0, changed - before)
