"""Tasks: which arrays of which HDF5 and NetCDF files are converted or packed, and what each becomes."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from instar import fields
from instar.engine.packing.sources import Sources, of_arrays
from instar.errors import DataError

_TRIED = 16  # files of which one must be readable
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Task:
    """One array of one file, and the file it becomes, both below their folders.

    whole   all of the file as it is instead: it holds other arrays than the others do, such as statistics of them
    """

    source: str
    array: str
    output: str
    whole: bool = False


def tasks(root: Path, arrays: Sequence[str] = ()) -> list[Task]:
    """What there is to convert below a folder, or in one file.

    arrays   names of the arrays to take; by default all that most files hold
    Files whose names differ in digits only hold the same, so one of them is looked at. Those that hold none of the
    arrays are taken as they are. Raises DataError where there is nothing.
    """
    files = _files(root)
    kinds = _kinds(root, files)
    names = [name.strip("/") for name in arrays] or list(_commonest(kinds, files))
    if not names:
        raise DataError(f"{files[0]}: holds no array of numbers. Name another folder.")
    known = any(set(held) & set(names) for held in kinds.values())
    tails = [name.rpartition("/")[2] for name in names]
    short = len(set(tails)) == len(tails)
    made = []
    for file in files:
        held = kinds[_shape(file)]
        if known and held and not set(held) & set(names):
            made.append(Task(file, "", file, whole=True))
            continue
        stem = file.rpartition(".")[0] if "." in file.rpartition("/")[2] else file
        for name, tail in zip(names, tails, strict=True):
            middle = tail if short else name.replace("/", ".")
            made.append(Task(file, name, f"{stem}.{middle}.npy" if len(names) > 1 else f"{stem}.npy"))
    _all_different(made)
    return made


def sources(root: Path, todo: Sequence[Task]) -> Sources:
    """The same tasks as sources to pack: one sample a file, one member an array."""
    arrays, numbers = [task for task in todo if not task.whole], dict[str, int]()
    names = [f"{task.source}:{task.array}" for task in arrays]
    size_N, changed_N = of_arrays(root, names)
    many = len({task.array for task in arrays}) > 1
    return Sources(
        root,
        "field",
        names,
        at_N=np.zeros(len(names), np.int64),
        size_N=size_N,
        changed_N=changed_N,
        keys=[numbers.setdefault(task.source, len(numbers)) for task in arrays],
        parts=[task.output.removesuffix(".npy").rpartition(".")[2] if many else "" for task in arrays],
        beside=[at(root, task.source) for task in todo if task.whole],
    )


def _files(root: Path) -> list[str]:
    if root.is_file():
        return [root.name]
    if not root.is_dir():
        raise DataError(f"{root}: there is no such file or folder. Name what holds the HDF5 or NetCDF files.")
    found = []
    for above, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(fields.ENDINGS) and not name.startswith("."):
                found.append(os.path.relpath(f"{above}/{name}", root))
    if not found:
        raise DataError(
            f"{root}: no {', '.join(fields.ENDINGS)} file is below this folder. Name the one that has some."
        )
    return found


def _kinds(root: Path, files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What files of each shape of name hold; nothing where none of the first of them can be read."""
    alike: dict[str, list[str]] = {}
    for file in files:
        alike.setdefault(_shape(file), []).append(file)
    return {shape: _arrays_of_first(root, some) for shape, some in alike.items()}


def _commonest(kinds: dict[str, tuple[str, ...]], files: Sequence[str]) -> tuple[str, ...]:
    """The arrays that most files hold."""
    counts = Counter(kinds[_shape(file)] for file in files)
    return max(counts, key=lambda names: (bool(names), counts[names]))


def _shape(file: str) -> str:
    """A file's name without what numbers it."""
    return _DIGITS.sub("0", file)


def _arrays_of_first(root: Path, files: Sequence[str]) -> tuple[str, ...]:
    for file in files[:_TRIED]:
        with suppress(DataError):
            return tuple(one.name for one in fields.fields(at(root, file)))
    return ()


def at(root: Path, source: str) -> Path:
    """The file of a task, below a folder or that file itself."""
    return root if root.is_file() else root / source


def _all_different(made: Sequence[Task]) -> None:
    seen: dict[str, Task] = {}
    for task in made:
        other = seen.setdefault(task.output, task)
        if other is not task:
            raise DataError(
                f"{task.source} and {other.source} would both become {task.output}. Convert them into two folders."
            )
