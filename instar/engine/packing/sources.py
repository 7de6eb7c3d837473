"""Sources: what there is to pack, in a folder, a tar or a zip. Names, labels and sizes; bytes only when asked for.

A member of an archive is never written to a path of its choosing, and one that is not safe is left out by name.
"""

import os
import posixpath
import stat
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from instar import fields, packed
from instar.engine.loading.cores import usable_cpus
from instar.engine.packing import archives, payloads
from instar.engine.scan import listing
from instar.errors import DataError
from instar.manifest import Manifest, Skipped

ENDINGS = (*listing.ENDINGS, ".npy")
_NPY_HEAD = 128


@dataclass
class Sources:
    """N samples to be packed.

    place         the folder, tar or zip they come from
    form          folder, tar, zip, or field for arrays inside files
    names         below the place, unique
    labels …      None where there are none
    ids           what the samples are called; None where that is their names
    at_N, size_N  offset in a tar or number in a zip, and size in bytes; -1 for a file that is not there
    changed_N     time of change of a file, in ns
    pixels_N      how many pixels an image has; None where nobody looked
    keys, parts   number of the sample that a member belongs to, and which of its members it is; None for one a sample
    contents      fingerprint of the sample, for its first member, and 0 for the others; None to take one of the bytes
    beside        files that are of all samples, such as statistics
    skipped       what was left out, and why
    """

    place: Path
    form: str
    names: list[str]
    labels: list[str] | None = None
    groups: Sequence[str | None] | None = None
    splits: Sequence[str | None] | None = None
    at_N: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    size_N: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    changed_N: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pixels_N: np.ndarray | None = None
    keys: Sequence[int] | None = None
    parts: Sequence[str] | None = None
    contents: Sequence[int] | None = None
    ids: Sequence[str] | None = None
    beside: Sequence[Path] = ()
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, sorted: their position is their number."""
        return sorted(set(self.labels or ()))


def of_manifest(rows: Manifest, *, divided: bool) -> Sources:
    """The samples of a manifest, in its order; of pairs both files, one after the other.

    divided   whether their splits are part of the data, and not drawn by a recipe's seed
    """
    table, keys, parts = rows.table, None, None
    names, targets = table["file"].to_pylist(), rows.targets
    if "other" in table.column_names:
        names, keys, parts = _both(names, table["other"].to_pylist())
        table, targets = table.take(keys), targets[keys]
    groups = table["group"]
    size_N, changed_N = _states(rows.root, names)
    return Sources(
        rows.root,
        "folder",
        names,
        labels=[rows.classes[target] for target in targets.tolist()],
        groups=groups.to_pylist() if groups.null_count < len(groups) else None,
        splits=table["split"].to_pylist() if divided else None,
        at_N=np.zeros(len(names), np.int64),
        size_N=size_N,
        changed_N=changed_N,
        pixels_N=table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy(),
        keys=keys,
        parts=parts,
        ids=_ids(table),
        skipped=list(rows.skipped),
    )


def _ids(table: pa.Table) -> list[str] | None:
    """What rows are called, where one of them is not called as its file."""
    return None if table["id"].equals(table["file"]) else table["id"].to_pylist()


Members = Callable[[str, str], Sequence[tuple[str, str]]]


def of_masks(rows: Manifest, members: Members, *, form: str, beside: Sequence[Path], divided: bool) -> Sources:
    """The samples of a manifest whose pixels have labels, in its order: several members each.

    members   from a row's two files to the names of its members, and what each is called beside the key; the first has
              no need of a name where it is the image
    form      folder, or field where members are arrays inside files
    """
    pairs = zip(rows.table["file"].to_pylist(), rows.table["other"].to_pylist(), strict=True)
    each = [members(file, mask) for file, mask in pairs]
    names, parts = [name for some in each for name, _ in some], [part for some in each for _, part in some]
    repeated = np.repeat(np.arange(len(each)), [len(some) for some in each])
    first = np.flatnonzero(np.diff(repeated, prepend=-1))
    content_N = np.zeros(len(names), np.uint64)
    content_N[first] = rows.table["content"].to_numpy()
    groups, splits = (rows.table[name].to_pylist() for name in ("group", "split"))
    size_N, changed_N = _states(rows.root, names) if form == "folder" else of_arrays(rows.root, names)
    return Sources(
        rows.root,
        form,
        names,
        groups=[groups[row] for row in repeated] if any(group is not None for group in groups) else None,
        splits=[splits[row] for row in repeated] if divided else None,
        at_N=np.zeros(len(names), np.int64),
        size_N=size_N,
        changed_N=changed_N,
        keys=repeated.tolist(),
        parts=parts,
        contents=content_N.tolist(),
        ids=_ids(rows.table.take(repeated)),
        beside=beside,
        skipped=list(rows.skipped),
    )


def of_arrays(root: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of each array `file:array`, and the time of change of its file; -1 where it cannot be read."""

    def state(name: str) -> tuple[int, int]:
        inside, _, array = name.rpartition(":")
        path = root if root.is_file() else root / inside
        try:
            return fields.field(path, array).size + _NPY_HEAD, path.stat().st_mtime_ns
        except (DataError, OSError):
            return -1, -1

    with ThreadPoolExecutor(min(32, 4 * usable_cpus())) as threads:
        found = list(threads.map(state, names))
    return np.array([size for size, _ in found], np.int64), np.array([changed for _, changed in found], np.int64)


