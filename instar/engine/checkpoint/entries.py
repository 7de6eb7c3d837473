"""What lies in a checkpoints folder, judged by the manifests alone. Standard library only: the writer uses it too."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

MANIFEST = "manifest.json"
STATE = "state.json"
PREFIX = "samples-"


class Entry(NamedTuple):
    """One checkpoint folder as its manifest describes it; number is -1 where the manifest cannot be read.

    files   name -> {"bytes", "sha256"}
    """

    name: str
    number: int = -1
    samples: int = -1
    best: bool = False
    files: Mapping[str, dict[str, Any]] = MappingProxyType({})


def find(folder: Path) -> list[Entry]:
    """All checkpoints of a folder: those without a readable manifest first, then the newest save first."""
    try:
        names = [item.name for item in folder.iterdir() if item.name.startswith(PREFIX) and item.is_dir()]
    except FileNotFoundError:
        return []
    found = [_entry(folder, name) for name in names]
    return sorted(found, key=lambda entry: (entry.number < 0, entry.number, entry.name), reverse=True)


def damage(folder: Path, entry: Entry, *, hashed: bool = True) -> str:
    """Why a checkpoint is not whole; '' when it is. Files that the manifest does not name are not looked at."""
    if entry.number < 0:
        return f"{MANIFEST} is missing or damaged"
    for name, promised in entry.files.items():
        path = folder / entry.name / name
        try:
            found = path.stat().st_size
            if found != promised["bytes"]:
                return f"{name} has {found} bytes, not {promised['bytes']}"
            if hashed and _sha256(path) != promised["sha256"]:
                return f"{name} has other contents than when it was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return ""


def seal(body: dict[str, Any]) -> bytes:
    """A manifest as text that carries its own sha256."""
    return json.dumps({**body, "seal": _sealed(body)}, indent=1).encode()


def _sealed(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _entry(folder: Path, name: str) -> Entry:
    try:
        body = json.loads((folder / name / MANIFEST).read_bytes())
        if body.pop("seal") != _sealed(body) or not all(map(_lies_within, body["files"])):
            return Entry(name)
        return Entry(name, body["number"], body["samples"], body["best"], body["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Entry(name)


def _lies_within(file: str) -> bool:
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
