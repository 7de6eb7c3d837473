"""Checkpoints in files that somebody else writes, such as Lightning's: whole or not there, like our own.

checkpoints/samples-000000012345/lightning.ckpt state.json manifest.json
checkpoints/best-000000011000/lightning.ckpt state.json manifest.json
checkpoints/latest  checkpoints/best

Where the ranks hold parts of the weights, lightning.ckpt is a folder of theirs.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from instar.engine.checkpoint import entries
from instar.engine.checkpoint.writer import TEMPORARY, sync_folder, write_small
from instar.errors import Again, RunError

FILE = "lightning.ckpt"
BEST = "best-"


def begin(folder: Path, samples: int) -> Path:
    """Where to write the files of the next save; the same for every rank. What killed saves left is swept away."""
    return folder / f"{TEMPORARY}{entries.PREFIX}{samples:012d}"


def sweep(folder: Path) -> None:
    """Remove what is half a save; for rank 0, before ranks write."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in folder.iterdir():
        if item.name.startswith(TEMPORARY):
            remove(item)


def finish(temporary: Path, state: dict[str, Any], *, samples: int, best: bool, keep: int, held: bool) -> Path:
    """Make the files that were written into `temporary` a checkpoint; returns its folder. For rank 0.

    best   whether these are the best weights, which stay beside the `keep` newest saves
    held   whether the lease is still ours

    Raises Again where the disk is full or gone, RunError where another process writes this run.
    """
    folder = temporary.parent
    if not held:
        remove(temporary)
        raise RunError(f"{folder}: another process writes this run now. This one stops.")
    try:
        number = 1 + max((entry.number for entry in entries.find(folder)), default=0)
        name = f"{BEST if best else entries.PREFIX}{samples:012d}"
        write_small(temporary / entries.STATE, json.dumps(state, indent=1).encode())
        # Some strategies write a folder of parts in place of the file.
        parts = [file for file in sorted(temporary.rglob("*")) if file.is_file()]
        files = {file.relative_to(temporary).as_posix(): _sums(file) for file in parts}
        body = {"number": number, "samples": samples, "best": best, "files": files}
        write_small(temporary / entries.MANIFEST, entries.seal(body))
        sync_folder(temporary)
        target = folder / name
        if target.exists():
            target.rename(folder / f"{TEMPORARY}{name}-{os.urandom(4).hex()}")
        temporary.rename(target)
        _point(folder, "best" if best else "latest", name)
        prune(folder, keep)
    except OSError as error:
        remove(temporary)
        raise Again(
            f"{folder}: the checkpoint at {samples} samples was not saved ({error.strerror or error})"
        ) from error
    return target


def newest(folder: Path, *, most: int | None = None) -> tuple[Path | None, list[tuple[str, str]]]:
    """The newest whole save, and those newer ones that are not whole, each with the reason.

    most   not beyond so many samples
    """
    rejected: list[tuple[str, str]] = []
    for entry in entries.find(folder):
        if most is not None and entry.samples > most:
            continue
        if not (why := entries.damage(folder, entry)):
            return folder / entry.name, rejected
        rejected.append((entry.name, why))
    return None, rejected


def best(folder: Path) -> Path | None:
    """The best weights, where there are any."""
    with suppress(OSError, ValueError):
        found = folder / (folder / "best").read_text(encoding="utf-8").strip()
        return found if (found / FILE).exists() else None
    return None


def state_of(save: Path) -> dict[str, Any]:
    """What was kept beside the file."""
    return dict(json.loads((save / entries.STATE).read_text(encoding="utf-8")))


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` saves and the best weights."""
    saves = [folder / entry.name for entry in entries.find(folder)]
    good = best(folder)
    bests = [item for item in folder.iterdir() if item.name.startswith(BEST) and item != good]
    for item in (*saves[keep:], *(bests if good else ()), *_left(folder)):
        remove(item)


def remove(path: Path) -> None:
    """Remove a save or half of one, by a name that is none first."""
    if path.is_dir() and not path.name.startswith(TEMPORARY):
        gone = path.with_name(f"{TEMPORARY}{path.name}-{os.urandom(4).hex()}")
        with suppress(OSError):
            path = path.rename(gone)
    with suppress(OSError):
        for item in sorted(path.rglob("*"), reverse=True):
            item.rmdir() if item.is_dir() else item.unlink()
        path.rmdir() if path.is_dir() else path.unlink()


def _left(folder: Path) -> Iterator[Path]:
    yield from (item for item in folder.iterdir() if item.name.startswith(TEMPORARY))


def _sums(file: Path) -> dict[str, Any]:
    """Size and sha256 of a file, whose bytes are then on the disk."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        digest = hashlib.file_digest(opened, "sha256")
        return {"bytes": os.fstat(opened.fileno()).st_size, "sha256": digest.hexdigest()}


def _point(folder: Path, pointer: str, name: str) -> None:
    sync_folder(folder)
    temporary = folder / f"{TEMPORARY}{pointer}-{os.urandom(4).hex()}"
    write_small(temporary, f"{name}\n".encode())
    temporary.replace(folder / pointer)
    sync_folder(folder)
