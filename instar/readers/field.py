"""Fields with a class for each pixel: climate model output, sensor stacks, anything of many channels.

HDF5 (one file a row, data and labels in it) or NumPy (data-NAME.npy and label-NAME.npy, or as `instar convert` makes
them), below the root or in its folders train/, validation/ and test/; or packed. Gives `image` (float32, as it is in
the file; the network's first step normalises it) and `mask` (uint8, 255: nobody knows).

    data: {root: deepcam, reader: {kind: field, classes: [background, cyclone, river], channels: [0, 1, 2, 10]}}
    data: {root: cubes, reader: {kind: field, data: [red, nir, swir], labels: cover, classes: [soil, crop, water]}}
    augment: {kind: field}

Normalised by a file of statistics (`stats.h5` with minval and maxval, or mean and sqmean), or without one by some of
the fields. Needs pixel labels: `task: segmentation`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from instar.errors import ConfigError, DataError
from instar.settings import Settings as Base

if TYPE_CHECKING:
    import numpy as np

    from instar.augment import Augment
    from instar.manifest import Manifest
    from instar.packed import Packed
    from instar.readers._fields import Layout, Row
    from instar.readers._rows import Found, Look, Survey
    from instar.readers._stores import Files, Packs
    from instar.readers._views import View

Channel = Annotated[int, Field(ge=0)] | str

gives = frozenset({"image", "mask"})
crops = frozenset({"window", "whole"})
numbers = True  # float32 as they are in the file, and no pixels

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_ENDINGS = (".h5", ".hdf5", ".he5", ".nc", ".nc4", ".npy")
packed_from = "field"  # form of `instar.engine.packing.sources`
_STATS = "stats.h5"  # where statistics are, if nobody says
_COUNTED = 64  # rows whose labels are counted before training
_MEASURED = 16  # rows whose numbers are measured, where there is no file of statistics


class Settings(Base):
    """Fields of any number of channels with a class for each pixel."""

    kind: Literal["field"] = "field"
    """Fields of any number of channels with a class for each pixel: HDF5 or NumPy files."""
    files: str = "data-*"
    """How files of data are called; `*` is whatever tells them apart."""
    data: str | tuple[str, ...] = "climate/data"
    """Dataset of an HDF5 file with all channels; or a list of datasets, each one channel."""
    labels: str = "climate/labels_0"
    """Dataset with the number of each pixel's class."""
    label_files: str = "label-*"
    """How the NumPy file of labels is called where that of data is called as `files` says."""
    layout: Literal["auto", "HWC", "CHW"] = "auto"
    """Order of the axes: height, width, channels; `auto` sees it from the labels."""
    names: tuple[str, ...] = ()
    """Names of the channels in the files, if you want to choose by name."""
    channels: tuple[Channel, ...] | None = None
    """Which channels are read, by number (from 0) or name; null for all."""
    classes: tuple[str, ...] | None = None
    """Names of the classes in the order of their numbers; null to take the numbers that are found."""
    ignore: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    """Number of pixels whose class nobody knows."""
    normalise: Literal["auto", "minmax", "meanstd", "none"] = "auto"
    """What a channel becomes: 0 to 1 (`minmax`), or mean 0 and deviation 1 (`meanstd`)."""
    stats: Path | None = None
    """File of statistics over all channels, relative to `root`; null for stats.h5 where there is one."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        for name in ("files", "label_files"):
            if getattr(self, name).count("*") != 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must have one * in it")
        if self.channels is not None and (not self.channels or len(set(self.channels)) < len(self.channels)):
            raise ValueError("channels must name at least one, and each once")
        if self.classes is not None and not 2 <= len(self.classes) <= 254:
            raise ValueError(f"{len(self.classes)} classes, but pixels can be told apart in 2 to 254")
        return self


class Reader:
    """Rows of a manifest as samples. Holds no open file, so it can go to any number of worker processes."""

    def __init__(self, settings: Settings, manifest: "Manifest", view: "Augment"):
        import numpy as np

        from instar.readers import _stores
        from instar.readers._masks import Codes

        self._layout = _layout(settings)
        self._view = view
        saved: Any = manifest.statistics
        self._codes = Codes(tuple(saved["codes"]["values"]), tuple(saved["codes"]["ignored"]))
        self._zero_C = np.array(saved["offset"], np.float32)
        self._store = _stores.of(manifest.root)
        self._folder = f"{manifest.root}/"
        self._files = manifest.table["file"].combine_chunks()
        self._masks = manifest.table["other"].combine_chunks()
        self._sizes_N2 = manifest.sizes

    def read(self, row: int, draw: "np.random.Generator | None") -> dict[str, Any]:
        """One sample: `image`, `mask`, and `label` 0, which says that there is a mask.

        draw   decides how both are varied, in the same way; None for evaluation, which sees all of the field. Its size
               then stands in height, width, image_height and image_width.
        Raises BadImage where the row cannot be read, or holds what is no number or no class.
        """
        import numpy as np

        shapes = self.shapes(np.array([row])) if draw is None else self._shapes_of_training(row)
        places = {name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
        return {**places, **self.read_into(row, draw, places)}

    def read_into(
        self, row: int, draw: "np.random.Generator | None", places: "dict[str, np.ndarray]"
    ) -> dict[str, Any]:
        """The same with `image` and `mask` put into their places, at the top left; gives the rest of the sample."""
        from instar.readers import _views
        from instar.readers._patience import patiently

        found = patiently(lambda: self._row(row))
        view = None if draw is None else _views.training(self._view, found.width, found.height, draw)
        patiently(lambda: self._put(found, view, places))
        if view is not None:
            return {"label": 0}
        sizes = {"height": found.height, "width": found.width}
        return {"label": 0, **sizes, **{f"image_{side}": pixels for side, pixels in sizes.items()}}

    def _row(self, row: int) -> "Row":
        from instar.readers import _fields
        from instar.readers._images import BadImage

        found = _fields.Row(self._store, self._files[row].as_py(), self._masks[row].as_py(), self._layout)
        if [found.width, found.height] != self._sizes_N2[row].tolist():
            before = "x".join(map(str, self._sizes_N2[row]))
            raise BadImage(f"{found.width}x{found.height} pixels, but it was {before} at the start")
        return found

    def _put(self, found: "Row", view: "View | None", places: "dict[str, np.ndarray]") -> None:
        from instar.readers import _fields

        class_HW = found.classes(self._codes)
        image_HWC, mask_HW = places["image"], places["mask"]
        if view is None:
            image_HWC, mask_HW = image_HWC[: found.height, : found.width], mask_HW[: found.height, : found.width]
        plain = (0, False) if view is None else _fields.plainly(view)
        if plain is None or not found.image_into(image_HWC, roll=plain[0], vflip=plain[1]):
            whole_HWC = found.image()
            image_HWC[...] = whole_HWC if view is None else _fields.seen(whole_HWC, view, self._zero_C)
        mask_HW[...] = class_HW if view is None else _fields.classes_seen(class_HW, view)

    def _shapes_of_training(self, row: int) -> dict[str, Any]:
        import numpy as np

        width, height = self._sizes_N2[row].tolist()
        if self._view.crop == "window":
            width = height = self._view.size
        return {
            "image": ((height, width, len(self._zero_C)), np.dtype(np.float32)),
            "mask": ((height, width), np.dtype(np.uint8)),
        }

    def shapes(self, rows: "np.ndarray") -> dict[str, Any]:
        """Shape and type of the largest image and mask of these rows."""
        import numpy as np

        width, height = self._sizes_N2[rows].max(0).tolist()
        channels = len(self._zero_C)
        return {
            "image": ((height, width, channels), np.dtype(np.float32)),
            "mask": ((height, width), np.dtype(np.uint8)),
        }

    def name(self, row: int) -> str:
        """The file of a row, for messages."""
        return self._folder + self._files[row].as_py()


def open(settings: Settings, manifest: "Manifest", view: "Augment") -> Reader:
    """A reader of the manifest's rows. view: how fields are varied.

    Raises ConfigError where they are to be varied in colour, DataError for fields of several sizes that stay whole.
    """
    import numpy as np

    if colours := [name for name in ("brightness", "contrast", "saturation", "hue") if getattr(view, name)]:
        raise ConfigError(f"augment.{colours[0]} is for pictures; a field has no colours. Leave it out.")
    sizes = np.unique(manifest.sizes[manifest.rows("train")], axis=0).tolist()
    if view.crop == "whole" and len(sizes) > 1:
        raise DataError(
            f"{manifest.root}: augment.crop=whole needs fields of one size, but there are {len(sizes)} "
            f"({', '.join(f'{width}x{height}' for width, height in sizes[:3])} …). Write augment.crop=window."
        )
    return Reader(settings, manifest, view)


def find(settings: Settings, root: Path) -> "Found":
    """Every file of data below the root, with the file its labels are in.

    Raises DataError where there is none.
    """
    parts = [name for name in _names(root) if name.lower() in _SPLITS and (root / name).is_dir()]
    divided = any(_SPLITS[name.lower()] == "train" for name in parts)
    names = [
        f"{part}/{name}" if part else name for part in (parts if divided else [""]) for name in _names(root / part)
    ]
    return _found(settings, root, names, divided=divided)


def find_packed(settings: Settings, pack: "Packed") -> "Found":
    """The same of packed data, from the names that their files had."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for row, source in enumerate(pack.index["source"].to_pylist()):
        name = source.rpartition(":")[0]
        first.setdefault(name, row)
        last[name] = row
    names = list(first)
    tops = {name.partition("/")[0].lower() for name in names if "/" in name}
    divided = "train" in {_SPLITS.get(top) for top in tops}
    inside = [name for name in names if name.partition("/")[0].lower() in _SPLITS or not divided]
    found = _found(settings, pack.folder, inside, divided=divided)
    found.rows.extend((first[file], last[mask]) for file, mask in zip(found.files, found.masks, strict=True))
    return found


