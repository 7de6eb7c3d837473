"""Staging: packed data close to where they are read: a copy on the node's own disk or in its memory, or a fetched one.

One process of a node copies, the others wait and use the same copy. It is named by the content of the index, so the
next job finds it again; nobody removes it but the node. Where it does not fit, the data are read where they are, and
that is said.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from instar import atomic, packed, remote
from instar.errors import DataError
from instar.formats import size as shown
from instar.machine import Machine
from instar.packed import About, Shard
from instar.remote import Wanted

_BLOCK = 1 << 23
_SPARE = 1 << 26  # bytes to leave free
_MEMORY = Path("/dev/shm")  # noqa: S108 - its very use

Told = Callable[[str], None]


def near(
    root: Path, machine: Machine, *, files: pa.ChunkedArray | None = None, told: Told = lambda sentence: None
) -> Path:
    """The folder to read data from: `root` itself, or a copy of packed data that is closer.

    files   the sources that this node reads, where that is not all; shards without them are read where they are
    told    told, one sentence each, what was done and why
    """
    if remote.is_address(root):
        return _fetched(root, machine, told)
    if machine.stage is None:
        return root
    if not packed.is_packed(root):
        told(f"stage={machine.stage} copies packed data, but {root} is not packed: instar pack RECIPE to=FOLDER")
        return root
    return staged(root, machine.stage, files=files, told=told)


def staged(
    folder: Path,
    to: Path | Literal["auto"],
    *,
    files: pa.ChunkedArray | None = None,
    told: Told = lambda sentence: None,
    environ: Mapping[str, str] = os.environ,
) -> Path:
    """A copy of packed data below `to`, made now or found there; `folder` itself where there is no room for one.

    files   the sources whose shards are copied; None for all
    """
    about = packed.read_about(folder)
    wanted = set(range(len(about.files))) if files is None else _files_with(folder, about, files)
    need = sum(file.size for n, file in enumerate(about.files) if n in wanted) + (folder / packed.INDEX).stat().st_size
    name = packed.xxh3_of(folder / packed.INDEX)
    if len(wanted) < len(about.files):
        name += "-" + xxhash.xxh3_64_hexdigest(str(sorted(wanted)).encode())
    reasons = []
    for base in _candidates(folder, environ) if to == "auto" else [to]:
        place = base / f"instar-{os.getuid()}"
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if place.stat().st_uid != os.getuid():
                raise OSError(f"{place} belongs to somebody else")
            with _alone(place / f".{name}.lock"):
                target = place / name
                if _is_whole(target, about, wanted):
                    told(f"reads the copy in {target}")
                    return target
                if reason := _no_room(base, need):
                    reasons.append(reason)
                    continue
                part = "" if len(wanted) == len(about.files) else f" ({len(wanted)} of {len(about.files)} files)"
                told(f"copies {shown(need)}{part} to {target}")
                _copy(folder, target, about, wanted, told)
                return target
        except OSError as error:
            reasons.append(f"{base}: {error.strerror or error}")
    told(f"reads packed data where they are, in {folder}: {'; '.join(reasons) or 'no faster place was found'}")
    return folder


def _candidates(folder: Path, environ: Mapping[str, str]) -> list[Path]:
    """Places of this node, the job's own disk first, that are not where the data are anyway."""
    named = [environ[name] for name in ("SLURM_TMPDIR", "LOCAL_SCRATCH", "PBS_JOBFS", "TMPDIR") if environ.get(name)]
    found = []
    for place in (*map(Path, named), _MEMORY):
        with contextlib.suppress(OSError):
            if place.is_dir() and place.stat().st_dev != folder.stat().st_dev:
                found.append(place)
    return found


