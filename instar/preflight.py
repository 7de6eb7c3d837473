"""Preflight: what would make a job fail after it has waited, looked at before it is queued. Seconds, no torch.

Each check answers with findings: what was looked at, what was found, and for anything that is not well what to do.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from instar import lock, quota
from instar.errors import ConfigError
from instar.experiment import Data, Experiment
from instar.formats import clock, count, one_line, size
from instar.job import Finding
from instar.remote import address, is_address
from instar.run import Run

Level = Literal["ok", "warning", "error"]
_RESERVE = 3  # times the longest save, as engine/deadline.py keeps it
_BESIDES = 30.0  # seconds


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level among them; ok where there are none."""
    order: tuple[Level, ...] = ("ok", "warning", "error")
    return max((one.level for one in findings), key=order.index, default="ok")


def experiment(wanted: Experiment, recipe: Path, *, fetch: str) -> list[Finding]:
    """Whether data and weights are here.

    recipe   the file or folder it was read from, beside which the lock stands
    fetch    the command that gets missing weights
    """
    return [*data(wanted), *weights(wanted, lock.beside(recipe), fetch=fetch)]


def folder(run: Path, *, bytes_needed: int = 0, files_needed: int = 200) -> list[Finding]:
    """Whether a run folder, which need not be there yet, can be written and filled."""
    written = writable(run)
    return written if worst(written) == "error" else [*written, *space(run, bytes_needed, files_needed)]


def data(wanted: Experiment) -> list[Finding]:
    """Whether the files an experiment names can be read."""
    return readable_data(wanted.data)


def readable_data(wanted: Data) -> list[Finding]:
    """Whether the files that images are read from can be read."""
    index = wanted.index
    named = [(f"data.{name}", getattr(wanted, name)) for name in ("root", "table", "manifest", "exclude")]
    named += [(f"data.index.{name}", path) for name, path in dict(index).items()] if index else []
    found = []
    for name, path in named:
        if path is not None and is_address(path):
            what = f"{address(path)} lies elsewhere, and compute nodes often reach nothing outside"
            found.append(Finding("warning", name, what, "copy it to the site's storage, if they do not"))
        elif path is not None:
            found.append(_readable(name, Path(path)))
    return found


def weights(wanted: Experiment, lock_file: Path, *, fetch: str) -> list[Finding]:
    """Whether pretrained weights are in the caches, as the lock names them."""
    try:
        missing = lock.missing(wanted, lock_file, command=fetch)
    except ConfigError as error:
        return [Finding("error", "weights", "; ".join(error.mistakes), f"remove {lock_file}, then {fetch}")]
    if missing:
        return [Finding("error", "weights", one.what, one.do) for one in missing]
    return [] if lock.asked(wanted) is None else [Finding("ok", "weights", f"as {lock_file} names them")]


def writable(run: Path) -> list[Finding]:
    """Whether files can be made in a folder, or where it would be made."""
    place = quota.existing(run)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".instar-") as file:
            file.write(b"x")
    except OSError as error:
        return [
            Finding(
                "error",
                f"folder {one_line(str(place))}",
                f"cannot be written: {error.strerror}",
                "choose another one: runs=FOLDER",
            )
        ]
    return [Finding("ok", f"folder {one_line(str(place))}", "can be written")]


def space(run: Path, bytes_needed: int = 0, files_needed: int = 200) -> list[Finding]:
    """Bytes and files that are left for a folder: on its file system, and by quota where one is told."""
    place = quota.existing(run)
    name = one_line(str(place))
    try:
        told = os.statvfs(place)
    except OSError as error:
        return [Finding("error", f"disk of {name}", f"cannot be asked: {error.strerror}", "choose another runs=FOLDER")]
    free, share = told.f_bavail * told.f_frsize, told.f_bavail / max(1, told.f_blocks)
    files = told.f_favail if told.f_files else None  # file systems without a fixed number of files say 0 of 0
    found = [_room(f"disk of {name}", free, files, bytes_needed, files_needed, tight=share < 0.02)]
    mine = quota.of(place)
    if mine is not None:
        left, limit = mine.bytes_left, mine.bytes_limit
        tight = left is not None and limit is not None and left < 0.05 * limit
        found.append(_room(f"quota of {name}", left, mine.files_left, bytes_needed, files_needed, tight=tight))
    return found


def saves(run: Run, lead: float) -> list[Finding]:
    """Whether a warning so many seconds before the limit leaves time to save, by the longest save seen so far."""
    longest = max((_seconds(event) for event in run.events() if event.get("event") == "saved"), default=None)
    if longest is None:
        return []
    needed = _RESERVE * longest + _BESIDES
    what, found = (
        "time to save",
        f"the longest save took {longest:.1f} s, the warning comes {clock(lead)} before the end",
    )
    if lead < longest:
        return [Finding("error", what, found, f"set lead to {_minutes(needed)} or more")]
    if lead < needed:
        return [Finding("warning", what, found, f"set lead to {_minutes(needed)} or more")]
    return [Finding("ok", what, found)]


def _room(what: str, free: int | None, files: int | None, needed: int, files_needed: int, *, tight: bool) -> Finding:
    """How much is left, against how much is needed; None is no limit."""
    told = [f"{size(free)} free" if free is not None else "no limit of bytes"]
    told += [f"{count(files)} files"] if files is not None else []
    found = ", ".join(told)
    if (free is not None and free < needed) or (files is not None and files < files_needed):
        wanted = f"{size(needed)} and {count(files_needed)} files are needed"
        return Finding("error", what, f"{found}, but {wanted}", "make room, or choose another one: runs=FOLDER")
    if tight or (files is not None and files < 10 * files_needed):
        return Finding("warning", what, found, "make room before it is full: a save that fails ends the training")
    return Finding("ok", what, found)


def _readable(name: str, path: Path) -> Finding:
    shown = one_line(str(path))
    if not path.exists():
        near = quota.existing(path)
        return Finding("error", name, f"{shown} does not exist (but {one_line(str(near))} does)", f"mend {name}")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return Finding("error", name, f"{shown} may not be read by you", f"ask its owner, or mend {name}")
    return Finding("ok", name, shown)


def _seconds(event: dict[str, Any]) -> float:
    value = event.get("seconds", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60) + 1} min"
