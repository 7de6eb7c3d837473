"""Quota: how much of what one may write is left, as `lfs quota` and `quota` tell it. Standard library only."""

import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instar import outside

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtTpPeE]?)i?[bB]?\*?$")
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


@dataclass(frozen=True)
class Quota:
    """What is used and allowed on one file system, in bytes and files; None where it is unlimited or unknown."""

    filesystem: str
    bytes_used: int
    bytes_limit: int | None
    files_used: int
    files_limit: int | None

    @property
    def bytes_left(self) -> int | None:
        return None if self.bytes_limit is None else max(0, self.bytes_limit - self.bytes_used)

    @property
    def files_left(self) -> int | None:
        return None if self.files_limit is None else max(0, self.files_limit - self.files_used)


def of(folder: Path, *, seconds: float = 3.0) -> Quota | None:
    """The quota that holds where a folder is; None where nobody here can say.

    Lustre is asked about the folder itself, for its user, its group and its project; what leaves least is what holds.
    `quota` lists file systems; of those the one that the folder lies under.
    """
    place = existing(folder)
    if shutil.which("lfs") and (rows := list(_on_lustre(place, seconds))):
        return _tightest(rows)
    if shutil.which("quota"):
        told = outside.ask(["quota", "-w", "-s", "-p"], seconds=seconds)
        # Its exit code is 1 where a limit is exceeded, and then its answer matters most.
        return _fitting(list(parse(told.out)), place)
    return None


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there: where it would be made."""
    path = path.expanduser().absolute()
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))


def parse(text: str) -> Iterator[Quota]:
    """The lines of `quota` and `lfs quota` that have numbers; anything else is passed over.

    Both write: file system, used, soft limit, hard limit, grace, files, soft limit, hard limit, grace. A long name of a
    file system stands on a line of its own. The soft limit counts where there is one: beyond it time runs out.
    """
    name = ""
    for line in text.splitlines():
        words = [word.strip("[]") for word in line.split()]  # Lustre brackets what it is not certain of
        if len(words) == 1 and (words[0].startswith("/") or ":" in words[0]):
            name = words[0]
            continue
        if words and not _SIZE.match(words[0]):
            name, words = words[0], words[1:]
        # Between the two halves stands the grace; without one a dash, a 0, or in plain `quota` nothing at all.
        blocks, rest = words[:3], words[3:]
        files = rest[1:4] if len(rest) > 4 or (rest and not _SIZE.match(rest[0])) else rest[:3]
        if len(files) == 3 and all(_SIZE.match(word) for word in (*blocks, *files)):
            used, limit = _halves(blocks, plain=1024, step=1024)
            files_used, files_limit = _halves(files, plain=1, step=1000)
            yield Quota(name, used, limit, files_used, files_limit)
        name = "" if words else name


def _on_lustre(place: Path, seconds: float) -> Iterator[Quota]:
    """The quotas of the user, of the folder's group and of its project, as far as they are told in time."""
    whose = [("-u", os.getuid()), ("-g", place.stat().st_gid)]
    project = outside.ask(["lfs", "project", "-d", str(place)], seconds=seconds)
    # "  1234 P /folder"; 0 where the folder belongs to no project, an error where the file system knows none.
    number = project.out.split()[0] if project.good and project.out.split() else ""
    if number.isdecimal() and int(number) > 0:
        whose.append(("-p", int(number)))
    for flag, owner in whose:
        told = outside.ask(["lfs", "quota", "-h", flag, str(owner), str(place)], seconds=seconds)
        if told.code is None:
            return  # a file system that does not answer once will not answer twice
        yield from list(parse(told.out))[:1] if told.good else []


def _tightest(rows: Sequence[Quota]) -> Quota:
    """The fewest bytes that are left, and the fewest files, be they of one quota or of two."""
    by_bytes = min(rows, key=lambda row: math.inf if row.bytes_left is None else row.bytes_left)
    by_files = min(rows, key=lambda row: math.inf if row.files_left is None else row.files_left)
    return replace(by_bytes, files_used=by_files.files_used, files_limit=by_files.files_limit)


def _fitting(rows: list[Quota], place: Path) -> Quota | None:
    """The row of the file system that the folder lies on; None where none of them is."""
    device = _device_of(place)
    return next((row for row in rows if row.filesystem and row.filesystem == device), None)


def _device_of(place: Path) -> str:
    """What is mounted where a folder lies, as /proc/mounts names it."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    resolved = str(place.resolve())
    above = [(point, device) for device, point, *_ in mounts if f"{resolved}/".startswith(f"{point.rstrip('/')}/")]
    return max(above, default=("", ""), key=lambda pair: len(pair[0]))[1]


def _halves(words: list[str], *, plain: int, step: int) -> tuple[int, int | None]:
    """What is used, and the soft limit or else the hard one; 0 is none."""
    used, soft, hard = (_number(word, plain, step) for word in words)
    return used, soft or hard or None


def _number(word: str, plain: int, step: int) -> int:
    """A number in bytes or files: a plain one counts `plain` each, a letter stands for powers of `step`."""
    found = _SIZE.match(word)
    assert found, word
    power = _UNITS[found[2].lower()]
    return int(float(found[1]) * (step**power if power else plain))
