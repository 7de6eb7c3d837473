"""Images: files that hold pictures, opened no further than asked, and whatever is wrong with them in words.

Formats for which Pillow runs other programs (EPS) are never opened; a header that says too many pixels is refused.
"""

import errno
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from instar.errors import DataError

# Importing a plugin registers its format; those left out are never tried. A phone's MPO is opened as JPEG.
_PLUGINS = (TiffImagePlugin, WebPImagePlugin)
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
MOST_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a GiB in RGB
_SMALL = 1 << 16  # bytes

Colour = tuple[int, int, int]
Span = tuple[float, float]

# Above its limit Pillow warns, and only refuses at twice that. A bomb is refused.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

_ORIENTATION = 0x0112
TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BITS = (0.0, 65535.0)


class BadImage(DataError):
    """One file cannot be used as an image. The message is the reason, without the file's name."""


def bytes_of(path: str | Path) -> bytes:
    """All of a file; raises BadImage for what is no regular file (a FIFO would block for ever) or unreadable."""
    with problems_named(), os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BadImage("not a regular file")
        return file.read()


def of_bytes(data: bytes | memoryview) -> Image.Image:
    """The image in the bytes of a file, its header read and no pixel decoded. Raises BadImage."""
    with problems_named():
        if not len(data):
            raise BadImage("empty file, 0 bytes")
        return _limited(Image.open(io.BytesIO(data), formats=FORMATS))


def of_array(array: np.ndarray) -> Image.Image:
    """An array of H x W or H x W x C as an image. Raises BadImage where it has no colours that are known here."""
    flat = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    kind = (flat.dtype.kind + str(flat.dtype.itemsize), flat.shape[2] if flat.ndim == 3 else 1)
    if flat.ndim not in (2, 3) or kind not in (*((("u1", n)) for n in (1, 2, 3, 4)), ("u2", 1), ("i4", 1), ("f4", 1)):
        raise BadImage(f"an array of {' x '.join(map(str, array.shape))} {array.dtype} is no picture")
    return _limited(Image.fromarray(np.ascontiguousarray(flat.astype(flat.dtype.newbyteorder("="), copy=False))))


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[Image.Image, int]]:
    """The image behind a path, its header read and no pixel decoded; and the descriptor of its file.

    Raises BadImage for what is no regular file (a FIFO would block for ever), empty, unreadable, or no image.
    """
    with problems_named():
        # O_NONBLOCK has no effect on a regular file, and keeps the opening of a FIFO from waiting for a writer.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    with file:
        with problems_named():
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("not a regular file")
            if status.st_size == 0:
                raise BadImage("empty file, 0 bytes")
            # Most reads are of a few bytes; memory answers them faster than a file.
            small = status.st_size <= _SMALL
            image = _limited(Image.open(io.BytesIO(file.read()) if small else file, formats=FORMATS))
        yield image, file.fileno()


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as the image will be shown, from the header alone."""
    # Pillow turns a TIFF itself while it loads, and gives the size it will have then.
    return image.size if image.format == "TIFF" else swapped(image.size, _orientation(image))


def turned(image: Image.Image) -> Image.Image:
    """The whole image decoded and upright, in its own mode. Raises what decoding raises."""
    orientation = ready(image)
    image.load()
    return image.transpose(TURN[orientation]) if orientation in TURN else image


def ready(image: Image.Image) -> int:
    """The EXIF orientation left to apply, 1 to 8. Loads all but a JPEG, which can still be decoded in part."""
    if image.format not in ("JPEG", "MPO"):
        image.load()  # turns a TIFF upright; a PNG may have its EXIF behind its pixels
    return _orientation(image)


def swapped(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation >= 5 else size


def kind(image: Image.Image) -> str:
    """What a pixel of this image is: Pillow's mode, with 16-bit greyscale always called I;16."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return "I;16"
    return image.mode


def reason_against(kind: str, span: Span | None) -> str:
    """Why images of this kind cannot be read; '' where they can."""
    if kind in ("I", "F") and span is None:
        what = "32-bit float" if kind == "F" else "32-bit integers"
        return f"{what}: which values are black and white? Write data.reader.span=[black, white]"
    return ""


def averageable(image: Image.Image, kind: str, span: Span | None) -> Image.Image:
    """The image in a mode whose numbers may be averaged: L, RGB, RGBa (weighed by opacity) or F (0 to 255)."""
    if reason := reason_against(kind, span):
        raise BadImage(reason)
    if kind in ("I;16", "I", "F"):
        return _between(image, span or _SIXTEEN_BITS)
    if image.has_transparency_data:
        return image.convert("RGBA").convert("RGBa")
    return image.convert("L" if kind == "1" else "RGB")


class problems_named:  # a class: entering one takes a fifth of the time of a generator
    """A context that turns whatever goes wrong with a file into BadImage."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, BadImage | MemoryError):
            raise BadImage(_reason(error)) from error


def _reason(error: Exception) -> str:
    """What went wrong with a file, in words. Decoders of hostile bytes raise all sorts of things."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "a symbolic link that leads to itself"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that is read here (JPEG, PNG, TIFF, BMP, GIF, WebP, PPM)"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"its header says more pixels than may be decoded ({MOST_PIXELS:,})"
    text = str(error) or type(error).__name__
    return "truncated: its end is missing" if "truncated" in text.lower() else f"cannot be decoded: {text}"


def _orientation(image: Image.Image) -> int:
    if image.format in ("JPEG", "PNG") and "exif" not in image.info and "xmp" not in image.info:
        return 1  # spares a JPEG 20 us, and a PNG of which only the header is wanted all of its pixels
    found = image.getexif().get(_ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _limited(image: Image.Image) -> Image.Image:
    if image.width * image.height > MOST_PIXELS:
        raise BadImage(f"{image.width} x {image.height} pixels are more than may be decoded ({MOST_PIXELS:,})")
    return image


def _between(image: Image.Image, span: Span) -> Image.Image:
    low, high = span
    values = (np.asarray(image, np.float32) - low) * (255 / (high - low))
    return Image.fromarray(np.nan_to_num(values).clip(0, 255).astype(np.float32))