def _no_room(base: Path, need: int) -> str:
    free = shutil.disk_usage(base).free
    if base == _MEMORY:
        free = min(free, _free_memory() // 2)  # the training wants some too
    return "" if need + _SPARE <= free else f"{base} has {shown(free)} to give, and {shown(need)} are wanted"


def _free_memory() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def _files_with(folder: Path, about: About, files: pa.ChunkedArray) -> set[int]:
    """The numbers of the shards that these sources lie in, or arrays of them, and of what is beside."""
    index = packed.read_index(folder)[0]
    sources, shard_N = index["source"], index["shard"].to_numpy()
    if "" not in pc.unique(index["part"]).to_pylist():
        sources = pc.replace_substring_regex(sources, r":[^:]*$", "")
    keys = index["key"].filter(pc.is_in(sources, value_set=files.combine_chunks()))
    here_N = pc.is_in(index["key"], value_set=keys.combine_chunks()).to_numpy()
    return {*np.unique(shard_N[here_N]).tolist(), *range(len(about.shards), len(about.files))}


def _is_whole(target: Path, about: About, wanted: set[int]) -> bool:
    try:
        return (
            all(
                (target / _name(n, file)).stat().st_size == file.size
                for n, file in enumerate(about.files)
                if n in wanted
            )
            and (target / packed.INDEX).is_file()
        )
    except OSError:
        return False


def _name(number: int, shard: Shard) -> str:
    """What a shard is called in a copy: one that was indexed in place has a path for a name."""
    return f"shard-{number:06d}.tar" if "/" in shard.name else shard.name


def _copy(folder: Path, target: Path, about: About, wanted: set[int], told: Told) -> None:
    """Copy everything that is wanted under a hidden name, then let it be seen. The rest stays where it is."""
    for old in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(old, ignore_errors=True)  # of one that was killed: we are alone here
    part = atomic.hidden(target)
    try:
        part.mkdir()
        told_at, done, total = 0, 0, sum(file.size for n, file in enumerate(about.files) if n in wanted)
        for number, shard in enumerate(about.files):
            if number not in wanted:
                continue
            _copy_one(folder / shard.name, part / _name(number, shard), shard)
            done += shard.size
            if done * 4 // total > told_at and done < total:
                told_at = done * 4 // total
                told(f"copied {shown(done)} of {shown(total)}")
        names = tuple(
            _name(number, shard) if number in wanted else os.fspath((folder / shard.name).absolute())
            for number, shard in enumerate(about.shards)
        )
        if names == tuple(shard.name for shard in about.shards):
            shutil.copyfile(folder / packed.INDEX, part / packed.INDEX)
        else:
            table, about = packed.read_index(folder)
            moved = tuple(replace(shard, name=name) for shard, name in zip(about.shards, names, strict=True))
            packed.write_index(part / packed.INDEX, table, replace(about, shards=moved))
        if target.exists():  # what was there is not whole
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _copy_one(source: Path, target: Path, shard: Shard) -> None:
    """Copy a shard; raises DataError where it is not what was packed."""
    whole, size = xxhash.xxh3_128(), 0
    with open(source, "rb", buffering=0) as reading, open(target, "wb", buffering=0) as writing:
        while block := reading.read(_BLOCK):
            whole.update(block)
            view = memoryview(block)
            while view:
                done = writing.write(view)
                view, size = view[done:], size + done
    if size != shard.size or (shard.xxh3 and whole.hexdigest() != shard.xxh3):
        raise DataError(f"{source}: is not what was packed ({size} bytes, {shard.size} then). Copy or pack it again.")


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    with open(file, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a node's own disk or memory has locks
        yield


def _fetched(root: Path, machine: Machine, told: Told) -> Path:
    """The local folder of packed data that lie elsewhere, with all shards in it that fit."""
    base = None if machine.stage in (None, "auto") else Path(str(machine.stage)) / f"instar-{os.getuid()}"
    folder = remote.here(root, packed.INDEX, base=base, most=machine.cache)
    about = packed.read_about(folder)
    wanted = [Wanted(shard.name, shard.size, shard.xxh3) for shard in about.shards]
    total = sum(one.size for one in wanted)
    if remote.fits(folder, wanted):
        told(f"fetches {shown(total)} from {remote.address(root)} to {folder}, where they are not there yet")
        remote.fetch(folder, wanted)
    else:
        told(
            f"{remote.address(root)} holds {shown(total)}, more than cache={shown(machine.cache)}: its files are "
            f"fetched again and again while they are read"
        )
    return folder
