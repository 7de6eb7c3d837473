"""Images with a mask each: every pixel has a class.

Masks lie in a folder of their own beside the images (images/ + masks/, JPEGImages/ + SegmentationClass/, …; also
within train/, val/ and test/), called after them; or a table names them in its column `mask`. They are grey or palette
PNGs of class numbers, colours, or grey values with a threshold. Gives `image` (uint8) and `mask` (uint8, 255: nobody
knows).
Packed data (`instar pack`) are found by what stands in the folder.

    data: {root: photos, reader: {kind: image_mask, classes: [background, butterfly]}}
    data: {root: streets, reader: {kind: image_mask, classes: {road: '#804080', sky: '#4682b4'}, ignore: '#000000'}}

Needs pixel labels: `task: segmentation`.
"""

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from instar.errors import DataError
from instar.settings import Settings as Base

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from instar.augment import Augment
    from instar.manifest import Manifest
    from instar.packed import Packed
    from instar.readers._masks import Codes
    from instar.readers._rows import Found, Survey

Byte = Annotated[int, Field(ge=0, le=255)]
Code = Annotated[int, Field(ge=0, le=0xFFFF)] | Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]

gives = frozenset({"image", "mask"})
packed_from = "folder"  # form of `instar.engine.packing.sources`
_MASK = "mask"  # what a mask is called in a shard: 000000017.mask.png
crops = frozenset({"area", "centre", "squash", "pad", "window", "whole"})

_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}
_SURVEYED = 500  # masks that are read before training, to find the classes
_COUNTED = 200  # masks that are enough to know how frequent known classes are


