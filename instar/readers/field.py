"""Fields with a class for each pixel: climate model output, sensor stacks, anything of many channels.

HDF5 (one file a row, data and labels in it) or NumPy (data-NAME.npy and label-NAME.npy), below the root or in its
folders train/, validation/ and test/. Gives `image` (float32, normalised) and `mask` (uint8, 255: nobody knows).

    data: {root: deepcam, reader: {kind: field, classes: [background, cyclone, river], channels: [0, 1, 2, 10]}}
    data: {root: cubes, reader: {kind: field, data: [red, nir, swir], labels: cover, classes: [soil, crop, water]}}
    augment: {kind: field}

Normalised by a file of statistics (`stats.h5` with minval and maxval, or mean and sqmean), or without one by some of
the fields. Needs pixel labels: `task: segmentation`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from instar.errors import ConfigError, DataError
from instar.settings import Settings as Base

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from instar.augment import Augment
    from instar.manifest import Manifest
    from instar.readers._fields import Layout
    from instar.readers._rows import Found, Look, Survey

Channel = Annotated[int, Field(ge=0)] | str

gives = frozenset({"image", "mask"})
crops = frozenset({"window", "whole"})
normalised = True

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_ENDINGS = (".h5", ".hdf5", ".he5", ".nc", ".nc4", ".npy")
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

        from instar.readers._masks import Codes

        self._layout = _layout(settings)
        self._view = view
        saved: Any = manifest.statistics
        self._codes = Codes(tuple(saved["codes"]["values"]), tuple(saved["codes"]["ignored"]))
        self._offset_C, self._factor_C = (np.array(saved[name], np.float32) for name in ("offset", "factor"))
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
        from instar.readers import _fields, _views
        from instar.readers._patience import patiently
        from instar.readers._pixels import BadImage

        file, mask = self.name(row), self._folder + self._masks[row].as_py()
        image_HWC, class_HW = patiently(lambda: _fields.read(file, mask, self._layout, self._codes))
        height, width = class_HW.shape
        if [width, height] != self._sizes_N2[row].tolist():
            raise BadImage(
                f"{width}x{height} pixels, but it was {'x'.join(map(str, self._sizes_N2[row]))} at the start"
            )
        image_HWC -= self._offset_C
        image_HWC *= self._factor_C
        if draw is not None:
            view = _views.training(self._view, width, height, draw)
            image_HWC, class_HW = _fields.seen(image_HWC, class_HW, view)
            return {"image": image_HWC, "mask": class_HW, "label": 0}
        sizes = {"height": height, "width": width, "image_height": height, "image_width": width}
        return {"image": image_HWC, "mask": class_HW, "label": 0, **sizes}

    def shapes(self, rows: "np.ndarray") -> dict[str, Any]:
        """Shape and type of the largest image and mask of these rows."""
        import numpy as np

        width, height = self._sizes_N2[rows].max(0).tolist()
        channels = len(self._offset_C)
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
    from instar.readers._rows import Found

    parts = [name for name in _names(root) if name.lower() in _SPLITS and (root / name).is_dir()]
    divided = any(_SPLITS[name.lower()] == "train" for name in parts)
    found = Found([], [], [] if divided else None)
    others: list[str] = []
    for part in parts if divided else [""]:
        for name in _names(root / part):
            file = f"{part}/{name}" if part else name
            middle = _middle(name, settings.files)
            is_label = name.endswith(".npy") and _middle(name, settings.label_files) is not None
            if middle is None or is_label or not name.lower().endswith(_ENDINGS):
                others.append(name)
                continue
            label = name
            if name.endswith(".npy"):
                label = settings.label_files.removesuffix(".npy").replace("*", middle) + ".npy"
            mask = f"{part}/{label}" if part else label
            if not (root / mask).is_file():
                found.skipped.append((file, f"it has no labels called {mask}"))
                continue
            found.files.append(file)
            found.masks.append(mask)
            if found.splits is not None:
                found.splits.append(_SPLITS[part.lower()])
    if not found.files:
        raise DataError(
            f"{root}: no file called {settings.files} ({', '.join(end[1:] for end in _ENDINGS)}) with labels, but "
            f"{', '.join(map(repr, others[:3])) or 'nothing'}. Say how they are called: data.reader.files='*'."
        )
    return found


def look(settings: Settings, root: Path, file: str, mask: str) -> "Look":
    """The size of one row, from its headers."""
    from instar.readers import _fields
    from instar.readers._pixels import BadImage
    from instar.readers._rows import Look

    path, label = f"{root}/{file}", f"{root}/{mask}"
    try:
        height, width, count = _fields.size(path, label, _layout(settings))
        _fields.numbers_of(_layout(settings), count)
    except (BadImage, OSError) as error:
        return Look(reason=str(error))
    return Look(width, height)


def survey(settings: Settings, root: Path, files: "Sequence[str]", masks: "Sequence[str]") -> "Survey":
    """The classes, how many pixels each has, and how channels are normalised, from some of the rows.

    Raises DataError where statistics are missing or wrong.
    """
    from collections import Counter

    import numpy as np

    from instar.masks import IGNORE, MOST_CLASSES
    from instar.readers import _fields
    from instar.readers._pixels import BadImage
    from instar.readers._rows import Survey

    layout = _layout(settings)
    pairs = list(zip([f"{root}/{one}" for one in files], [f"{root}/{one}" for one in masks], strict=True))
    counted: Counter[int] = Counter()
    for file, mask in pairs[:: max(1, -(-len(pairs) // _COUNTED))]:
        try:
            number, count = np.unique(_fields.classes(file, mask, layout), return_counts=True)
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
    offset, factor, notes = _scaling(settings, root, layout, pairs, names=names, ignored=ignored)
    statistics = {
        "codes": {"values": list(range(len(names))), "ignored": ignored},
        "channels": len(offset),
        "offset": offset,
        "factor": factor,
    }
    return Survey(names, [counted.get(number, 0) for number in range(len(names))], statistics, notes)


def _scaling(
    settings: Settings,
    root: Path,
    layout: "Layout",
    pairs: "list[tuple[str, str]]",
    *,
    names: "tuple[str, ...]",
    ignored: "list[int]",
) -> tuple[list[float], list[float], list[str]]:
    from instar.readers import _fields
    from instar.readers._masks import Codes
    from instar.readers._pixels import BadImage

    path = root / (settings.stats or "stats.h5")
    if settings.stats is not None and not path.is_file():
        raise DataError(f"{path}: there is no such file of statistics. Write data.reader.stats=FILE, or leave it out.")
    has_file = path.is_file()
    sums, wrong, codes = _fields.Moments(), "", Codes(tuple(range(len(names))), tuple(ignored))
    # One row says how many channels there are; without a file of statistics, some say how large their numbers are.
    wanted = 1 if has_file or settings.normalise == "none" else _MEASURED
    count = 0
    for file, mask in pairs[:: max(1, -(-len(pairs) // _COUNTED))]:
        try:
            _, _, count = _fields.size(file, mask, layout)
            sums.add(_fields.read(file, mask, layout, codes)[0])
        except (BadImage, OSError) as error:
            wrong = f"{file}: {error}"
            continue
        if sums.fields == wanted:
            break
    if sums.fields == 0:
        raise DataError(f"{root}: not one of the fields can be read. {wrong}")
    chosen = _fields.numbers_of(layout, count)
    return _fields.scaling(str(path) if has_file else "", settings.normalise, sums, chosen, count)


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