def _both(files: list[str], others: list[str]) -> tuple[list[str], list[int], list[str]]:
    """Both files of every pair, the number of the pair, and which half each is.

    Raises DataError for files that hold both halves: they are arrays, and `instar convert` packs those.
    """
    if any(file == other for file, other in zip(files, others, strict=True)):
        raise DataError("halves that are arrays of one file are not packed by pack; instar convert packs arrays.")
    names = [name for pair in zip(files, others, strict=True) for name in pair]
    return names, [number for number in range(len(files)) for _ in packed.HALVES], [*packed.HALVES] * len(files)


def of_folder(root: Path) -> Sources:
    """All images and arrays below a folder. Labels are its folders, if every sample lies in one."""
    names, skipped = [], []
    for above, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = posixpath.relpath(f"{above}/{name}", root)
            if name.startswith(".") or not name.lower().endswith(ENDINGS):
                continue
            if not listing.is_utf8(path):
                skipped.append(Skipped(listing.printable(path), listing.NOT_UTF8))
            else:
                names.append(path)
    if not names:
        raise DataError(f"{root}: not one image or .npy array is below this folder. Name the folder that holds them.")
    size_N, changed_N = _states(root, names)
    at_N = np.zeros(len(names), np.int64)
    made = Sources(root, "folder", names, at_N=at_N, size_N=size_N, changed_N=changed_N)
    made.skipped = skipped
    return _labelled(made)


def of_archive(path: Path, *, inside: str | None = None) -> Sources:
    """The images and arrays in a tar (not compressed) or a zip.

    inside   only those in this folder of it
    """
    prefix = f"{inside.strip('/')}/" if inside else ""
    form, found = archives.members(path)
    seen: set[str] = set()
    good: list[tuple[str, int, int]] = []
    skipped: list[Skipped] = []
    for name, at, size, against in found:
        if not against and not posixpath.normpath(name).startswith(prefix):
            continue
        if reason := against or ("its name stands there twice; the first is used" if name in seen else ""):
            skipped.append(Skipped(listing.printable(name), reason))
        elif name.lower().endswith(ENDINGS) and not posixpath.basename(name).startswith("."):
            seen.add(name)
            good.append((name, at, size))
    if not good:
        raise DataError(_nothing_in(path, skipped))
    good.sort(key=lambda one: (posixpath.dirname(one[0]), one[0]))
    columns = list(zip(*good, strict=True))
    made = Sources(path, form, list(columns[0]), at_N=np.array(columns[1]), size_N=np.array(columns[2]))
    made.skipped = skipped
    for reason in [one.reason for one in skipped if one.reason.startswith(archives.CUT)][:1]:
        made.notes.append(f"{path.name} is cut off, and what came behind is missing: {reason}. Copy it again")
    return _labelled(made)


def load(place: Path, form: str, name: str, at: int, size: int) -> bytes:
    """The bytes of one source. Raises DataError or OSError where they are not what was listed."""
    if form == "folder":
        return _file(f"{place}/{name}", size)
    if form == "field":
        inside, _, array = name.rpartition(":")
        return payloads.npy(fields.read(place if place.is_file() else place / inside, array))
    if form == "tar":
        with open(place, "rb") as file:
            data = os.pread(file.fileno(), size, at)
    else:
        with zipfile.ZipFile(place) as archive, archive.open(archive.infolist()[at]) as member:
            data = member.read(size + 1)  # its own word on how long it is may be a lie
    if len(data) != size:
        raise DataError(f"it has {len(data)} bytes, but its archive says {size}")
    return data


def _file(path: str, size: int) -> bytes:
    # O_NONBLOCK has no effect on a regular file, and keeps the opening of a FIFO from waiting for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DataError("not a regular file")
        data = file.read()
    if size >= 0 and len(data) != size:
        raise DataError(f"it changed while it was packed: {len(data)} bytes, not {size}")
    return data


def _states(root: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Size and time of change of every file; -1 where there is none."""

    def state(name: str) -> tuple[int, int]:
        try:
            status = os.stat(f"{root}/{name}")  # noqa: PTH116 - a Path costs more than the call
            return status.st_size, status.st_mtime_ns
        except (OSError, ValueError):
            return -1, -1

    with ThreadPoolExecutor(min(32, 4 * usable_cpus())) as threads:
        both = np.array(list(threads.map(state, names)), np.int64).reshape(-1, 2)
    return both[:, 0].copy(), both[:, 1].copy()


# --- labels --------------------------------------------------------------------------------------------------------


def _labelled(found: Sources) -> Sources:
    """Labels and splits from names: one folder a class, or train, val and test around those; folders around all of
    them are left aside. A place where some samples lie in no folder has no labels."""
    parts = [name.split("/") for name in found.names]
    common = 0
    while all(len(one) > common + 2 for one in parts) and len({one[common] for one in parts}) == 1:
        common += 1
    inside = [one[common:] for one in parts]
    top = {one[0].lower() for one in inside if len(one) > 1}
    if "train" in {listing.SPLIT_NAMES.get(name) for name in top} and all(
        len(one) > 2 and one[0].lower() in listing.SPLIT_NAMES for one in inside
    ):
        found.splits = [listing.SPLIT_NAMES[one[0].lower()] for one in inside]
        inside = [one[1:] for one in inside]
    if all(len(one) > 1 for one in inside):
        found.labels = [one[0] for one in inside]
    else:
        found.notes.append("there are samples outside of any folder, so none has a label")
    return found


def _nothing_in(path: Path, skipped: Sequence[Skipped]) -> str:
    first = "; ".join(f"{one.file!r}: {one.reason}" for one in skipped[:5])
    return f"{path}: no image and no .npy array can be taken from it. {first or 'It holds none.'}"
