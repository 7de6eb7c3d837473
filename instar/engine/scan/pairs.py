"""Pairs: samples of two files each, named by a small text file a pair.

Line 1 is the name of the first file, line 2 of the second; the folder the text file lies in is the label. This is how
cameras that write two pictures at a time are indexed (Sage: RGB and thermal).
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from instar.engine.scan.listing import NOT_UTF8, Listing, is_utf8, named, printable
from instar.errors import DataError
from instar.manifest import Skipped

if TYPE_CHECKING:
    from instar.experiment import Pairs

NO_PAIR = "not a pair: it takes two lines with a file name each"
APART = "the names of the two files disagree"
_MOST_BYTES = 65_536  # of a file with two names in it


def of_pairs(root: Path, settings: "Pairs") -> Listing:
    """One row a pair file, called by its path without the ending.

    Pairs whose names disagree, that name nothing or lead out of the root, are skipped with a reason.
    Raises DataError where a folder is missing or holds no pair.
    """
    folders = {name: root / getattr(settings, name) for name in ("files", "first", "second")}
    if missing := {name: folder for name, folder in folders.items() if not folder.is_dir()}:
        raise DataError(
            "\n".join(f"data.pairs.{name}: {folder} is no folder. Name it." for name, folder in missing.items())
        )
    listing = Listing(root, ids=[], others=[])
    agree = re.compile(settings.agree) if settings.agree else None
    for place in _pair_files(folders["files"]):
        name = f"{settings.files}/{place}"
        if not is_utf8(name):
            listing.skipped.append(Skipped(printable(name), NOT_UTF8))
            continue
        first, second, reason = _named_in(folders["files"] / place, root, settings, agree)
        if reason:
            listing.skipped.append(Skipped(printable(name), reason))
            continue
        assert listing.ids is not None and listing.others is not None, "made above"
        listing.files.append(first)
        listing.others.append(second)
        listing.ids.append(name.removesuffix(".txt"))
        listing.labels.append(place.rpartition("/")[0] or settings.files.name)
    if not listing.files:
        first_few = named(f"{one.file}: {one.reason}" for one in listing.skipped[:3])
        found = (
            f"{len(listing.skipped)} pair files, none of them usable ({first_few})" if listing.skipped else "no pairs"
        )
        raise DataError(f"{folders['files']}: {found}. Write one .txt a pair, with two file names in it.")
    _alone(listing, [folders["first"], folders["second"]], root)
    return listing


def _pair_files(folder: Path) -> list[str]:
    """All .txt files below a folder, relative to it, sorted; links to folders are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(place, folder)
        found += [
            name if inside == "." else f"{inside}/{name}"
            for name in sorted(files)
            if name.endswith(".txt") and not name.startswith(".")
        ]
    return found


def _named_in(path: Path, root: Path, settings: "Pairs", agree: re.Pattern[str] | None) -> tuple[str, str, str]:
    """Both files of a pair below the root, and why they are none ('' where they are)."""
    try:
        with open(path, "rb") as file:
            names = file.read(_MOST_BYTES).decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return "", "", f"{NO_PAIR} ({error})"
    names = [name.strip() for name in names if name.strip()]
    if len(names) != 2 or any("\0" in name for name in names):
        return "", "", NO_PAIR
    for one, two in _both_say(agree, names) if agree is not None else ():
        if one != two:
            return "", "", f"{APART}: {one} and {two}"
    below = [
        os.path.normpath(f"{folder}/{name}")
        for folder, name in zip((settings.first, settings.second), names, strict=True)
    ]
    if outside := [name for name, file in zip(names, below, strict=True) if file.startswith((os.pardir, "/"))]:
        return "", "", f"{outside[0]!r} leads out of {root}"
    return below[0], below[1], ""


def _both_say(agree: re.Pattern[str], names: list[str]) -> list[tuple[str, str]]:
    """What both names say of the same group of the pattern; of all of it, where it has none."""
    said: list[dict[int, str]] = []
    for name in names:
        found: dict[int, str] = {}
        for match in agree.finditer(name):
            found.setdefault(match.lastindex or 0, match.group())
        said.append(found)
    return [(said[0][group], said[1][group]) for group in said[0] if group in said[1]]


def _alone(listing: Listing, folders: list[Path], root: Path) -> None:
    """Add a note on files that no pair names."""
    used = {*listing.files, *(listing.others or ())}
    alone = 0
    for folder in folders:
        prefix = os.path.relpath(folder, root)
        alone += sum(f"{prefix}/{one.name}" not in used for one in folder.iterdir() if not one.name.startswith("."))
    if alone:
        listing.notes.append(f"{alone} files or folders beside the paired ones are in no pair")
