"""Small pictures as data: addresses, for pages that open without their images."""

import io
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from instar import packed
from instar.errors import DataError
from instar.report import addresses
from instar.report.overlays import overlay

T = TypeVar("T")

SIDE = 128  # pixels of the longer side: sharp at the size of a stamp on any screen
TINY = 64  # smaller pictures are kept as they are, pixel by pixel
LARGEST = 50_000_000  # pixels to decode; what is larger is a bomb or a slide, and not worth the memory for a stamp
QUALITY = 74


@dataclass(frozen=True)
class Thumbnail:
    """source is a data: address, "" where the picture could not be read."""

    source: str
    tiny: bool = False


def of(path: str | Path, *, class_HW: np.ndarray | None = None) -> Thumbnail:
    """The thumbnail of an image file of any mode; an unreadable file gives an empty one, for a page must come out.

    class_HW   the class of each pixel, which is laid over it in colours
    """
    try:
        # Only a plain file: opening a pipe would wait for ever.
        found = None if Path(path).is_file() else packed.at_path(Path(path))
        if found is None and not Path(path).is_file():
            return Thumbnail("")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a picture above Pillow's own limit; ours is below
            with _packed(*found) if found else Image.open(path) as image:
                return _made(image, class_HW)
    except (DataError, OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError, MemoryError):
        return Thumbnail("")


def kept(jpeg: bytes) -> Thumbnail:
    """The thumbnail of a preview that was stored with the predictions; an empty one of none."""
    if not jpeg:
        return Thumbnail("")
    with Image.open(io.BytesIO(jpeg)) as image:
        tiny = max(image.size) <= TINY
    return Thumbnail(addresses.of_bytes(jpeg, "JPEG"), tiny)


def of_values(value_HW: np.ndarray, *, class_HW: np.ndarray | None = None) -> Thumbnail:
    """The thumbnail of one channel of a field, from its smallest value in black to its largest in white."""
    finite_HW = np.isfinite(value_HW)
    least = value_HW[finite_HW].min() if finite_HW.any() else 0.0
    return _made(Image.fromarray(np.where(finite_HW, value_HW, least).astype(np.float32)), class_HW)


def within(
    ones: Sequence[T], *, most_bytes: int, threads: int = 4, make: Callable[[T], Thumbnail] | None = None
) -> list[Thumbnail]:
    """Thumbnails of the first ones, as many as `most_bytes` of data: addresses hold.

    make   gives the thumbnail of one; without it they are paths
    """
    made: list[Thumbnail] = []
    used = 0
    one_of: Callable[[Any], Thumbnail] = make or of
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(ones), 32):
            for thumbnail in pool.map(one_of, ones[start : start + 32]):
                used += len(thumbnail.source)
                if used > most_bytes:
                    return made
                made.append(thumbnail)
    return made


def _packed(pack: packed.Packed, row: int) -> Image.Image:
    if pack.about.payload in (packed.RAW256, packed.ARRAYS):
        array = pack.array(row)
        return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    return Image.open(io.BytesIO(pack.stored(row)))


def _made(image: Image.Image, class_HW: np.ndarray | None = None) -> Thumbnail:
    tiny = max(image.size) <= TINY
    image.draft("RGB", (2 * SIDE, 2 * SIDE))  # JPEG only: decodes a fraction of the pixels, and says how large that is
    if image.width * image.height > LARGEST:
        return Thumbnail("")
    upright = ImageOps.exif_transpose(image)
    upright.thumbnail((SIDE, SIDE), reducing_gap=2.0)
    visible = _visible(upright)
    if class_HW is not None:
        small = Image.fromarray(class_HW).resize(visible.size, Image.Resampling.NEAREST)
        shown_HW3 = overlay(np.asarray(visible.convert("RGB"), np.float32), np.asarray(small))
        visible = Image.fromarray(shown_HW3.round().clip(0, 255).astype(np.uint8))
    return Thumbnail(addresses.of_image(visible, "PNG" if tiny else "JPEG", quality=QUALITY), tiny)


def _visible(image: Image.Image) -> Image.Image:
    """The image as RGB or grey of 8 bit; deeper ones are stretched from their darkest to their brightest pixel."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode.startswith(("I", "F")):
        value_HW = np.nan_to_num(np.asarray(image, np.float32))
        low, high = float(value_HW.min()), float(value_HW.max())
        scale = 255.0 / (high - low) if high > low else 0.0
        return Image.fromarray(((value_HW - low) * scale).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
