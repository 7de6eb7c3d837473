"""Machine: cores and memory as this process may use them, shared memory, threads, and the terminal."""

import locale
import os
import sys
from pathlib import Path

from instar.engine.loading import cores
from instar.formats import size
from instar.job import Finding

_GIB = 1 << 30
_PLACE = "/dev/shm"  # noqa: S108 - the place itself is looked at
# A checkpoint is copied into shared memory before it is written; containers often have 64 MB of it.
_SHARED = _GIB
_MEMORY = 2 * _GIB


def look() -> list[Finding]:
    """Cores, memory, /dev/shm, thread settings, locale and terminal."""
    return [_cores(), _memory(), _shared_memory(), _threads(), _text()]


def _cores() -> Finding:
    there, allowed = os.cpu_count() or 1, cores.usable_cpus()
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    found = (
        f"{allowed} of {there} usable (affinity {bound}, control group {'the same' if allowed == bound else allowed})"
    )
    if allowed == 1 < there:
        return Finding("warning", "cores", found, "ask for more cores a task: one core reads images and trains in turn")
    return Finding("ok", "cores", found)


def _memory() -> Finding:
    facts = _meminfo()
    total, free = facts.get("MemTotal", 0), facts.get("MemAvailable", 0)
    limit = memory_limit()
    usable = min(free, limit) if limit else free
    found = f"{size(total)}, {size(free)} available" + (f", control group {size(limit)}" if limit else "")
    if not facts:
        return Finding("warning", "memory", "/proc/meminfo cannot be read", "ask for memory explicitly in jobs")
    if usable < _MEMORY:
        return Finding("warning", "memory", found, "end other programs, or ask for more memory")
    return Finding("ok", "memory", found)


def memory_limit(*, proc: Path = Path("/proc/self/cgroup"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the control group and those above it may use (v1 or v2); None without a limit."""
    limits = []
    for line in _lines(proc):
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = (cgroups, "memory.max") if not controllers else (cgroups / "memory", "memory.limit_in_bytes")
        folder = base / place.strip("/")
        for group in (folder, *folder.parents):
            limits += [int(text) for text in _lines(group / name) if text.isdigit()]
            if group == base:
                break
    # Version 1 writes a number near 2**63 for no limit.
    return min((limit for limit in limits if limit < 1 << 60), default=None)


def _shared_memory() -> Finding:
    try:
        told = os.statvfs(_PLACE)
    except OSError as error:
        do = "bind /dev/shm into the container, or ask the administrators"
        return Finding("error", _PLACE, f"cannot be used: {error.strerror}", do)
    total, free = told.f_blocks * told.f_frsize, told.f_bavail * told.f_frsize
    found = f"{size(total)}, {size(free)} free"
    if free < _SHARED:
        do = "give the container more (--shm-size=8g, or bind /dev/shm); remove what killed programs left there"
        return Finding("warning", _PLACE, found, do)
    return Finding("ok", _PLACE, found)


def _threads() -> Finding:
    given = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)}
    allowed = cores.usable_cpus()
    found = ", ".join(f"{name}={value}" for name, value in given.items()) or "OMP_NUM_THREADS is not set"
    for name, value in given.items():
        if not value.isdigit():
            return Finding("warning", "threads", found, f"unset {name}, or write a number")
        if int(value) > allowed:
            return Finding("warning", "threads", f"{found}, but {allowed} cores", f"export {name}={allowed}")
    return Finding("ok", "threads", found)


def _text() -> Finding:
    encoding = (sys.stdout.encoding if sys.stdout else None) or locale.getpreferredencoding(False)
    kind = f"terminal {os.environ.get('TERM') or 'unknown'}" if sys.stdout and sys.stdout.isatty() else "no terminal"
    found = f"{encoding.lower()}, {kind}"
    if encoding.lower().replace("-", "") != "utf8":
        return Finding("warning", "text", found, "export LC_ALL=C.UTF-8, so that names with accents can be shown")
    return Finding("ok", "text", found)


def _meminfo() -> dict[str, int]:
    """Bytes by name, as the kernel counts them."""
    pairs = [line.replace(":", " ").split() for line in _lines(Path("/proc/meminfo"))]
    return {words[0]: int(words[1]) * 1024 for words in pairs if len(words) > 1 and words[1].isdigit()}


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