def members(settings: Settings, file: str, mask: str) -> list[tuple[str, str]]:
    """The arrays of one row, each by the name `find_packed` knows it by, and what it is called in a shard."""
    if file != mask:
        return [(f"{file}:", "data"), (f"{mask}:", "labels")]
    names = (*_datasets(settings), settings.labels)
    tails = [name.rpartition("/")[2] for name in names]
    short = len(set(tails)) == len(tails)
    return [
        (f"{file}:{name}", tail if short else name.replace("/", "-")) for name, tail in zip(names, tails, strict=True)
    ]


def beside(settings: Settings, root: Path) -> list[Path]:
    """The files that are of all rows."""
    path = root / (settings.stats or _STATS)
    return [path] if path.is_file() else []


def looking(settings: Settings, root: Path) -> "Callable[[str, str], Look]":
    """What tells the size of one row from its headers, given its two files."""
    from instar.readers import _fields, _stores
    from instar.readers._images import BadImage
    from instar.readers._rows import Look

    store, layout = _stores.of(root), _layout(settings)

    def look(file: str, mask: str) -> Look:
        try:
            height, width, count = _fields.size(store, file, mask, layout)
            _fields.numbers_of(layout, count)
        except (BadImage, OSError) as error:
            return Look(reason=str(error))
        return Look(width, height)

    return look


