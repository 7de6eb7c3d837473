"""Images with one label each: photographs, micrographs, spectrograms as pictures.

Gives `image` (uint8, size x size x channels) and `label` (number of the class). Reads JPEG, PNG, TIFF, BMP, GIF, WebP
and PPM; greyscale, palette, CMYK, transparent, 16-bit and EXIF-turned images become what is asked for here. Packed data
(`instar pack`) are found by what stands in the folder.

    data: {root: photos, reader: {kind: image_label, channels: 1}}
"""

from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from instar.settings import Settings as Base

if TYPE_CHECKING:
    import numpy as np

    from instar.augment import Augment, Crops
    from instar.manifest import Manifest
    from instar.packed import Packed

Byte = Annotated[int, Field(ge=0, le=255)]

gives = frozenset({"image", "label"})
crops = frozenset({"area", "centre", "squash", "pad"})
gives_views = True

_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}


class Settings(Base):
    """Images with one label each."""

    kind: Literal["image_label"] = "image_label"
    """The plug-in."""
    channels: Literal[1, 3] = 3
    """Colour (3) or greyscale (1)."""
    background: Literal["white", "black", "grey"] | tuple[Byte, Byte, Byte] = "white"
    """What shows through where an image is transparent: a name, or red, green and blue."""
    span: tuple[float, float] | None = None
    """Values that become black and white in images of more than eight bits. Float and 32-bit images need it; 16-bit
    ones use 0 to 65535 without."""

    @model_validator(mode="after")
    def _not_empty(self) -> "Settings":
        if self.span is not None and self.span[0] == self.span[1]:
            raise ValueError(f"span is [{self.span[0]}, {self.span[1]}], but black and white must differ")
        return self


class Reader:
    """Rows of a manifest as samples. Holds no open file, so it can go to any number of worker processes."""

    def __init__(self, settings: Settings, manifest: "Manifest", view: "Augment", wanted: "Crops | None"):
        from instar import packed
        from instar.readers._pixels import Form

        self._form = Form(view.size, settings.channels, colour(settings.background), view.fill, settings.span)
        self._view, self._wanted = view, wanted
        # A row's name straight out of Arrow's memory: ten million names are not copied into every worker.
        self._folder = f"{manifest.root}/"
        self._files = manifest.table["file"].combine_chunks()
        self._targets = manifest.targets
        self._pack: Packed | None = None
        if packed.is_packed(manifest.root):
            self._pack = packed.read(manifest.root)
            self._rows = self._pack.rows_of(manifest.table["file"])

    def read(self, row: int, draw: "np.random.Generator | None") -> dict[str, Any]:
        """One sample: `image`, uint8 of size x size x channels, and `label`.

        draw   decides how the image is varied; None for what evaluation sees
        Raises BadImage where the file cannot be read.
        """
        from instar.readers import _packed, _pixels, _views
        from instar.readers._patience import patiently

        if self._wanted is not None:
            return {**patiently(lambda: self._views(row, draw)), "label": int(self._targets[row])}
        decide = _views.evaluation if draw is None else partial(_views.training, draw=draw)
        choose = cache(partial(decide, self._view))  # remembered, so that a second try does not draw anew
        if self._pack is None:
            image = patiently(lambda: _pixels.read(self.name(row), choose, self._form))
        else:
            stored = partial(_packed.viewed, self._pack, int(self._rows[row]), choose, self._form)
            image = patiently(stored)
        return {"image": image, "label": int(self._targets[row])}

    def _views(self, row: int, draw: "np.random.Generator | None") -> dict[str, Any]:
        """The views that a task learns from, by the names it looks for."""
        import numpy as np

        from instar.readers import _crops, _halves, _pixels

        assert self._wanted is not None, "the caller looked"
        data = _pixels.bytes_of(self.name(row)) if self._pack is None else self._pack.checked(int(self._rows[row]))
        one = _pixels.of_bytes(data) if bytes(data[:6]) != b"\x93NUMPY" else self._array(row, data)
        width, height = one.shape[1::-1] if isinstance(one, np.ndarray) else _pixels.upright_size(one)
        wholes = {"image": _crops.Whole(one, _halves.Region(0, 0, width, height), self._form)}
        if draw is None:
            return _crops.evaluation(wholes, self._wanted, self._view, row)
        return _crops.training(wholes, self._wanted, self._view, draw)

    def _array(self, row: int, data: "bytes | memoryview") -> "np.ndarray":
        assert self._pack is not None, "only packed samples are arrays"
        return self._pack.array(int(self._rows[row]), data)

    def name(self, row: int) -> str:
        """The file of a row, for messages."""
        return self._folder + self._files[row].as_py()


def colour(background: str | tuple[int, int, int]) -> tuple[int, int, int]:
    """Red, green and blue of a background as the settings say it."""
    return _COLOURS[background] if isinstance(background, str) else background


def open(settings: Settings, manifest: "Manifest", view: "Augment", wanted: "Crops | None" = None) -> Reader:
    """A reader of the manifest's rows.

    view     how images are varied, and the size they become
    wanted   how many views a task learns from; None for one
    """
    return Reader(settings, manifest, view, wanted)
