"""Ranks: whether torch works here, sees the GPUs, and two processes can add numbers over gloo and NCCL.

In processes of their own: a broken torch may crash or hang, and must not take the other findings with it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from instar import outside
from instar.doctor import gpus
from instar.job import Finding

_MARK = "instar-doctor "


def look(driver: Callable[[], gpus.Driver | None], *, seconds: float) -> list[Finding]:
    """Start two processes and tell what they said in so many seconds.

    driver   asked when they have ended: what the driver's own tool sees
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="instar-doctor-") as meeting:
        processes = [_start(rank, Path(meeting) / "store") for rank in range(2)]
        told = [
            outside.answer(one, seconds=begun + seconds - time.monotonic(), begun=begun, limit=seconds)
            for one in processes
        ]
    return findings(told, driver())


def _start(rank: int, store: Path) -> "subprocess.Popen[bytes]":
    # -P: a file called torch.py in this folder is none of our business.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "instar.doctor.together", str(rank), str(store)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def findings(told: list[outside.Answer], driver: gpus.Driver | None) -> list[Finding]:
    """torch, gloo and, with GPUs, NCCL."""
    facts = _facts(told[0].out)
    slow = _slow(facts, told)
    if slow:
        return [slow]
    if "torch" not in facts:
        why = told[0].problem or f"ended with {told[0].code}: {_last(told[0].error)}"
        return [Finding("error", "torch", f"does not work: {why}", "install torch anew, in a clean environment")]
    found = [_torch(facts["torch"], driver)]
    found.append(_sum("gloo", facts, told, "export GLOO_SOCKET_IFNAME=eth0 (see `ip -br address`)"))
    if facts["torch"]["devices"]:
        do = "export NCCL_DEBUG=INFO and try again; often NCCL_SOCKET_IFNAME names the wrong interface"
        found.append(_sum("nccl", facts, told, do))
    return found


def _slow(facts: dict[str, Any], told: list[outside.Answer]) -> Finding | None:
    """What to say where importing torch took the time that the rest would have needed."""
    took = float(facts["torch"]["seconds"]) if "torch" in facts else told[0].seconds
    if not told[0].problem or "gloo" in facts or "started" not in facts or took < told[0].seconds / 2:
        return None
    do = "try again, now that files are cached, with seconds=60; an environment in a container image loads faster"
    return Finding("warning", "torch", f"importing it takes {took:.0f} s or more, so nothing else was tried", do)


def _torch(facts: dict[str, Any], driver: gpus.Driver | None) -> Finding:
    built = f"CUDA {facts['cuda']}" if facts["cuda"] else f"ROCm {facts['hip']}" if facts["hip"] else "the CPU only"
    sees = f"{len(facts['devices'])} x {', '.join(dict.fromkeys(facts['devices']))}" if facts["devices"] else "no GPU"
    found = f"{facts['version']}, built for {built}, sees {sees}"
    if not driver or driver.problem or not driver.names or len(facts["devices"]) == len(driver.names):
        return Finding("ok", "torch", found)
    there = f"{found}, but {driver.tool} sees {len(driver.names)}"
    limited = [name for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES") if name in os.environ]
    if limited:
        return Finding("ok", "torch", f"{there} ({limited[0]} is set)")
    if not facts["cuda"] and not facts["hip"]:
        return Finding("error", "torch", there, "install torch's build for GPUs instead of that for the CPU")
    if driver.cuda and facts["cuda"] and _major(facts["cuda"]) > _major(driver.cuda):
        do = f"the driver runs CUDA up to {driver.cuda}: install torch's build for CUDA {_major(driver.cuda)}"
        return Finding("error", "torch", there, do)
    return Finding("error", "torch", there, f"ask torch why: {sys.executable} -c 'import torch; torch.zeros(1).cuda()'")


def _sum(backend: str, facts: dict[str, Any], told: list[outside.Answer], do: str) -> Finding:
    what = f"{backend} all-reduce"
    one = facts.get(backend)
    if one is None:
        why = told[0].problem or _last(told[0].error) or _last(told[1].error)
        return Finding("error", what, f"two processes here did not meet: {why or 'no word from them'}", do)
    if not one["right"]:
        return Finding("error", what, "gave a wrong sum", "this node computes wrongly: tell the administrators")
    found = f"{one['ranks']} process{'es' if one['ranks'] > 1 else ''}, 4 MB in {1000 * one['seconds']:.1f} ms"
    return Finding("ok", what, f"{found}{' over ' + one['interface'] if one['interface'] else ''}")


def _facts(output: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith(_MARK):
            facts |= json.loads(line.removeprefix(_MARK))
    return facts


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _major(version: str) -> int:
    first = version.partition(".")[0]
    return int(first) if first.isdigit() else 0