def examining(settings: Settings, root: Path) -> "Callable[[str, str], tuple[np.ndarray, np.ndarray]]":
    """What gives all numbers of a row, float32 HWC, and those of its labels, HW, whatever they are."""
    from instar.readers import _fields, _stores

    store, layout = _stores.of(root), _layout(settings)

    def examine(file: str, mask: str) -> "tuple[np.ndarray, np.ndarray]":
        row = _fields.Row(store, file, mask, layout)
        return row.values(), row.numbers()

    return examine


def survey(settings: Settings, root: Path, files: "Sequence[str]", masks: "Sequence[str]") -> "Survey":
    """The classes, how many pixels each has, and how channels are normalised, from some of the rows.

    Raises DataError where statistics are missing or wrong.
    """
    from collections import Counter

    import numpy as np

    from instar.masks import IGNORE, MOST_CLASSES
    from instar.readers import _fields, _stores
    from instar.readers._images import BadImage
    from instar.readers._rows import Survey

    layout, store = _layout(settings), _stores.of(root)
    pairs = store.some(list(zip(files, masks, strict=True)), _COUNTED)
    counted: Counter[int] = Counter()
    for file, mask in pairs:
        try:
            number, count = np.unique(_fields.Row(store, file, mask, layout).numbers(), return_counts=True)
        except (BadImage, OSError):
            continue  # reading it will say so, and count it
        counted.update(dict(zip(number.tolist(), count.tolist(), strict=True)))
    ignored = [] if settings.ignore is None else [settings.ignore]
    found = sorted(set(counted) - set(ignored))
    if settings.classes is None and (not found or found[0] < 0 or found[-1] >= MOST_CLASSES or len(found) < 2):
        raise DataError(
            f"{root}: the labels hold {found[:5]}{' …' if len(found) > 5 else ''}, which are no classes from 0 on. "
            f"Name the classes in data.reader.classes, and what to leave out in data.reader.ignore."
        )
    names = settings.classes or tuple(str(number) for number in range(found[-1] + 1))
    if not ignored and IGNORE not in range(len(names)):
        ignored = [IGNORE]
    offset, scale, notes = _scaling(settings, store, root, pairs)
    statistics = {
        "codes": {"values": list(range(len(names))), "ignored": ignored},
        "channels": len(offset),
        "offset": offset,
        "scale": scale,
    }
    return Survey(names, [counted.get(number, 0) for number in range(len(names))], statistics, notes)


