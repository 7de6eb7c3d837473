"""Where a result comes from: versions, code, machine, command. One record for every start of a run."""

import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import instar
from instar.readers import _jpeg

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "pyarrow", "scikit-learn", "safetensors", "pydantic")


def provenance() -> dict[str, Any]:
    """Plain facts, JSON-ready. Nothing of the environment but scheduler ids: it may hold secrets."""
    import torch

    return {
        "time": round(time.time(), 3),
        "command": shlex.join(["instar", *sys.argv[1:]]),
        "folder": str(Path.cwd()),
        "instar": instar.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "decoder": _jpeg.decoder(),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "git": git_state(Path.cwd()),
        "job": {
            name: os.environ[name]
            for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "PBS_JOBID")
            if name in os.environ
        },
    }


def changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What may show in the last digits where it differs between two starts: name -> what it was, what it is."""
    named = {
        name: (before[name], now[name])
        for name in ("instar", "python", "decoder", "processor", "gpus")
        if name in before
    } | {name: (version, now["packages"].get(name)) for name, version in before.get("packages", {}).items()}
    return {name: (old, new) for name, (old, new) in named.items() if old != new}


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and whether files differ from it, where `folder` is in a git checkout; else nothing."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str:
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
