"""Listing: which files there are and what they are labelled, by name alone. No file is opened or asked for its size.

Folders are listed as torchvision's ImageFolder lists them: classes sorted by name, and in a class every file below it,
sorted by folder and then by name.
"""

import difflib
import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from instar.errors import DataError
from instar.manifest import Skipped

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
# What ImageFolder takes; it also takes hidden files. Positions in an index file count those and no others.
TORCHVISION_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
NOT_UTF8 = "its name is not UTF-8; rename it"
NO_CLASSES = "it has no class folders, so its images have no label"
CIRCLE = "a symbolic link to a folder that is read anyway"

FolderState = tuple[int, int, int, int]


@dataclass
class Listing:
    """Files and what is known of each from where it lies, or from a table. Lists of equal length.

    root      folder that `files` are relative to, with forward slashes
    ids       what samples are called; None where they are called as their files
    others    the second file of each sample; None where a sample is one file
    groups    None where there are no groups; a file's group may be None too
    splits    train, val or test; None where nobody divided the files yet
    folders   every folder that was read, with what `folder_state` said of it before
    skipped   files that no row can be made of
    ignored   number of other files that are no images
    excluded  number of files that a list leaves out
    notes     sentences for the user
    """

    root: Path
    files: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    ids: list[str] | None = None
    others: list[str] | None = None
    groups: list[str | None] | None = None
    splits: list[str] | None = None
    folders: dict[str, FolderState] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    ignored: int = 0
    excluded: int = 0
    notes: list[str] = field(default_factory=list)

    def take(self, rows: Sequence[int]) -> "Listing":
        """The same listing with only these rows."""
        return replace(
            self,
            files=[self.files[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            ids=None if self.ids is None else [self.ids[row] for row in rows],
            others=None if self.others is None else [self.others[row] for row in rows],
            groups=None if self.groups is None else [self.groups[row] for row in rows],
            splits=None if self.splits is None else [self.splits[row] for row in rows],
        )


def of_folder(root: Path, *, as_torchvision: bool = False) -> Listing:
    """One folder a class, or train, val and test folders of those.

    as_torchvision   list exactly what ImageFolder lists, and look for no division
    Raises DataError where there is no such folder, no class folder, or one that cannot be read.
    """
    must_be_a_folder(root)
    walk = _Walk(ENDINGS, hidden=False) if not as_torchvision else _Walk(TORCHVISION_ENDINGS, hidden=True)
    listing = Listing(root)
    folders, loose = walk.top(root)
    parts = {} if as_torchvision else _parts(walk, root, folders)
    if parts:
        listing.splits = []
        if others := sorted(set(folders) - set(parts)):
            listing.notes.append(f"beside the folders of the split these are not used: {named(others)}")
    for part in sorted(parts) or [""]:
        inside, loose_inside = walk.top(root / part) if part else (folders, loose)
        loose += loose_inside if part else 0
        if part and not inside:
            listing.skipped.append(Skipped(part, NO_CLASSES))
        _add_classes(listing, walk, part, inside, split=parts.get(part))
    if loose:
        listing.notes.append(f"{loose} images lie outside the class folders and have no label")
    listing.skipped += walk.skipped
    listing.ignored = walk.ignored + loose
    listing.folders = walk.folders
    if not listing.files and not walk.skipped:
        raise DataError(_nothing_found(root, folders, loose, walk.ignored))
    return listing


def named(names: Iterable[str], most: int = 5) -> str:
    """Some names in quotes, printable on one line, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(printable(name)) for name in names[:most]) + more


def printable(name: str) -> str:
    """A file's name as text that can be printed anywhere: bytes that are not UTF-8 as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_utf8(name: str) -> bool:
    """Whether a file's name can be written as text."""
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _add_classes(listing: Listing, walk: "_Walk", part: str, folders: list[str], *, split: str | None) -> None:
    empty = []
    for label in folders:
        prefix = f"{part}/{label}" if part else label
        files = walk.images(listing.root, prefix)
        good = files if "".join(files).isascii() else [file for file in files if is_utf8(file)]
        if len(good) < len(files):
            listing.skipped += [Skipped(printable(file), NOT_UTF8) for file in files if not is_utf8(file)]
        elif not good:
            empty.append(prefix)
        listing.files += good
        listing.labels += [label] * len(good)
        if listing.splits is not None:
            listing.splits += [str(split)] * len(good)
    if empty:
        listing.notes.append(f"folders without an image are no classes: {named(empty)}")


def _parts(walk: "_Walk", root: Path, folders: list[str]) -> dict[str, str]:
    """The folders that are parts of a division, with the split of each; none where these folders are classes."""
    parts = {name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES}
    trains = [name for name, split in parts.items() if split == "train"]
    if not trains or (len(parts) == 1 and len(folders) > 1):
        return {}
    # A class may be called 'train' too, but then it has images in it and not folders.
    inside, loose = walk.top(root / trains[0])
    if not inside or loose:
        return {}
    for split in set(parts.values()):
        same = [name for name in parts if parts[name] == split]
        if len(same) > 1:
            raise DataError(f"{root}: {named(same)} both look like the {split} split. Rename or remove one of them.")
    return parts


class _Walk:
    """Reads folders, names only. Counts what is no image, and names links that lead in a circle."""

    def __init__(self, endings: tuple[str, ...], *, hidden: bool):
        self._endings = endings
        self._spelt = (*endings, *(ending.upper() for ending in endings))
        self._hidden = hidden
        self.ignored = 0
        self.folders: dict[str, FolderState] = {}
        self.skipped: list[Skipped] = []

    def top(self, folder: Path) -> tuple[list[str], int]:
        """The sorted names of the folders in a folder, and how many images lie beside them."""
        folders, images = [], 0
        self._note(os.fspath(folder))
        for entry in _entries(os.fspath(folder)):
            if entry.name.startswith(".") and not self._hidden:
                continue
            if _is_folder(entry):
                folders.append(entry.name)
            elif entry.name.lower().endswith(self._endings):
                images += 1
        return sorted(folders), images

    def images(self, root: Path, prefix: str) -> list[str]:
        """All images below one class folder, as ImageFolder sorts them."""
        found: dict[str, list[str]] = {}
        links: list[tuple[str, frozenset[tuple[int, int]]]] = []
        seen = {self._note(os.fspath(root))}
        waiting = [(prefix, frozenset(seen))]
        while waiting or links:
            # Links come last, so that what they lead to is found where it really lies.
            linked = not waiting
            place, above = waiting.pop() if waiting else links.pop(0)
            identity = self._note(f"{root}/{place}")
            if identity in above or (linked and not self._hidden and identity in seen):
                self.skipped.append(Skipped(printable(place), CIRCLE))
                continue
            seen.add(identity)
            found[place], inside = self._folder(f"{root}/{place}")
            deeper = [(f"{place}/{name}", above | {identity}, is_link) for name, is_link in inside]
            waiting += [(inner, all_above) for inner, all_above, is_link in deeper if not is_link]
            links += sorted((inner, all_above) for inner, all_above, is_link in deeper if is_link)
        return [path for place in sorted(found) for path in map(f"{place}/".__add__, found[place])]

    def _note(self, folder: str) -> tuple[int, int]:
        """The identity of a folder, whose state is kept: of the first time, as what is read later is no older."""
        if folder not in self.folders:
            try:
                self.folders[folder] = folder_state(folder)
            except OSError as error:
                raise DataError(f"{printable(folder)}: this folder cannot be read ({error.strerror}).") from error
        return self.folders[folder][:2]

    def _folder(self, path: str) -> tuple[list[str], list[tuple[str, bool]]]:
        """The sorted images of one folder, and its folders with whether each is a symbolic link."""
        names, folders = [], []
        try:
            with os.scandir(path) as entries:
                # Half a million times: what can be asked once for all names is asked below.
                for entry in entries:
                    try:
                        is_folder = entry.is_dir()
                    except OSError:  # a link to itself
                        is_folder = False
                    if is_folder:
                        folders.append((entry.name, entry.is_symlink()))
                    else:
                        names.append(entry.name)
        except OSError as error:
            raise _unreadable(path, error) from error
        names.sort()
        if not self._hidden:
            folders = [folder for folder in folders if folder[0][0] != "."]
            del names[bisect_left(names, ".") : bisect_left(names, "/")]  # "/" comes next after "."
        images = [name for name in names if name.endswith(self._spelt) or name.lower().endswith(self._endings)]
        self.ignored += len(names) - len(images)
        return images, folders


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: str, error: OSError) -> DataError:
    return DataError(
        f"{printable(folder)}: this folder cannot be read ({error.strerror}). Allow reading it, or move it away."
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def folder_state(folder: str) -> FolderState:
    """Which folder it is (device, number) and when it changed (its time, and the time nobody can set), nanoseconds."""
    status = os.stat(folder)  # noqa: PTH116 - a text, as scandir gives it
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def must_be_a_folder(root: Path) -> None:
    if root.is_dir():
        return
    if root.exists():
        hint = "a table goes into data.table" if root.suffix in (".csv", ".parquet") else "unpack an archive first"
        raise DataError(f"{root}: this is a file, not a folder of images. Write the folder as data.root; {hint}.")
    siblings = [one.name for one in root.parent.iterdir()] if root.parent.is_dir() else []
    near = difflib.get_close_matches(root.name, siblings, n=1)
    hint = f" Did you mean {root.parent / near[0]}?" if near else " Write the folder of your images as data.root."
    raise DataError(f"{root}: there is no such folder.{hint}")


def _nothing_found(root: Path, folders: list[str], loose: int, ignored: int) -> str:
    wanted = f"Put the images of each class into a folder of its own ({', '.join(ending[1:] for ending in ENDINGS)})"
    if loose:
        return f"{root}: {loose} images, but no class folders around them. {wanted}, or name a table as data.table."
    if folders:
        others = f"and {ignored} other files " if ignored else ""
        return f"{root}: {len(folders)} folders {others}but not one image in them. {wanted}."
    return f"{root}: an empty folder, no images and no class folders. {wanted}."
