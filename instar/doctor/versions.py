"""Versions: Python, Instar, and whether each package it needs is there in a release that will do."""

import platform
import re
import sys
from importlib import metadata
from pathlib import Path

import instar
from instar.job import Finding

_OLDEST = (3, 11)
_PART = re.compile(r"(>=|<=|==|!=|<|>)\s*([0-9][0-9.]*)")


def look() -> list[Finding]:
    """Instar, Python, torch, and the rest in one line."""
    return [_python(), *_packages()]


def _python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < _OLDEST:
        return Finding("error", "python", found, "Instar needs Python 3.11 or newer: load a newer module")
    return Finding("ok", "python", found)


def _packages() -> list[Finding]:
    wanted = [line for line in metadata.requires("instar") or [] if "extra ==" not in line] if _installed() else []
    wrong = [sentence for line in wanted if (sentence := unmet(line))]
    torch = f"torch {_version('torch') or 'not installed'}"
    found = f"{instar.__version__}, {torch}, {len(wanted)} packages as needed"
    if wrong:
        found = f"{instar.__version__}, {torch}; {', '.join(wrong)}"
        return [Finding("error", "instar", found, "install into an environment of its own: pip install instar")]
    if not wanted:  # run from its source, without having been installed
        return [Finding("ok", "instar", f"{instar.__version__}, {torch}, from {Path(instar.__file__).parent}")]
    return [Finding("ok", "instar", found)]


def unmet(requirement: str) -> str:
    """What is wrong with an installed package, or nothing: `torch 2.3 instead of >=2.10,<2.16`."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    have = _version(name)
    bounds = _PART.findall(requirement.partition(";")[0])
    said = ",".join(relation + version for relation, version in bounds)
    if have is None:
        return f"{name} is not installed ({said or 'any release'})"
    fits = all(_holds(_numbers(have), relation, _numbers(version)) for relation, version in bounds)
    return "" if fits else f"{name} {have} instead of {said}"


def _holds(have: tuple[int, ...], relation: str, wanted: tuple[int, ...]) -> bool:
    length = max(len(have), len(wanted))
    a, b = (numbers + (0,) * (length - len(numbers)) for numbers in (have, wanted))
    return {">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, "<": a < b, ">": a > b}[relation]


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version; what follows them (`rc1`, `+cu128`) does not matter here."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _installed() -> bool:
    return _version("instar") is not None