def _scaling(
    settings: Settings, store: "Files | Packs", root: Path, pairs: "list[tuple[str, str]]"
) -> tuple[list[float], list[float], list[str]]:
    """How channels are normalised: by the file of statistics, or for want of one by some rows."""
    from instar.readers import _fields
    from instar.readers._images import BadImage

    path = store.beside(settings.stats or Path(_STATS))
    if settings.stats is not None and path is None:
        wanted = root / settings.stats
        raise DataError(
            f"{wanted}: there is no such file of statistics. Write data.reader.stats=FILE, or leave it out."
        )
    layout, sums, wrong, channels, count = _layout(settings), _fields.Moments(), "", [], 0
    needs_numbers = path is None and settings.normalise != "none"
    for file, mask in pairs:
        try:
            row = _fields.Row(store, file, mask, layout)
            if needs_numbers:
                sums.add(row.image())
        except (BadImage, OSError) as error:
            wrong = f"{file}: {error}"
            continue
        channels, count = row.channels, row.count
        if sums.fields == _MEASURED or not needs_numbers:
            break
    if not count:
        raise DataError(f"{root}: not one of the fields can be read. {wrong}")
    return _fields.scaling(path, settings.normalise, sums, channels, count)


def looks_like_fields(root: Path) -> bool:
    """Whether a folder has fields in it that these settings read as they are, also within train/."""
    try:
        return bool(find(Settings(), root).files)
    except (DataError, OSError):
        return False


def _found(settings: Settings, root: Path, names: "Sequence[str]", *, divided: bool) -> "Found":
    from instar.readers._rows import Found

    there, found = set(names), Found([], [], [] if divided else None)
    others: list[str] = []
    for file in names:
        folder, _, name = file.rpartition("/")
        labels = _labels_of(settings, name)
        if labels is None:
            others.append(name)
            continue
        masks = [f"{folder}/{one}" if folder else one for one in labels]
        mask = next((one for one in masks if one in there), None)
        if mask is None:
            found.skipped.append((file, f"it has no labels called {masks[0]}"))
            continue
        found.files.append(file)
        found.masks.append(mask)
        if found.splits is not None:
            found.splits.append(_SPLITS[file.partition("/")[0].lower()])
    if not found.files:
        raise DataError(
            f"{root}: no file called {settings.files} ({', '.join(end[1:] for end in _ENDINGS)}) with labels, but "
            f"{', '.join(map(repr, others[:3])) or 'nothing'}. Say how they are called: data.reader.files='*'."
        )
    return found


def _labels_of(settings: Settings, name: str) -> list[str] | None:
    """What the file of labels may be called, the likeliest first; None for a file that is none of data."""
    middle = _middle(name, settings.files)
    if middle is None or not name.lower().endswith(_ENDINGS):
        return None
    if not name.endswith(".npy"):
        return [name]
    data, labels = (f".{one.rpartition('/')[2]}" for one in (_datasets(settings)[0], settings.labels))
    stem = name.removesuffix(".npy")
    if _middle(name, settings.label_files) is not None or stem.endswith(labels):
        return None
    called = [settings.label_files.removesuffix(".npy").replace("*", middle) + ".npy"]
    # As `instar convert` calls what it makes of one HDF5 file.
    return [stem.removesuffix(data) + labels + ".npy", *called] if stem.endswith(data) else called


def _datasets(settings: Settings) -> tuple[str, ...]:
    return (settings.data,) if isinstance(settings.data, str) else settings.data


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def _layout(settings: Settings) -> "Layout":
    from instar.readers._fields import Layout

    return Layout(settings.data, settings.labels, settings.names, settings.channels, settings.layout)


def _middle(name: str, pattern: str) -> str | None:
    """What stands for the * of the pattern in a file's name, its ending aside; None where it does not match."""
    stem = name if pattern.endswith(_ENDINGS) else name.rpartition(".")[0]
    before, _, after = pattern.partition("*")
    long_enough = len(stem) >= len(before) + len(after)
    if not (long_enough and stem.startswith(before) and stem.endswith(after)):
        return None
    return stem[len(before) : len(stem) - len(after)]