class Settings(Base):
    """Images with a mask each."""

    kind: Literal["image_mask"] = "image_mask"
    """Images with a mask each: pixel labels."""
    images: str = ""
    """Folder of the images below `root`; empty to look for images/, JPEGImages/ and their like."""
    masks: str = ""
    """Folder of the masks below `root`; empty to look for masks/, segmentations/, labels/ and their like."""
    pattern: Annotated[str, Field(pattern=r"^([^{}]*\{stem\}[^{}]*)?$")] = ""
    """How a mask is called after its image, without ending: `{stem}_mask`; empty to try the usual ones."""
    classes: tuple[str, ...] | dict[str, Code] | None = None
    """Names of the classes in the order of their numbers; or each name with its grey value or colour ('#804080'); null
    to take the values that are found."""
    threshold: Byte | None = None
    """Grey value from which on a pixel is of the second class; null where values are classes."""
    ignore: Code | None = None
    """Value or colour of pixels whose class nobody knows; 255 if unsaid and no class has it."""
    channels: Literal[1, 3] = 3
    """Colour (3) or greyscale (1)."""
    background: Literal["white", "black", "grey"] | tuple[Byte, Byte, Byte] = "white"
    """What shows through where an image is transparent: a name, or red, green and blue."""
    span: tuple[float, float] | None = None
    """Values that become black and white in images of more than eight bits."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if self.span is not None and self.span[0] == self.span[1]:
            raise ValueError(f"span is [{self.span[0]}, {self.span[1]}], but black and white must differ")
        if self.classes is not None and not 2 <= len(self.classes) <= 254:
            raise ValueError(f"{len(self.classes)} classes, but pixels can be told apart in 2 to 254")
        if self.threshold is not None and (isinstance(self.classes, dict) or len(self.classes or "ab") != 2):
            raise ValueError("threshold makes two classes; write their two names as classes, or leave one of them out")
        if isinstance(self.classes, dict):
            codes = list(self.classes.values())
            if len({type(code) for code in codes}) > 1:
                raise ValueError("some classes are colours and some are values; write all of them alike")
            if len(set(codes)) < len(codes):
                raise ValueError("two classes have the same value")
        return self


class Reader:
    """Rows of a manifest as samples. Holds no open file, so it can go to any number of worker processes."""

    def __init__(self, settings: Settings, manifest: "Manifest", view: "Augment"):
        import numpy as np

        from instar import packed
        from instar.readers._pixels import Form

        self._form = Form(view.size, settings.channels, colour(settings.background), view.fill, settings.span)
        self._view = view
        self._codes = _codes_of(manifest.statistics)
        self._folder = f"{manifest.root}/"
        self._files = manifest.table["file"].combine_chunks()
        self._masks = manifest.table["other"].combine_chunks()
        self._sizes_N2 = manifest.sizes
        self._pack: Packed | None = None
        if packed.is_packed(manifest.root):
            self._pack = packed.read(manifest.root)
            self._rows_N2 = np.stack([self._pack.rows_of(manifest.table[side]) for side in ("file", "other")], 1)

    def read(self, row: int, draw: "np.random.Generator | None") -> dict[str, Any]:
        """One sample: `image`, `mask`, and `label` 0, which says that there is a mask.

        draw   decides how both are varied, in the same way; None for evaluation, which sees all of the image, and its
               mask as it is in the file. Their sizes then stand in height, width, image_height and image_width.
        Raises BadImage where a file cannot be read or the two do not fit.
        """
        from instar.readers import _masks, _packed, _pixels, _views
        from instar.readers._patience import patiently

        decide = _views.everything if draw is None else partial(_views.training, draw=draw)
        choose = cache(partial(decide, self._view))  # remembered: image and mask, and a second try, are varied alike
        class_HW = patiently(lambda: self._mask(row))
        if self._pack is None:
            image = patiently(lambda: _pixels.read(self.name(row), choose, self._form))
        else:
            stored = partial(_packed.viewed, self._pack, int(self._rows_N2[row, 0]), choose, self._form)
            image = patiently(stored)
        height, width = class_HW.shape
        if draw is not None:
            return {"image": image, "mask": _masks.seen(class_HW, choose(width, height), self._form.size), "label": 0}
        sizes = {"height": height, "width": width, "image_height": image.shape[0], "image_width": image.shape[1]}
        return {"image": image, "mask": class_HW, "label": 0, **sizes}

    def shapes(self, rows: "np.ndarray") -> dict[str, Any]:
        """Shape and type of the largest image and the largest mask that evaluation sees of these rows."""
        import numpy as np

        from instar.readers import _views

        sizes = np.unique(self._sizes_N2[rows], axis=0).tolist()
        frames = [_views.everything(self._view, width, height).frame for width, height in sizes if width and height]
        lands = [frame.shape for frame in frames if frame is not None]
        image, mask = (
            tuple(max(side) for side in zip(*some, strict=True)) for some in (lands, [s[::-1] for s in sizes])
        )
        return {
            "image": ((*image, self._form.channels), np.dtype(np.uint8)),
            "mask": (mask, np.dtype(np.uint8)),
        }

    def name(self, row: int) -> str:
        """The file of a row, for messages."""
        return self._folder + self._files[row].as_py()

    def _mask(self, row: int) -> "np.ndarray":
        from instar.readers import _masks, _packed
        from instar.readers._images import BadImage

        name, colours = self._masks[row].as_py(), self._codes.colours
        try:
            if self._pack is None:
                value_HW = _masks.values(self._folder + name, colours=colours)
            else:
                value_HW = _packed.mask_values(self._pack, int(self._rows_N2[row, 1]), colours=colours)
            class_HW = _masks.read(value_HW, self._codes)
        except BadImage as error:
            raise BadImage(f"mask {name}: {error}") from error.__cause__
        width, height = self._sizes_N2[row].tolist()
        if class_HW.shape != (height, width):
            raise BadImage(unequal(name, class_HW.shape[::-1], (width, height)))
        return class_HW


def colour(background: str | tuple[int, int, int]) -> tuple[int, int, int]:
    """Red, green and blue of a background as the settings say it."""
    return _COLOURS[background] if isinstance(background, str) else background


def open(settings: Settings, manifest: "Manifest", view: "Augment") -> Reader:
    """A reader of the manifest's rows. view: how images are varied, and the size they become."""
    if view.crop == "whole":
        one_size(manifest)
    return Reader(settings, manifest, view)


def find(settings: Settings, root: Path) -> "Found":
    """Every image below the root with its mask."""
    from instar.readers import _pairs

    return _pairs.find(root, images=settings.images, masks=settings.masks, pattern=settings.pattern)


def find_packed(settings: Settings, pack: "Packed") -> "Found":
    """The same of packed data: members of one key."""
    from instar.readers._rows import Found

    found = Found([], [])
    members: dict[str, dict[str, int]] = {}
    for row, (key, part) in enumerate(zip(*(pack.index[name].to_pylist() for name in ("key", "part")), strict=True)):
        members.setdefault(key, {})[part] = row
    sources = pack.index["source"]
    for parts in members.values():
        if _MASK in parts and "" in parts:
            found.files.append(sources[parts[""]].as_py())
            found.masks.append(sources[parts[_MASK]].as_py())
            found.rows.append((parts[""], parts[_MASK]))
        else:
            one = sources[next(iter(parts.values()))].as_py()
            found.skipped.append((one, "it has no mask" if "" in parts else "it has no image"))
    if not found.files:
        raise DataError(
            f"{pack.folder}: not one of {len(pack)} packed images has a mask. Pack a folder of images and masks, or a "
            f"recipe with data.reader=image_mask: instar pack RECIPE to={pack.folder}"
        )
    return found


