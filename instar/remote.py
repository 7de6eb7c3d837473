"""Packed data that lie elsewhere: `s3://bucket/packed`, `https://host/packed`, any address fsspec knows.

The index is fetched first and names the local folder by its content; shards follow one by one, each under a hidden
name, checked against the index, then renamed. The network is used by a process of its own: it has threads, and the
processes that read images are forks, which threads do not survive.

This is the only file that imports fsspec, and nothing is fetched unless an address was given.
"""

import fcntl
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from instar import atomic
from instar.errors import DataError

ORIGIN = "origin.json"
_NEEDS = {"s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}
_ABANDONED = 3600.0  # seconds after which nobody writes a file any more that nobody wrote to meanwhile
_AT_ONCE = 4  # files fetched at the same time


@dataclass(frozen=True)
class Wanted:
    """A file of packed data: its name, bytes and xxh3-128 ('' where nobody said)."""

    name: str
    size: int = -1
    xxh3: str = ""


def is_address(place: str | Path) -> bool:
    """Whether this is an address of another machine, `s3://…`, though a Path may have taken one of its slashes."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", os.fspath(place)) is not None


def address(place: str | Path) -> str:
    """The address with the slash that a Path took; any other path as it is."""
    text = os.fspath(place)
    return re.sub(r"^([a-z][a-z0-9+.-]+):/+", r"\1://", text) if is_address(text) else text


def cache_folder() -> Path:
    """Where Instar keeps what it can find again: INSTAR_CACHE, or instar below the user's cache folder.

    Where a home cannot be written, as in some jobs and containers, a folder of this user's below the temporary one.
    """
    if named := os.environ.get("INSTAR_CACHE"):
        return Path(named)
    with suppress(RuntimeError):  # nobody's home
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        if _can_be_made(base):
            return base / "instar"
    return Path(tempfile.gettempdir()) / f"instar-{os.getuid()}"


def _can_be_made(folder: Path) -> bool:
    there = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    return os.access(there, os.W_OK)


def here(place: str | Path, index: str, *, base: Path | None = None, most: int = 50 * 10**9) -> Path:
    """The local folder for packed data at an address, with their index in it and their shards still to come.

    index   name of the index there
    base    where such folders are; by default in the cache
    most    bytes that all of them together may take
    Raises DataError where the address cannot be reached, and names what to install where that is missing.
    """
    import xxhash

    base = base or cache_folder() / "packed"
    base.mkdir(parents=True, exist_ok=True)
    first = atomic.hidden(base / "index")
    try:
        _bring(address(place), base, [Wanted(index)], {index: first.name})
        folder = base / xxhash.xxh3_128_hexdigest(first.read_bytes())
        folder.mkdir(exist_ok=True)
        origin = {"address": address(place), "most": most}
        with atomic.writing(folder / ORIGIN, lasting=False) as file:
            file.write(json.dumps(origin).encode())
        first.replace(folder / index)
    finally:
        first.unlink(missing_ok=True)
    return folder


def is_here_only_in_part(folder: Path) -> bool:
    """Whether shards of this local folder are still to be fetched when they are wanted."""
    return (folder / ORIGIN).is_file()


def fetch(folder: Path, wanted: Sequence[Wanted], *, told: Callable[[int], None] = lambda done: None) -> None:
    """Bring files into the local folder, where they are not there yet; others that nobody used for long make room.

    told   how many bytes have come so far
    Raises DataError where one cannot be fetched, is not what the index says, or does not fit.
    """
    origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    with _alone(folder.parent):
        missing = [one for one in wanted if not _is_whole(folder / one.name, one.size)]
        if not missing:
            return
        _make_room(folder, missing, {one.name for one in wanted}, most=origin["most"])
        _bring(origin["address"], folder, missing, {}, told)


def located(folder: Path, wanted: Wanted) -> Path:
    """Where a file of packed data lies here, fetched now if it must be."""
    path = folder / wanted.name
    if not _is_whole(path, wanted.size):
        fetch(folder, [wanted])
    with suppress(OSError):
        os.utime(path)  # it was used just now
    return path


def fits(folder: Path, wanted: Sequence[Wanted]) -> bool:
    """Whether all of these may lie here at the same time."""
    most = int(json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["most"])
    return sum(one.size for one in wanted) <= most


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _make_room(folder: Path, missing: Sequence[Wanted], keep: set[str], *, most: int) -> None:
    """Remove the shards that were not used for longest, until those that are missing fit."""
    for part in folder.parent.glob("*/.*.part"):  # of a fetch that was killed, unless somebody writes it without a lock
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink()
    need = sum(one.size for one in missing)
    found = []
    for path in folder.parent.glob("*/*"):
        if path.suffix in (".tar", ".npy") and not (path.parent == folder and path.name in keep):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
    used = sum(size for _, size, _ in found) + sum(
        (folder / name).stat().st_size for name in keep if (folder / name).exists()
    )
    for _, size, path in sorted(found):
        if used + need <= most:
            return
        path.unlink(missing_ok=True)
        used -= size
    if used + need > most:
        raise DataError(
            f"{folder}: {need} more bytes are wanted at once, but all may take {most}. Allow more: cache=SIZE"
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process a folder at a time; the others wait, and find what it brought."""
    with open(folder / ".lock", "wb") as file:
        with suppress(OSError):  # a file system without locks: two may fetch the same, and no harm is done
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bring(
    there: str,
    folder: Path,
    wanted: Sequence[Wanted],
    names: dict[str, str],
    told: Callable[[int], None] = lambda done: None,
) -> None:
    """Fetch files in a process of its own. names: what they are called here, where that differs."""
    _must_be_installed(there)
    task = {"address": there, "folder": os.fspath(folder), "wanted": [asdict(one) for one in wanted], "names": names}
    with subprocess.Popen(
        [sys.executable, "-m", "instar.remote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout, "both are pipes"
        process.stdin.write(json.dumps(task))
        process.stdin.close()
        problem, done = "it ended without a word", 0
        for line in process.stdout:
            said = json.loads(line)
            problem = said.get("problem", "")
            done += said.get("bytes", 0)
            told(done)
        if process.wait() or problem:
            raise DataError(f"{there}: cannot be fetched: {problem}. Is the address right, and may you read it?")


def _must_be_installed(there: str) -> None:
    scheme = there.partition(":")[0]
    missing = [name for name in ("fsspec", _NEEDS.get(scheme, "fsspec")) if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(
            f"{there}: reading {scheme}:// needs {missing[0]}, which is not installed here. "
            f"Install it: pip install 'instar[remote]'"
        )


# --- the process of its own ----------------------------------------------------------------------------------------


def _serve() -> None:
    """Fetch what standard input says; one JSON line a file, or the problem."""
    from concurrent.futures import ThreadPoolExecutor

    import fsspec

    task = json.load(sys.stdin)
    try:
        system, root = fsspec.core.url_to_fs(task["address"])
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for size in threads.map(lambda one: _fetch_one(system, root, task, Wanted(**one)), task["wanted"]):
                print(json.dumps({"bytes": size}), flush=True)
    except Exception as error:  # whatever a driver raises, the user wants one sentence
        print(json.dumps({"problem": f"{type(error).__name__}: {error}"[:500]}), flush=True)


def _fetch_one(system: Any, root: str, task: dict[str, Any], wanted: Wanted) -> int:
    import xxhash

    if "/" in wanted.name or wanted.name.startswith("."):
        raise ValueError(f"{wanted.name!r} is no name of a shard")
    path = Path(task["folder"]) / task["names"].get(wanted.name, wanted.name)
    whole, size = xxhash.xxh3_128(), 0
    with system.open(f"{root.rstrip('/')}/{wanted.name}", "rb") as source, atomic.writing(path) as target:
        while block := source.read(1 << 23):
            whole.update(block)
            size += target.write(block)
        if wanted.size >= 0 and size != wanted.size:
            raise ValueError(f"{wanted.name} has {size} bytes there, but {wanted.size} were packed")
        if wanted.xxh3 and whole.hexdigest() != wanted.xxh3:
            raise ValueError(f"{wanted.name} is not what was packed: its xxh3 differs")
    return size


if __name__ == "__main__":
    _serve()
