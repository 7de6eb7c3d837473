"""Matching: which files of two folders are pairs, by what their names say; and arrays of files, cut into squares."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from instar import fields
from instar.errors import DataError
from instar.readers._rows import Found

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".csv", ".npy")
ALONE = "it has no partner"
TWICE = "another file says the same"
_LABEL = "label"
_AT = "@"


def folders(root: Path, first: str, second: str, *, match: str | None) -> Found:
    """The files of two folders below a root that say the same; the others are skipped with the reason.

    match   regular expression with groups, over the path below the folder; None for paths alike but for endings
    Raises DataError where there is not one pair.
    """
    pattern = re.compile(match) if match else None
    sides: list[dict[tuple[str, ...], str]] = []
    found = Found([], [], labels=[])
    classes: dict[tuple[str, ...], str] = {}
    for folder in (first, second):
        named: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for inside in _files(root / folder):
            key, label = _said(inside, pattern)
            if key is None:
                found.skipped.append((f"{folder}/{inside}", f"its name does not match {match}"))
                continue
            named[key].append(f"{folder}/{inside}")
            classes.setdefault(key, label)
        for names in named.values():
            found.skipped.extend((name, f"{TWICE}: {names[0]}") for name in names[1:])
        sides.append({key: names[0] for key, names in named.items()})
    for key, file in sides[0].items():
        if key in sides[1]:
            found.files.append(file)
            found.masks.append(sides[1][key])
            assert found.labels is not None, "made above"
            found.labels.append(classes[key])
        else:
            found.skipped.append((file, f"{ALONE} in {second}/ that says {', '.join(key)}"))
    found.skipped.extend(
        (file, f"{ALONE} in {first}/ that says {', '.join(key)}")
        for key, file in sides[1].items()
        if key not in sides[0]
    )
    if not found.files:
        shown = "; ".join(f"{file!r}: {reason}" for file, reason in found.skipped[:3]) or "both folders are empty"
        raise DataError(
            f"{root}: not one file of {first}/ has a partner in {second}/ ({shown}). Say what their names have in "
            f"common: data.reader.match='(\\d{{8}}-\\d{{6}}).*position(\\d+)'."
        )
    return found


def arrays(root: Path, folder: str, names: tuple[str, str], tile: int | None) -> Found:
    """Files with two arrays each, or every square of them.

    Raises DataError where there is no such file.
    """
    found = Found([], [], labels=[], ids=[])
    assert found.ids is not None and found.labels is not None, "made above"
    base = root / folder
    for inside in _files(base, (*fields.ENDINGS,)):
        file = f"{folder}/{inside}" if folder else inside
        try:
            shapes = [fields.field(base / inside, name).shape for name in names]
        except DataError as error:
            found.skipped.append((file, str(error)))
            continue
        height, width = _sides(shapes[0])
        if _sides(shapes[0]) != _sides(shapes[1]):
            found.skipped.append((file, f"{names[0]} is {shapes[0]}, {names[1]} is {shapes[1]}: of different size"))
            continue
        step = tile or 0
        corners = [(0, 0)] if not tile else _corners(height, width, step)
        if not corners:
            found.skipped.append((file, f"{width}x{height} is less than one square of {tile}"))
        for top, left in corners:
            found.files.append(file)
            found.masks.append(file)
            found.labels.append(inside.partition("/")[0] if "/" in inside else "")
            found.ids.append(f"{file}{_AT}{top},{left}" if tile else file)
    if not found.files:
        shown = "; ".join(f"{file!r}: {reason}" for file, reason in found.skipped[:3]) or "no such file"
        raise DataError(f"{base}: no file with arrays {names[0]!r} and {names[1]!r} ({shown}).")
    return found


def corner(name: str) -> tuple[int, int]:
    """Top and left of the square that a row is called after."""
    top, _, left = name.rpartition(_AT)[2].partition(",")
    return int(top), int(left)


def _corners(height: int, width: int, tile: int) -> list[tuple[int, int]]:
    tops, lefts = range(0, height - tile + 1, tile), range(0, width - tile + 1, tile)
    return [(top, left) for top in tops for left in lefts]


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an array whose channels, if it has any, are the shorter of its first and last axis."""
    if len(shape) < 2:
        return 0, 0
    if len(shape) == 3:
        return (shape[1], shape[2]) if shape[0] < shape[2] else (shape[0], shape[1])
    return shape[-2], shape[-1]


def _said(inside: str, pattern: re.Pattern[str] | None) -> tuple[tuple[str, ...] | None, str]:
    """What a name says that its partner's must say too, and its class; None where it says nothing."""
    label = inside.partition("/")[0] if "/" in inside else ""
    if pattern is None:
        return (inside.rpartition(".")[0],), label
    found = pattern.search(inside)
    if found is None:
        return None, label
    own = pattern.groupindex.get(_LABEL)
    said = tuple(text or "" for number, text in enumerate(found.groups(), start=1) if number != own)
    return said, (found.group(own) or "") if own else label


def _files(folder: Path, endings: tuple[str, ...] = ENDINGS) -> Iterator[str]:
    """Files below a folder, relative to it, sorted; links to folders are not followed, and only UTF-8 counts."""
    for place, inside, names in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        below = os.path.relpath(place, folder)
        for name in sorted(names):
            if name.startswith(".") or not name.lower().endswith(endings):
                continue
            try:
                name.encode()
            except UnicodeEncodeError:
                continue
            yield name if below == "." else f"{below}/{name}"