def members(settings: Settings, file: str, mask: str) -> list[tuple[str, str]]:
    """The members of one row in a shard: which file each is of, and what it is called beside the key."""
    return [(file, ""), (mask, _MASK)]


def beside(settings: Settings, root: Path) -> list[Path]:
    """The files that are of all rows: none."""
    return []


def examining(settings: Settings, root: Path) -> "Callable[[str, str], tuple[None, np.ndarray]]":
    """What gives the values of a row's mask, HW; the image is looked at by whoever looks at pictures."""
    from instar import packed
    from instar.readers import _masks, _packed

    colours = _in_colours(settings)
    if not packed.is_packed(root):
        return lambda file, mask: (None, _masks.values(f"{root}/{mask}", colours=colours))
    pack = packed.read(root)
    row_of = {name: row for row, name in enumerate(pack.index["source"].to_pylist())}
    return lambda file, mask: (None, _packed.mask_values(pack, row_of[mask], colours=colours))


def survey(settings: Settings, root: Path, files: "Sequence[str]", masks: "Sequence[str]") -> "Survey":
    """The classes, and how many pixels each has, from some of the masks.

    Raises DataError where the values do not look like classes.
    """
    from instar.masks import IGNORE
    from instar.readers import _masks, _packed
    from instar.readers._rows import Survey

    colours = _in_colours(settings)
    most = _SURVEYED if settings.classes is None else _COUNTED
    value_of, near = _packed.masks_of(root, masks, colours=colours)
    looked = _some(masks, most) if near else list(masks[:most])
    found, wrong = _masks.counted(value_of, looked)
    if not found:
        raise DataError(
            f"{root}: not one of {len(looked)} masks can be read. The first: {wrong[0] if wrong else 'none'}"
        )
    ignored = (_number(settings.ignore),) if settings.ignore is not None else ()
    names, notes = _names(settings.classes), []
    if settings.threshold is not None:
        names = names or ("background", "foreground")
        codes = _masks.Codes((0, settings.threshold), threshold=settings.threshold)
        over = sum(count for value, count in found.items() if value >= settings.threshold)
        return Survey(names, [sum(found.values()) - over, over], _as_json(codes))
    if settings.classes is None:
        names, codes = _masks.guessed(found, ignored=ignored, where=str(root))
        if len(looked) < len(masks):
            notes.append(
                f"{len(names)} classes were found in {len(looked)} of {len(masks)} masks; data.reader.classes names all"
            )
    else:
        values = (
            tuple(map(_number, settings.classes.values())) if isinstance(settings.classes, dict) else range(len(names))
        )
        if not ignored and not colours and IGNORE not in values:
            ignored = (IGNORE,)
        codes = _masks.Codes(tuple(values), ignored, colours)
    return Survey(names, [found.get(value, 0) for value in codes.values], _as_json(codes), notes)


def unequal(mask: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Why a mask of this width and height does not belong to its image."""
    return f"mask {mask} is {found[0]}x{found[1]}, the image {expected[0]}x{expected[1]} (upright)"


def one_size(manifest: "Manifest") -> None:
    """Raises DataError where images of more than one size are to be trained on whole."""
    import numpy as np

    sizes = np.unique(manifest.sizes[manifest.rows("train")], axis=0).tolist()
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for width, height in sizes[:3])
        raise DataError(
            f"{manifest.root}: augment.crop=whole needs images of one size, but there are {len(sizes)} ({shown} …). "
            f"Write augment.crop=window for a window of augment.size pixels, or augment.crop=area for photographs."
        )


def _some(all_of_them: "Sequence[str]", most: int) -> list[str]:
    """At most so many, evenly spaced."""
    step = max(1, -(-len(all_of_them) // most))
    return list(all_of_them[::step])


def _in_colours(settings: Settings) -> bool:
    codes = settings.classes.values() if isinstance(settings.classes, dict) else ()
    return any(isinstance(code, str) for code in codes)


def _number(code: int | str) -> int:
    return code if isinstance(code, int) else int(code[1:], 16)


def _names(classes: "tuple[str, ...] | dict[str, Code] | None") -> tuple[str, ...]:
    return tuple(classes or ())


def _as_json(codes: "Codes") -> dict[str, Any]:
    return {
        "codes": {
            "values": codes.values,
            "ignored": codes.ignored,
            "colours": codes.colours,
            "threshold": codes.threshold,
        }
    }


def _codes_of(statistics: "dict[str, Any]") -> "Codes":
    from instar.readers._masks import Codes

    saved = statistics["codes"]
    return Codes(tuple(saved["values"]), tuple(saved["ignored"]), saved["colours"], saved["threshold"])
