"""GPUs: what the driver's own tool sees. Whether torch sees the same is asked with the ranks."""

import os
import re
import shutil
from dataclasses import dataclass

from instar import outside
from instar.job import Finding

_SECONDS = 4.0
_CUDA = re.compile(r"CUDA Version:\s*([0-9.]+)")


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi or rocm-smi says.

    cuda      newest CUDA that the driver can run, as text; empty where it is not told
    problem   why it cannot say anything
    """

    tool: str
    names: tuple[str, ...] = ()
    version: str = ""
    cuda: str = ""
    problem: str = ""


def look(found: Driver | None) -> list[Finding]:
    """One line: which GPUs the driver sees."""
    if found is None:
        return [Finding("ok", "driver", "neither nvidia-smi nor rocm-smi on PATH: no GPU here")]
    if found.problem:
        do = f"run {found.tool} by hand; if it fails too, this node's driver is broken: tell the administrators"
        return [Finding("error", "driver", f"{found.tool} {found.problem}", do)]
    told = f"{len(found.names)} x {', '.join(dict.fromkeys(found.names))}"
    told += f", driver {found.version}" if found.version else ""
    told += f", CUDA up to {found.cuda}" if found.cuda else ""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [Finding("ok", "driver", told + (f", CUDA_VISIBLE_DEVICES={shown}" if shown is not None else ""))]


def driver() -> Driver | None:
    """What the driver's tool says; None where there is no such tool."""
    if shutil.which("nvidia-smi"):
        return _nvidia()
    return _amd() if shutil.which("rocm-smi") else None


def _nvidia() -> Driver:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    told = outside.ask(query, seconds=_SECONDS)
    rows = [[cell.strip() for cell in line.split(",")] for line in told.out.splitlines() if line.strip()]
    if not told.good or not rows or any(len(row) != 2 for row in rows):
        return Driver("nvidia-smi", problem=_problem(told))
    cuda = _CUDA.search(outside.ask(["nvidia-smi"], seconds=_SECONDS).out)
    return Driver("nvidia-smi", tuple(row[0] for row in rows), rows[0][1], cuda[1] if cuda else "")


def _amd() -> Driver:
    told = outside.ask(["rocm-smi", "--showproductname", "--csv"], seconds=_SECONDS)
    rows = [line.split(",") for line in told.out.splitlines() if line.startswith("card")]
    if not told.good or not rows:
        return Driver("rocm-smi", problem=_problem(told))
    return Driver("rocm-smi", tuple(row[1].strip() if len(row) > 1 else row[0] for row in rows))


def _problem(told: outside.Answer) -> str:
    """Why an answer is of no use, in one short line."""
    if told.problem:
        return told.problem
    said = next((line.strip() for line in (told.error + "\n" + told.out).splitlines() if line.strip()), "nothing")
    return f"ended with {told.code} and said: {said[:120]!r}"
