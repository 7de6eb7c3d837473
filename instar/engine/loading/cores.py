"""Cores: how many CPUs this process may really use. A cluster or a container gives fewer than the machine has."""

import math
import os
from pathlib import Path


def usable_cpus(*, proc: Path = Path("/proc/self/cgroup"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs this process may use: its affinity, and the quota of its control group (v1 or v2); at least 1.

    `os.cpu_count` is no answer: it counts the machine's.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(proc, cgroups))))


def _quota(proc: Path, cgroups: Path) -> float:
    """CPUs the control group and those above it may use; infinity without a limit."""
    least = math.inf
    for line in _lines(proc):
        _, controllers, place = line.split(":", 2)
        if not controllers:  # version 2
            base, read = cgroups, _version_2
        elif "cpu" in controllers.split(","):
            base, read = cgroups / controllers, _version_1
            base = base if base.is_dir() else cgroups / "cpu"
        else:
            continue
        folder = base / place.strip("/")
        # Inside a container the path is that of the host and may not exist here: then the mount itself is the group.
        for group in (folder, *folder.parents):
            if group.is_dir():
                least = min(least, read(group))
            if group == base:
                break
    return least


def _version_2(group: Path) -> float:
    words = " ".join(_lines(group / "cpu.max")).split()
    return _ratio(words[0], words[1]) if len(words) == 2 else math.inf


def _version_1(group: Path) -> float:
    quota, period = _lines(group / "cpu.cfs_quota_us"), _lines(group / "cpu.cfs_period_us")
    return _ratio(quota[0], period[0]) if quota and period else math.inf


def _ratio(quota: str, period: str) -> float:
    try:
        value = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf
    return value if value > 0 else math.inf  # -1: no limit


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
