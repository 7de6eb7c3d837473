"""Pairs: two pictures of one scene by two sensors, such as a colour camera and a thermal one.

Sage cameras write rgb/*.jpg, thermal/*.csv and one small text file a pair in pairs/NODE/*.txt. Any two folders are
paired by what their names say alike (`match`), and two arrays of one file by their names (`data`).

    data: {root: sky/train, reader: {kind: image_pair, names: [rgb, thermal], image: {part: left, zoom: 1.1}}}
    data: {root: plots, reader: {kind: image_pair, match: '(\\d{8})_(p\\d+)', image: {folder: a}, other: {folder: b}}}
    data: {root: merra, reader: {kind: image_pair, tile: 72, image: {data: IWV}, other: {data: IVT}}}

Gives `image` and `other`: uint8 of pictures, float32 of temperatures and other numbers, normalised. Pairs that are none
- a half missing or unreadable, names that disagree, the same twice - are listed with the reason and left out; no file
is moved. Packed data (`instar pack`) hold temperatures parsed.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from instar.errors import DataError
from instar.settings import Settings as Base

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from PIL import Image

    from instar.augment import Augment, Crops
    from instar.manifest import Manifest
    from instar.packed import Packed
    from instar.readers._crops import Whole
    from instar.readers._rows import Found, Look, Survey

gives = frozenset({"image", "other", "label"})
crops = frozenset({"area", "centre", "squash"})
gives_views = True

BRANCHES = ("image", "other")
_MEASURED = 64  # pairs whose numbers are measured before training
_LISTED = 8  # folders that a message names


class Half(Base):
    """One of the two files of a pair."""

    folder: str = ""
    """Folder below `root` that its files lie in, where pairs are made of two folders."""
    data: str = ""
    """Name of its array, where files are HDF5 or NetCDF; two halves with one `folder` are two arrays of each file."""
    take: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Which channels of an array are read, from 0; null for all."""
    channels: Literal[1, 3] = 3
    """Colour (3) or greyscale (1), of pictures."""
    part: Literal["whole", "left", "right"] = "whole"
    """Which side of the picture counts: the cameras of Sage put two lenses side by side."""
    zoom: Annotated[float, Field(ge=1)] = 1.0
    """How much narrower its field of view is made, so that it is the other half's: 1.1 keeps the middle 1/1.1."""
    aspect: Annotated[float, Field(gt=0)] | None = None
    """Width / height of the middle that is kept; null for that of the picture."""
    size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Height and width of what the network sees of it; null for augment.size."""
    span: tuple[float, float] | None = None
    """Values that become 0 and 1; null for mean 0 and deviation 1 of numbers, and what pictures say of themselves."""
    bounds: tuple[float, float] | None = None
    """Two temperatures that make three channels: up to the first, between both, above the second. Null for one."""

    @model_validator(mode="after")
    def _in_order(self) -> "Half":
        for name in ("span", "bounds"):
            ends = getattr(self, name)
            if ends is not None and not ends[0] < ends[1]:
                raise ValueError(f"{name} is [{ends[0]:g}, {ends[1]:g}], but the lower one comes first")
        return self


class Settings(Base):
    """Two pictures of one scene."""

    kind: Literal["image_pair"] = "image_pair"
    """Two pictures of one scene by two sensors."""
    names: tuple[str, str] = ("image", "other")
    """What the two are called, for people: rgb, thermal."""
    image: Half = Half()
    """The first file of a pair."""
    other: Half = Half()
    """The second file of a pair."""
    match: str | None = None
    """Regular expression whose groups two names must say alike to be a pair, such as time, node and position; a group
    called `label` is the class instead. Null: names alike but for their endings."""
    tile: Annotated[int, Field(ge=8)] | None = None
    """Side of the squares that arrays are cut into, each a row of its own; null for whole arrays."""

    @field_validator("match")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        try:
            if value is not None and re.compile(value).groups == 0:
                raise ValueError("must have groups: what is in brackets must be alike, as in '(\\d{8})_cam'")
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from error
        return value

    @model_validator(mode="after")
    def _tiles_are_of_arrays(self) -> "Settings":
        if self.tile is not None and not (self.image.data and self.other.data):
            raise ValueError("tile cuts arrays; name them in image.data and other.data, or leave it out")
        return self

    @property
    def one_file(self) -> bool:
        """Whether the two halves are arrays of the same file."""
        return bool(self.image.data and self.other.data) and self.image.folder == self.other.folder

    def halves(self) -> dict[str, Half]:
        """The settings of each half by the name of its branch."""
        return {"image": self.image, "other": self.other}


class Reader:
    """Rows of a manifest as samples. Holds no open file, so it can go to any number of worker processes."""

    def __init__(self, settings: Settings, manifest: "Manifest", view: "Augment", wanted: "Crops | None"):
        from instar.augment import Crops
        from instar.readers._pixels import Form

        self._settings, self._view, self._wanted = settings, view, wanted
        self._crops = wanted or Crops()
        self._halves = {name: half for name, half in settings.halves().items() if name in self._crops.branches}
        self._forms = {
            name: Form(half.size or view.size, half.channels, fill=view.fill, span=half.span)
            for name, half in self._halves.items()
        }
        self._scales = {name: _scale(manifest.statistics, name) for name in self._halves}
        self._folder = f"{manifest.root}/"
        self._ids = manifest.table["id"].combine_chunks() if settings.tile else None
        self._files = {
            name: manifest.table[column].combine_chunks() for name, column in (("image", "file"), ("other", "other"))
        }
        self._targets = manifest.targets
        self._pack, self._rows = _packed(manifest)

    def read(self, row: int, draw: "np.random.Generator | None") -> dict[str, Any]:
        """One sample: the views of each half, and `label`.

        draw   decides how the scene is varied; None for what evaluation sees
        Raises BadImage where a half cannot be read.
        """
        from instar.readers import _crops
        from instar.readers._patience import patiently

        wholes = {name: patiently(lambda name=name: self._whole(row, name)) for name in self._halves}  # type: ignore[misc]
        if draw is None:
            seen = _crops.evaluation(wholes, self._wanted, self._view, row)
        else:
            seen = _crops.training(wholes, self._crops, self._view, draw)
        return {**seen, "label": int(self._targets[row])}

    def name(self, row: int) -> str:
        """Both files of a row, for messages; arrays of one file are named once."""
        files = dict.fromkeys(self._files[name][row].as_py() for name in BRANCHES)
        return " + ".join(self._folder + file for file in files)

    def _whole(self, row: int, name: str) -> "Whole":
        from instar.readers import _halves
        from instar.readers._crops import Whole
        from instar.readers._images import BadImage

        half, file = self._halves[name], self._files[name][row].as_py()
        try:
            if self._pack is None:
                one = _halves.whole(self._folder + file, file, half)
            else:
                one = _halves.whole(self._pack.checked(int(self._rows[name][row])), file, half)
            if self._ids is not None:
                one = _tile(one, self._ids[row].as_py(), self._settings)
            width, height = _halves.size(one)
            region = _halves.region(width, height, half)
        except BadImage as error:
            side = self._settings.names[BRANCHES.index(name)]
            raise BadImage(f"{side} {file}: {error}") from error.__cause__
        return Whole(one, region, self._forms[name], self._scales[name], half.bounds)


def open(settings: Settings, manifest: "Manifest", view: "Augment", wanted: "Crops | None" = None) -> Reader:
    """A reader of the manifest's rows.

    view     how pictures are varied, and the size they become
    wanted   which halves and how many views of them; None for one of each
    Raises DataError where temperature bounds part nothing.
    """
    for name, half in settings.halves().items():
        ends = manifest.statistics.get("halves", {}).get(name, {}).get("ends")
        if half.bounds is not None and ends and not (ends[0] < half.bounds[0] and half.bounds[1] < ends[1]):
            raise DataError(
                f"data.reader.{name}.bounds is [{half.bounds[0]:g}, {half.bounds[1]:g}], but what was measured goes "
                f"from {ends[0]:.4g} to {ends[1]:.4g}. Write two numbers between."
            )
    return Reader(settings, manifest, view, wanted)


def channels(settings: Settings, manifest: "Manifest") -> dict[str, int]:
    """How many channels each half has for the network."""
    found = {}
    for name, half in settings.halves().items():
        count = len(_scale(manifest.statistics, name).factor)
        found[name] = 3 if half.bounds is not None else count or half.channels
    return found


def sizes(settings: Settings, size: int) -> dict[str, int]:
    """Height and width of each half for the network, where pictures are `size`."""
    return {name: half.size or size for name, half in settings.halves().items()}


# --- which pairs there are -------------------------------------------------------------------------------------------


def find(settings: Settings, root: Path) -> "Found":
    """The pairs below a root, from two folders or from files of two arrays.

    Raises DataError where there are no such folders, or not one pair.
    """
    from instar.readers import _matching

    if settings.one_file:
        return _matching.arrays(root, settings.image.folder, (settings.image.data, settings.other.data), settings.tile)
    for name, half in settings.halves().items():
        if not half.folder or not (root / half.folder).is_dir():
            folders = sorted(one.name for one in root.iterdir() if one.is_dir())
            more = f" and {len(folders) - _LISTED} more" if len(folders) > _LISTED else ""
            there = (", ".join(folders[:_LISTED]) or "none") + more
            raise DataError(
                f"{root}: there is no folder {half.folder!r} for data.reader.{name}.folder. Folders here: {there}. "
                f"Name the two whose files are pairs (a folder of pair files is data.pairs)."
            )
    return _matching.folders(root, settings.image.folder, settings.other.folder, match=settings.match)


def look(settings: Settings, root: Path, file: str, other: str) -> "Look":
    """Size of the first half and why the pair cannot be used. Tables and arrays are read to their end."""
    from instar.readers import _halves
    from instar.readers._rows import Look

    sizes = []
    for name, half, path in zip(settings.names, settings.halves().values(), (file, other), strict=True):
        try:
            one = _halves.whole(f"{root}/{path}", path, half)
        except (DataError, OSError) as error:
            return Look(reason=f"{name} {path}: {error}")
        sizes.append(_halves.size(one))
    if settings.one_file and sizes[0] != sizes[1]:
        return Look(reason=f"its two arrays differ in size: {sizes[0]} and {sizes[1]}")
    return Look(*((settings.tile, settings.tile) if settings.tile else sizes[0]))


def survey(settings: Settings, manifest: "Manifest") -> "Survey":
    """What the numbers of each half are like, from some of the training rows. Pictures are not looked at.

    Raises DataError where not one of them can be read.
    """
    from instar.readers import _halves
    from instar.readers._rows import Survey

    found: dict[str, Any] = {}
    rows = manifest.rows("train")
    some = rows[:: max(1, -(-len(rows) // _MEASURED))].tolist()
    for name, half in settings.halves().items():
        sums = _halves.Sums()
        for one in _arrays(settings, manifest, name, half, some):
            sums.add(one)
        if not sums:
            found[name] = {"offset": [], "factor": []}
            continue
        scale, ends = sums.scale(half.span, to_one=half.bounds is not None)
        found[name] = {"offset": list(scale.offset), "factor": list(scale.factor), "ends": list(ends)}
    return Survey(manifest.classes, [], {"halves": found})


def _arrays(
    settings: Settings, manifest: "Manifest", name: str, half: Half, rows: "Sequence[int]"
) -> "Iterable[np.ndarray]":
    """The arrays of a half in these rows; nothing where it is a picture."""
    import numpy as np

    from instar.readers import _halves

    files = manifest.table["file" if name == "image" else "other"]
    pack, places = _packed(manifest)
    wrong = ""
    for row in rows:
        file = files[row].as_py()
        try:
            data: Any = f"{manifest.root}/{file}" if pack is None else pack.checked(int(places[name][row]))
            one = _halves.whole(data, file, half)
        except (DataError, OSError) as error:
            wrong = f"{file}: {error}"
            continue
        if not isinstance(one, np.ndarray) or one.dtype == np.uint8:
            return
        wrong = ""
        yield one
    if wrong:
        raise DataError(f"{manifest.root}: half {name!r} cannot be measured. {wrong}")


def _scale(statistics: dict[str, Any], name: str) -> Any:
    from instar.readers._halves import Scale

    saved = statistics.get("halves", {}).get(name, {})
    return Scale(tuple(saved.get("offset", ())), tuple(saved.get("factor", ())))


def _packed(manifest: "Manifest") -> "tuple[Packed | None, dict[str, Any]]":
    """Packed data behind a manifest, and the row of each half in it; None where samples are files."""
    from instar import packed

    if not packed.is_packed(manifest.root):
        return None, {}
    pack = packed.read(manifest.root)
    return pack, {"image": pack.rows_of(manifest.table["file"]), "other": pack.rows_of(manifest.table["other"])}


def _tile(one: "Image.Image | np.ndarray", name: str, settings: Settings) -> "np.ndarray":
    """The square of an array that a row stands for."""
    import numpy as np

    from instar.readers import _matching

    assert settings.tile is not None and isinstance(one, np.ndarray), "only arrays have tiles"
    top, left = _matching.corner(name)
    return one[top : top + settings.tile, left : left + settings.tile]
