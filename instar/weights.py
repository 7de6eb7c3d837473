"""Weights: the files that a pretrained model starts from, and where they lie here. Nothing is downloaded.

Standard library only: a job must be able to name a missing file before anything heavy is imported.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from instar import caches
from instar.errors import WeightsError
from instar.run import write_atomically

_CHUNK = 1 << 22
_MOST_REMEMBERED = 2000
# torch.hub's convention: the name of a file ends in the first digits of its sha256.
_DIGITS_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[A-Za-z0-9.]+$")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Download:
    """One file of weights, by where it comes from; made with `on_hub` or `at`.

    source     a repository on the Hugging Face hub, or an address
    files      names it may have, the first that there is counts
    revision   of the repository: a branch, a tag or a commit; empty for an address
    """

    source: str
    files: tuple[str, ...]
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.source} ({self.files[0]})" if self.revision else self.files[0]


def on_hub(repository: str, *files: str, revision: str = "main") -> Download:
    """A file in a repository on the Hugging Face hub."""
    return Download(repository, files, revision)


def at(address: str) -> Download:
    """A file at an address, kept under the last part of it, as torch.hub does."""
    return Download(address, (address.partition("?")[0].rpartition("/")[2],))


def folder_of(download: Download) -> Path:
    """The folder of the cache that it is looked for in."""
    if not download.revision:
        return caches.torch_hub()
    return caches.hub() / f"models--{download.source.replace('/', '--')}"


def located(download: Download) -> Path | None:
    """The file in the ordinary cache of its library; None where it is not there."""
    folder = folder_of(download)
    if download.revision:
        folder = folder / "snapshots" / commit(download)
    return next((folder / name for name in download.files if (folder / name).is_file()), None)


def commit(download: Download) -> str:
    """The commit that a revision on the hub stood for when it was fetched; the revision itself where nobody knows."""
    with suppress(OSError, ValueError):
        pointer = folder_of(download) / "refs" / download.revision
        return pointer.read_text(encoding="utf-8").strip() or download.revision
    return download.revision


@dataclass(frozen=True)
class Missing:
    """Something to start from that is not here, and what to do about it."""

    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.what}. {self.do}"


def missing(download: Download, *, command: str) -> Missing:
    """What to say of a download that is not here."""
    what = f"model.pretrained: {download} is not in {folder_of(download)}, and only instar fetch uses the network"
    return Missing(what, where_network(command))


def where_network(command: str) -> str:
    return f"Where there is network: {command}"


def found(download: Download, *, command: str) -> Path:
    """The file in its cache; raises WeightsError with the command that gets it."""
    path = located(download)
    if path is None:
        raise WeightsError(str(missing(download, command=command)))
    return path


def promised(path: Path) -> str:
    """The first digits, or all, of the sha256 that a cached file's own name promises; empty where it promises none."""
    blob = path.resolve().name  # the hub keeps large files under their sha256
    if _SHA256.fullmatch(blob):
        return blob
    digits = _DIGITS_IN_NAME.search(path.name)
    return digits.group(1) if digits else ""


def digest(path: Path, *, again: bool = False) -> str:
    """The sha256 of a file, in hexadecimal. It is remembered as long as size and time of change stay the same.

    again   read the file whatever is remembered
    """
    state = path.stat()
    name, mark = str(path.resolve()), [state.st_size, state.st_mtime_ns]
    memory = _remembered()
    if not again and name in memory and memory[name][:2] == mark:
        return str(memory[name][2])
    value = _sha256(path)
    memory.pop(name, None)
    memory[name] = [*mark, value]
    with suppress(OSError):  # a cache that cannot be written only costs time
        write_atomically(_memory_file(), json.dumps(dict(list(memory.items())[-_MOST_REMEMBERED:]), indent=1))
    return value


def _sha256(path: Path) -> str:
    import hashlib  # opens OpenSSL; where nothing has to be verified nobody waits for it

    value = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_CHUNK):
            value.update(block)
    return value.hexdigest()


def _remembered() -> dict[str, list[int | str]]:
    try:
        memory = json.loads(_memory_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(memory, dict) and all(isinstance(one, list) and len(one) == 3 for one in memory.values())
    return memory if whole else {}


def _memory_file() -> Path:
    return caches.own() / "sha256.json"
