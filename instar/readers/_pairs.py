"""Pairs: which mask belongs to which image, by the names of folders and files alone."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from instar.errors import DataError
from instar.readers._rows import Found

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
IMAGES = ("images", "image", "imgs", "img", "jpegimages", "photos", "inputs")
MASKS = (
    "masks",
    "mask",
    "segmentations",
    "segmentation",
    "segmentationclass",
    "labels",
    "annotations",
    "gt",
    "targets",
)
# How masks are called after their images, the commonest first.
PATTERNS = ("{stem}", "{stem}_mask", "{stem}_seg", "{stem}_seg0", "{stem}_label", "{stem}_labels", "{stem}_gt",
            "{stem}_segmentation", "{stem}-mask", "mask_{stem}")  # fmt: skip
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
          "test": "test", "testing": "test"}  # fmt: skip
NO_MASK = "it has no mask"


def find(root: Path, *, images: str, masks: str, pattern: str) -> Found:
    """Every image with its mask: same folder below `images` and `masks`, called alike.

    images, masks   folders below the root; '' to look for the usual names, also in train, val and test
    pattern         how a mask is called after its image, without ending; '' to try the usual ones
    Raises DataError where there are no such folders, or no image has a mask.
    """
    wheres = list(_places(root, images, masks))
    found = Found([], [], [] if all(split for _, _, split in wheres) else None)
    for image_folder, mask_folder, split in wheres:
        _add(found, root, image_folder, mask_folder, pattern=pattern, split=split)
    if found.splits is None:
        found = _divided_inside(found, [place[0] for place in wheres])
    if not found.files:
        first = found.skipped[0][0] if found.skipped else ""
        there = next(iter(_files(root, wheres[0][1])), "no image at all")
        raise DataError(
            f"{root}: not one image has a mask. Image {first!r}; in the folder of masks {there!r}. Say how masks are "
            f"called after images: data.reader.pattern='{{stem}}_mask' (known: {', '.join(PATTERNS)})."
        )
    return found


def looks_like_pairs(root: Path) -> bool:
    """Whether a folder has one of images and one of masks in it, also within train, val and test."""
    return any(True for _ in _guessed(root))


def _places(root: Path, images: str, masks: str) -> Iterator[tuple[str, str, str]]:
    """Folder of images, folder of masks, and the split both are, '' for none."""
    if not images and not masks:
        places = list(_guessed(root))
        if places:
            yield from places
            return
    elif images and masks:
        for name in (images, masks):
            if not (root / name).is_dir():
                raise DataError(
                    f"{root}: there is no folder {name!r} in it (it has {', '.join(_folders(root)) or 'none'})."
                )
        yield images, masks, ""
        return
    there = ", ".join(_folders(root)) or "no folders"
    raise DataError(
        f"{root}: which folder holds the images and which the masks? It has {there}. "
        f"Write data.reader.images=… and data.reader.masks=…, or call them images/ and masks/."
    )


def _guessed(root: Path) -> Iterator[tuple[str, str, str]]:
    parts = {name: SPLITS[name.lower()] for name in _folders(root) if name.lower() in SPLITS}
    both = {name: (_one(root / name, IMAGES), _one(root / name, MASKS)) for name in parts}
    if "train" in parts.values() and all(image and mask for image, mask in both.values()):
        for name, (image, mask) in both.items():
            yield f"{name}/{image}", f"{name}/{mask}", parts[name]
        return
    image, mask = _one(root, IMAGES), _one(root, MASKS)
    if image and mask:
        yield image, mask, ""


def _one(folder: Path, names: Sequence[str]) -> str:
    """The folder with the first of these names, in any case; '' for none."""
    there = {name.lower(): name for name in reversed(_folders(folder))}
    return next((there[name] for name in names if name in there), "")


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise DataError(f"{folder}: this folder cannot be read ({error.strerror}).") from error


def _add(found: Found, root: Path, images: str, masks: str, *, pattern: str, split: str) -> None:
    """Add the pairs of two folders."""
    files = list(_files(root, images))
    there: dict[str, str] = {}
    for file in _files(root, masks):
        # Where a mask is there twice, the one whose pixels are exact: a JPEG makes up values.
        stem = _stem(file.removeprefix(masks + "/"))
        if stem not in there or file.lower().endswith(".png"):
            there[stem] = file
    stems = [_stem(file.removeprefix(images + "/")) for file in files]
    patterns = [pattern] if pattern else list(PATTERNS)
    counts = [sum(_called(stem, one) in there for stem in stems) for one in patterns]
    best = patterns[counts.index(max(counts))]
    used = set()
    for file, stem in zip(files, stems, strict=True):
        mask = there.get(_called(stem, best))
        if not _is_utf8(file):
            found.skipped.append(
                (os.fsencode(file).decode("utf-8", "backslashreplace"), "its name is not UTF-8; rename it")
            )
        elif mask is None or not _is_utf8(mask):
            found.skipped.append((file, f"{NO_MASK} called {masks}/{_called(stem, best)}"))
        else:
            found.files.append(file)
            found.masks.append(mask)
            used.add(mask)
            if found.splits is not None:
                found.splits.append(split)
    if left := len(set(there.values()) - used):
        found.notes.append(f"{left} masks in {masks}/ have no image and are not used")
    if best != "{stem}" and not pattern:
        found.notes.append(f"masks in {masks}/ are called {best}")


def _divided_inside(found: Found, folders: Sequence[str]) -> Found:
    """The same with its splits, where the folder of images is divided into train, val and test itself."""
    inside = [file.removeprefix(folders[0] + "/").partition("/")[0].lower() for file in found.files]
    splits = [SPLITS.get(name, "") for name in inside]
    if len(folders) > 1 or not all(splits) or "train" not in splits or set(splits) == {"train"}:
        return found
    return Found(found.files, found.masks, splits, found.skipped, found.ignored, found.notes)


def _called(stem: str, pattern: str) -> str:
    folder, slash, name = stem.rpartition("/")
    return folder + slash + pattern.replace("{stem}", name)


def _stem(file: str) -> str:
    return file.rpartition(".")[0]


def _files(root: Path, folder: str) -> Iterator[str]:
    """Images below a folder, sorted by folder and then by name; links are followed, but not in a circle."""
    seen = set()
    for place, folders, names in os.walk(root / folder, followlinks=True):
        identity = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if name[0] != ".") if identity not in seen else []
        if identity in seen:
            continue
        seen.add(identity)
        below = os.path.relpath(place, root)
        for name in sorted(names):
            if name[0] != "." and name.lower().endswith(ENDINGS):
                yield f"{below}/{name}"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
