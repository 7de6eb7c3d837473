"""Finding and reading checkpoints that are whole, newest save first.

Only the files that a manifest names are opened: safetensors and one JSON file, which cannot execute anything.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from instar.engine.checkpoint import entries, exact_json
from instar.engine.checkpoint.entries import Entry
from instar.engine.checkpoint.tensor_files import mapped
from instar.errors import CheckpointError

_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint.

    name      its folder, such as samples-000000012345
    number    counts the saves of a run; no two checkpoints of a run share it
    files     file name without suffix -> tensor name -> tensor; mapped from disk, so copy what is to be changed
    state     what was given to `save` beside the tensors
    best      whether it was the best when it was saved
    rejected  newer checkpoints that are not whole: (name, reason), for the log
    """

    name: str
    path: Path
    number: int
    samples: int
    best: bool
    files: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    rejected: tuple[tuple[str, str], ...] = ()


def names(folder: Path) -> list[str]:
    """The checkpoints in a folder, newest save first; those whose manifest cannot be read stand in front."""
    return [entry.name for entry in entries.find(folder)]


def load(folder: Path, *, verify: bool = True) -> Checkpoint | None:
    """The newest whole checkpoint, or None where there never was one.

    verify   compare every byte with the sha256 in the manifest; sizes are compared in any case

    Raises CheckpointError where there are checkpoints and none of them is whole.
    """
    rejected = list(_dangling(folder, "latest"))
    for entry in entries.find(folder):
        found = _read(folder, entry, verify=verify, rejected=tuple(rejected))
        if isinstance(found, Checkpoint):
            return found
        rejected.append((entry.name, found))
    if not rejected:
        return None
    reasons = "\n".join(f"  {name}: {reason}" for name, reason in rejected)
    raise CheckpointError(
        f"{folder}: no whole checkpoint is left.\n{reasons}\n"
        f"Bring one back from a copy, or remove the folder to start from the beginning."
    )


def load_number(folder: Path, number: int, *, verify: bool = False) -> Checkpoint:
    """The checkpoint with this number: the one another rank has found and verified.

    Raises CheckpointError where it is not there or not whole.
    """
    for entry in entries.find(folder):
        if entry.number == number:
            return _whole(folder, entry, verify=verify)
    raise CheckpointError(f"{folder}: there is no checkpoint number {number} (there are {', '.join(names(folder))})")


def load_best(folder: Path, *, verify: bool = True) -> Checkpoint | None:
    """The best checkpoint, or None where none was marked so. Raises CheckpointError where it is not whole."""
    for entry in entries.find(folder):
        if entry.best:
            return _whole(folder, entry, verify=verify)
    for name, reason in _dangling(folder, "best"):
        raise CheckpointError(f"{folder}: {name} {reason}")
    return None


def _whole(folder: Path, entry: Entry, *, verify: bool) -> Checkpoint:
    found = _read(folder, entry, verify=verify, rejected=())
    if isinstance(found, Checkpoint):
        return found
    raise CheckpointError(f"{folder / entry.name} is not whole: {found}. Use another, or bring it back from a copy.")


def _read(folder: Path, entry: Entry, *, verify: bool, rejected: tuple[tuple[str, str], ...]) -> Checkpoint | str:
    """The checkpoint, or why it is not whole."""
    if damage := _damage(folder, entry, verify=verify):
        return damage
    path = folder / entry.name
    try:
        state = exact_json.loads((path / entries.STATE).read_bytes())
        files = {name.removesuffix(_SUFFIX): mapped(path / name) for name in entry.files if name.endswith(_SUFFIX)}
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot be read: {error}"
    return Checkpoint(entry.name, path, entry.number, entry.samples, entry.best, files, state, rejected)


def _damage(folder: Path, entry: Entry, *, verify: bool) -> str:
    """Sizes first, which costs nothing; then the sums, one thread a file."""
    damage = entries.damage(folder, entry, hashed=False)
    if damage or not verify:
        return damage
    each = [entry._replace(files={name: promised}) for name, promised in entry.files.items()]
    with ThreadPoolExecutor(max_workers=min(8, len(each))) as threads:
        return next(filter(None, threads.map(partial(entries.damage, folder), each)), "")


def _dangling(folder: Path, pointer: str) -> Iterator[tuple[str, str]]:
    """A pointer to a checkpoint that is gone is itself a finding; one that is absent is not: it is put right later."""
    try:
        name = (folder / pointer).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return
    if name not in names(folder):
        yield pointer, f"points to {name or 'nothing'}, which is not there"
