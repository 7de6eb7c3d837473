"""Images with one label each: photographs, micrographs, spectrograms as pictures.

Gives `image` (uint8, size x size x channels) and `label` (number of the class). Reads JPEG, PNG, TIFF, BMP, GIF, WebP
and PPM; greyscale, palette, CMYK, transparent, 16-bit and EXIF-turned images become what is asked for here. Packed data
(`instar pack`) are found by what stands in the folder.

    data: {root: photos, reader: {kind: image_label, channels: 1}}
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from instar.settings import Settings as Base

if TYPE_CHECKING:
    from instar.augment import Augment, Crops
    from instar.manifest import Manifest
    from instar.readers._labelled import Reader

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


def colour(background: str | tuple[int, int, int]) -> tuple[int, int, int]:
    """Red, green and blue of a background as the settings say it."""
    return _COLOURS[background] if isinstance(background, str) else background


def open(settings: Settings, manifest: "Manifest", view: "Augment", wanted: "Crops | None" = None) -> "Reader":
    """A reader of the manifest's rows.

    view     how images are varied, and the size they become
    wanted   how many views a task learns from; None for one
    """
    from instar.readers._labelled import Reader
    from instar.readers._pixels import Form

    form = Form(view.size, settings.channels, colour(settings.background), view.fill, settings.span)
    return Reader(form, manifest, view, wanted)
