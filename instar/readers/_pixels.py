"""Pixels: an image file to uint8 rows x columns x channels, doing as little as the view needs.

The view is chosen from the size in the header. A JPEG is then decoded at the largest DCT scale that still has a pixel
for every pixel wanted (training only), and where `_jpeg` can, no more of it than the view's box. One antialiased
bilinear `resize` takes the view's float box from what was decoded (PyTorch's where the box is whole pixels, Pillow's
elsewhere). Whatever else an image needs - turning it upright, compositing, another colour mode - happens to the small
result, or to the part under the box where that would change the numbers.

What each kind of file becomes:
  EXIF orientation      turned upright; a view's box is in the upright image
  RGBA, LA, palette     composited on the background where transparent
  CMYK, YCCK, YCbCr     RGB
  1-bit, greyscale      repeated to three channels; RGB becomes one as 0.299 R + 0.587 G + 0.114 B
  16-bit greyscale      0..65535 scaled to 0..255, not clipped; or `span`, if it is given
  float, 32-bit         only with `span`, the values that are black and white: nothing in the file says them
  animated, paged       the first picture
Anything else is a BadImage with a reason. Formats for which Pillow runs other programs (EPS) are never opened.
"""

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from instar.errors import DataError
from instar.readers import _jpeg
from instar.readers._views import Box, Corners, View

# Importing a plugin registers its format; those left out are never tried. A phone's MPO is opened as JPEG.
_PLUGINS = (TiffImagePlugin, WebPImagePlugin)
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_SMALL = 1 << 16  # bytes
_WORTH_IT = 64  # pixels a side from which another library's start pays
MOST_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a GiB in RGB

Colour = tuple[int, int, int]
Span = tuple[float, float]
Show = Callable[[np.ndarray | None], np.ndarray]  # puts a view into an array, or gives a new one

# Above its limit Pillow warns, and only refuses at twice that. A bomb is refused.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

_ORIENTATION = 0x0112
_TURN = {
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


@dataclass(frozen=True)
class Form:
    """What every image becomes.

    size        height and width in pixels
    channels    1 or 3
    background  what shows through where the image is transparent
    fill        what turning and moving uncovers
    span        values that become 0 and 255, for files of more than eight bits
    """

    size: int
    channels: int = 3
    background: Colour = (255, 255, 255)
    fill: int | Colour = 0
    span: Span | None = None


def read(
    path: str | Path, choose: Callable[[int, int], View], form: Form, into_HWC: np.ndarray | None = None
) -> np.ndarray:
    """The chosen view of an image file, uint8 of size x size x channels.

    choose     from width and height of the upright image to the view of it
    into_HWC   where it may be put, if that spares a copy; otherwise it is a new array
    Raises BadImage where the file cannot be read as an image.
    """
    return viewed_bytes(bytes_of(path), choose, form, into_HWC)


def viewed_bytes(
    data: bytes | memoryview,
    choose: Callable[[int, int], View],
    form: Form,
    into_HWC: np.ndarray | None = None,
) -> np.ndarray:
    """The chosen view of an image in the bytes of its file. See `read`."""
    show = begun(data, choose, form)
    return viewed(of_bytes(data), choose, form, data=data) if show is None else show(into_HWC)


def begun(data: bytes | memoryview, choose: Callable[[int, int], View], form: Form) -> Show | None:
    """What will show the view that is chosen now, of an ordinary JPEG; None for others."""
    size = _jpeg.ordinary(data)
    if size is None or not 0 < size[0] * size[1] <= MOST_PIXELS:
        return None
    return partial(_ordinary, data, size, choose(*size[:2]), form)


def _ordinary(
    data: bytes | memoryview, size: tuple[int, int, int], view: View, form: Form, into_HWC: np.ndarray | None
) -> np.ndarray:
    if view.frame is None:
        with problems_named():
            seen = _of_jpeg(size, data, view.box, view, form, into_HWC=into_HWC)
        if seen is not None:
            return seen
    return viewed(of_bytes(data), lambda width, height: view, form)


def viewed(
    image: Image.Image, choose: Callable[[int, int], View], form: Form, *, data: bytes | memoryview = b""
) -> np.ndarray:
    """The chosen view of an image that was opened, and of which no pixel need be decoded yet. See `read`.

    data   its bytes, from which a JPEG may be decoded faster
    """
    with problems_named():
        orientation = _ready(image)
    view = choose(*_swapped(image.size, orientation))
    with problems_named():
        if view.frame is not None:
            return _framed(image, view, orientation, form)
        box = _stored(view.box, orientation, image.size)
        if image.format == "JPEG" and image.mode in ("L", "RGB") and len(data):
            size = (*image.size, len(image.mode))
            seen = _of_jpeg(size, data, box, view, form, orientation=orientation)
            if seen is not None:
                return seen
        part, box = _under_box(image, box, form, exact=view.exact)
        return _shown(part, box, view, form, orientation)


def _of_jpeg(
    size: tuple[int, int, int],
    data: bytes | memoryview,
    box: Box,
    view: View,
    form: Form,
    *,
    orientation: int = 1,
    into_HWC: np.ndarray | None = None,
) -> np.ndarray | None:
    """What Pillow would give, to the bit, with less decoded or in less time; None where no other library can.

    size   stored width and height, and values a pixel: 1 or 3
    """
    scale = 1 if view.exact else _scale(box, form)
    box = _scaled(box, scale)
    left, top, right, bottom = map(int, box)
    colours = 1 if size[2] == 1 else form.channels
    quick = colours == form.channels and orientation not in _TURN and _is_quick(box, view, form)
    if not _jpeg.by_region():
        whole = _jpeg.whole(data) if scale == 1 and size[2] == colours == 3 else None
        if whole is None or quick:
            return None if whole is None else _varied(whole[top:bottom, left:right], view, form, into_HWC)
        return _shown(Image.fromarray(whole), box, view, form, orientation)
    if quick:
        cut_1HWC = np.empty((1, bottom - top, right - left, colours), np.uint8)
        filled = _jpeg.region(data, cut_1HWC[0], left=left, top=top, scale=scale)
        return _resized(cut_1HWC, view, form, into_HWC) if filled else None
    # Pillow resizes: in an image of full size, so that its sums are the same, of which only what it reads is filled.
    width, height = -(-size[0] // scale), -(-size[1] // scale)
    left, top, right, bottom = _reach(box, form.size, width, height)
    cut = np.empty((bottom - top, right - left, colours), np.uint8)
    if not _jpeg.region(data, cut, left=left, top=top, scale=scale):
        return None
    part = Image.new("L" if colours == 1 else "RGB", (width, height))
    part.paste(Image.fromarray(cut[..., 0] if colours == 1 else cut), (left, top))
    return _shown(part, box, view, form, orientation)


def bytes_of(path: str | Path) -> bytes:
    """All of a file; raises BadImage for what is no regular file (a FIFO would block for ever) or unreadable."""
    with problems_named(), os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BadImage("not a regular file")
        return file.read()


def viewed_array(
    array: np.ndarray, choose: Callable[[int, int], View], form: Form, into_HWC: np.ndarray | None = None
) -> np.ndarray:
    """The chosen view of an array of H x W or H x W x C: only what is under it is touched. See `read`."""
    return begun_array(array, choose, form)(into_HWC)


def begun_array(array: np.ndarray, choose: Callable[[int, int], View], form: Form) -> Show:
    """What will show the view that is chosen now, of an array."""
    height, width = array.shape[:2]
    return partial(_array_shown, array, choose(width, height), form)


def _array_shown(array: np.ndarray, view: View, form: Form, into_HWC: np.ndarray | None) -> np.ndarray:
    height, width = array.shape[:2]
    with problems_named():
        if view.frame is not None:
            return _framed(of_array(array), view, 1, form)
        colours = array.shape[2] if array.ndim == 3 else 1
        if array.dtype == np.uint8 and colours == form.channels and _is_quick(view.box, view, form):
            left, top, right, bottom = map(int, view.box)
            cut = array[top:bottom, left:right].reshape(bottom - top, right - left, colours)
            return _varied(cut, view, form, into_HWC)
        left, top, right, bottom = _reach(view.box, form.size, width, height)
        box = (view.box[0] - left, view.box[1] - top, view.box[2] - left, view.box[3] - top)
        part, box = _under_box(of_array(array[top:bottom, left:right]), box, form, exact=view.exact)
        return _shown(part, box, view, form, 1)


def _shown(part: Image.Image, box: Box, view: View, form: Form, orientation: int) -> np.ndarray:
    """The box of what was decoded at the form's size, and then all else that the view asks for."""
    own_mode = part.mode == ("L" if form.channels == 1 else "RGB")
    if own_mode and orientation not in _TURN and _is_quick(box, view, form):
        cut = np.array(part.crop(box))
        return _varied(cut.reshape(*cut.shape[:2], form.channels), view, form)
    # Where more than 4 pixels become one, they are first averaged in whole blocks.
    gap = None if view.exact else 2.0
    small = part.resize((form.size, form.size), Image.Resampling.BILINEAR, box, reducing_gap=gap)
    small = _finished(small, form)
    if orientation in _TURN:
        small = small.transpose(_TURN[orientation])
    return np.asarray(vary(small, view, form.fill)).reshape(form.size, form.size, form.channels)


def _framed(image: Image.Image, view: View, orientation: int, form: Form) -> np.ndarray:
    """The framed view of an image, which is decoded whole; uint8 of the frame's shape x channels."""
    assert view.frame is not None, "the caller looked"
    if image.format in ("JPEG", "MPO") and form.channels == 1:
        image.draft("L", image.size)
    image.load()
    if image.mode not in ("L", "RGB") or image.has_transparency_data:
        image = _averageable(image, kind(image), form.span)
    image = _finished(image, form)
    if orientation in _TURN:
        image = image.transpose(_TURN[orientation])
    small = framed(image, view, form.fill, Image.Resampling.BILINEAR)
    return np.asarray(vary(small, view, form.fill)).reshape(*view.frame.shape, form.channels)


def framed(image: Image.Image, view: View, fill: int | Colour, resample: Image.Resampling) -> Image.Image:
    """What the view's frame holds of an upright image."""
    assert view.frame is not None, "the caller looked"
    frame, (left, top, right, bottom) = view.frame, view.box
    if frame.roll:
        image = ImageChops.offset(image, frame.roll, 0)
    if (right - left, bottom - top) == frame.lands and left == int(left) and top == int(top):
        image = image.crop((int(left), int(top), int(right), int(bottom)))
    else:
        image = image.resize(frame.lands, resample, view.box)
    if frame.lands == (frame.shape[1], frame.shape[0]):
        return image
    whole = Image.new(image.mode, (frame.shape[1], frame.shape[0]), _colour(image, fill))
    whole.paste(image, frame.place)
    return whole


def _is_quick(box: Box, view: View, form: Form) -> bool:
    """Whether PyTorch resizes: the same antialiased bilinear filter in a third of Pillow's time, 0.01 of 255 apart.

    It takes boxes of whole pixels, whose outermost it does not average with those outside. It is not worth it for tiny
    images; where more than 4 pixels become one, Pillow averages blocks first.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    whole = left == int(left) and top == int(top) and right == int(right) and bottom == int(bottom)
    larger = form.size >= _WORTH_IT and max(width, height) <= 4 * form.size
    return not view.exact and whole and larger and not width == height == form.size


def _varied(cut_HWC: np.ndarray, view: View, form: Form, into_HWC: np.ndarray | None = None) -> np.ndarray:
    """As `_resized`, of a part of an array."""
    return _resized(cut_HWC[None].copy(), view, form, into_HWC)


def _resized(cut_1HWC: np.ndarray, view: View, form: Form, into_HWC: np.ndarray | None = None) -> np.ndarray:
    """What lies under a box, uint8 of the form's channels, at the form's size and with all else its view asks for.

    cut_1HWC   in one piece and a batch of one from the start, or PyTorch would lay the result out by channels
    into_HWC   where it is put, unless more is asked for than its being mirrored; a new array without
    """
    import torch  # only those who read images for a training wait for it

    more = view.colour or view.corners or view.angle or view.offset != (0, 0) or view.shift != (0, 0)
    mirrored = [axis for axis, asked in ((2, view.vflip), (3, view.hflip)) if asked and not more]
    shape = (form.size, form.size, form.channels)
    result_HWC = np.empty(shape, np.uint8) if into_HWC is None or more else into_HWC
    whence, place = (
        torch.from_numpy(array).permute(0, 3, 1, 2)
        for array in (cut_1HWC, np.empty((1, *shape), np.uint8) if mirrored else result_HWC[None])
    )
    # What torch.nn.functional.interpolate(mode="bilinear", antialias=True) calls, which cannot be told where to put it.
    resize = torch.ops.aten._upsample_bilinear2d_aa.out
    threads = torch.get_num_threads()
    if threads > 1:  # without workers; on a busy machine threads that share 0.2 ms of work wait 10 for each other
        torch.set_num_threads(1)
    try:
        resize(whence, shape[:2], False, out=place)
    finally:
        if threads > 1:
            torch.set_num_threads(threads)
    if more:
        image = Image.fromarray(result_HWC if form.channels == 3 else result_HWC[..., 0])
        return np.asarray(vary(image, view, form.fill)).reshape(shape)
    if mirrored:  # ten times as fast as NumPy's slice, which copies three bytes at a time
        result_HWC[...] = place.flip(mirrored)[0].permute(1, 2, 0).numpy()
    return result_HWC


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


def _limited(image: Image.Image) -> Image.Image:
    if image.width * image.height > MOST_PIXELS:
        raise BadImage(f"{image.width} x {image.height} pixels are more than may be decoded ({MOST_PIXELS:,})")
    return image


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
    return image.size if image.format == "TIFF" else _swapped(image.size, _orientation(image))


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
    if isinstance(error, UnidentifiedImageError):
        return "not an image that is read here (JPEG, PNG, TIFF, BMP, GIF, WebP, PPM)"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"its header says more pixels than may be decoded ({MOST_PIXELS:,})"
    text = str(error) or type(error).__name__
    return "truncated: its end is missing" if "truncated" in text.lower() else f"cannot be decoded: {text}"


def _ready(image: Image.Image) -> int:
    """The EXIF orientation left to apply, 1 to 8. Loads all but a JPEG, which can still be decoded in part."""
    if image.format not in ("JPEG", "MPO"):
        image.load()  # turns a TIFF upright; a PNG may have its EXIF behind its pixels
    return _orientation(image)


def _orientation(image: Image.Image) -> int:
    if image.format in ("JPEG", "PNG") and "exif" not in image.info and "xmp" not in image.info:
        return 1  # spares a JPEG 20 us, and a PNG of which only the header is wanted all of its pixels
    found = image.getexif().get(_ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _swapped(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation >= 5 else size


def _stored(box: Box, orientation: int, size: tuple[int, int]) -> Box:
    """A box of the upright image in the coordinates of the stored one, which is `size` large."""
    left, top, right, bottom = box
    if orientation >= 5:  # rows of the stored image are columns of the upright one
        left, top, right, bottom = top, left, bottom, right
    if orientation in (2, 3, 7, 8):
        left, right = size[0] - right, size[0] - left
    if orientation in (3, 4, 6, 7):
        top, bottom = size[1] - bottom, size[1] - top
    return left, top, right, bottom


def _under_box(image: Image.Image, box: Box, form: Form, *, exact: bool) -> tuple[Image.Image, Box]:
    """The decoded image in a mode whose numbers may be averaged, or the part under the box, and the box in it."""
    if image.format in ("JPEG", "MPO"):
        box = _draft(image, box, form, scaled=not exact)
        image.load()
    if image.mode not in ("L", "RGB") or image.has_transparency_data:
        part, box = _under(image, box, form.size)
        image = _averageable(part, kind(image), form.span)
    return image, box


def _draft(image: Image.Image, box: Box, form: Form, *, scaled: bool) -> Box:
    """Make a JPEG decode at 1/2, 1/4 or 1/8 where the box keeps `form.size` pixels a side; the box at that scale.

    Where one channel is wanted, only the brightness is decoded.
    """
    scale = _scale(box, form) if scaled else 1
    if scale > 1 or form.channels == 1:
        width, height = image.size
        image.draft("L" if form.channels == 1 else None, (max(1, width // scale), max(1, height // scale)))
        # A pixel is `scale` old ones wide, also the last one, which may reach over the edge. Pillow has the last word.
        scale = next(factor for factor in (1, 2, 4, 8) if image.width == -(-width // factor))
    return _scaled(box, scale)


def _scale(box: Box, form: Form) -> int:
    """How many times smaller a JPEG may be decoded so that there still is a stored pixel for one that is wanted."""
    room = min(box[2] - box[0], box[3] - box[1]) / form.size
    return next(factor for factor in (8, 4, 2, 1) if factor <= max(room, 1))


def _scaled(box: Box, scale: int) -> Box:
    return box[0] / scale, box[1] / scale, box[2] / scale, box[3] / scale


def _under(image: Image.Image, box: Box, size: int) -> tuple[Image.Image, Box]:
    """The part of an image that `resize` would read for this box, and the box in that part."""
    left, top, right, bottom = _reach(box, size, image.width, image.height)
    part = image.crop((left, top, right, bottom))
    return part, (box[0] - left, box[1] - top, box[2] - left, box[3] - top)


def _reach(box: Box, size: int, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole pixels that `resize` to `size` would read for a box in an image of this width and height."""
    reach_x, reach_y = ((box[2 + side] - box[side]) / size + 2 for side in (0, 1))
    left, top = max(0, int(box[0] - reach_x)), max(0, int(box[1] - reach_y))
    return left, top, min(width, int(box[2] + reach_x)), min(height, int(box[3] + reach_y))


def upright(image: Image.Image, form: Form, *, short: int | None = None) -> Image.Image:
    """The whole image upright, in mode L or RGB, with its short side not longer than `short`. Bicubic.

    Raises BadImage where it cannot be decoded.
    """
    with problems_named():
        orientation = _ready(image)
        scale = short / min(image.size) if short and min(image.size) > short else 1.0
        size = (round(image.width * scale), round(image.height * scale))
        if image.format in ("JPEG", "MPO") and scale < 1:
            image.draft(None, (2 * size[0], 2 * size[1]))  # twice as fine as what is kept: the same to the eye
        image.load()
        if image.mode not in ("L", "RGB") or image.has_transparency_data:
            image = _averageable(image, kind(image), form.span)
        image = image.resize(size, Image.Resampling.BICUBIC) if scale < 1 else image
        image = _finished(image, replace(form, channels=1 if image.mode in ("L", "F") else 3))
    return image.transpose(_TURN[orientation]) if orientation in _TURN else image


def turned(image: Image.Image) -> Image.Image:
    """The whole image decoded and upright, in its own mode. Raises what decoding raises."""
    orientation = _ready(image)
    image.load()
    return image.transpose(_TURN[orientation]) if orientation in _TURN else image


def _averageable(image: Image.Image, kind: str, span: Span | None) -> Image.Image:
    """The image in a mode whose numbers may be averaged: L, RGB, RGBa (weighed by opacity) or F (0 to 255)."""
    if reason := reason_against(kind, span):
        raise BadImage(reason)
    if kind in ("I;16", "I", "F"):
        return _between(image, span or _SIXTEEN_BITS)
    if image.has_transparency_data:
        return image.convert("RGBA").convert("RGBa")
    return image.convert("L" if kind == "1" else "RGB")


def _between(image: Image.Image, span: Span) -> Image.Image:
    low, high = span
    values = (np.asarray(image, np.float32) - low) * (255 / (high - low))
    return Image.fromarray(np.nan_to_num(values).clip(0, 255).astype(np.float32))


def _finished(image: Image.Image, form: Form) -> Image.Image:
    """The small image in mode L for one channel, RGB for three."""
    if image.mode == "F":
        image = Image.fromarray(np.rint(np.asarray(image)).clip(0, 255).astype(np.uint8))
    elif image.mode == "RGBa":
        weighed = np.asarray(image).astype(np.uint32)
        through = (255 - weighed[..., 3:]) * np.asarray(form.background, np.uint32)
        image = Image.fromarray(np.minimum(weighed[..., :3] + (through + 127) // 255, 255).astype(np.uint8))
    mode = "L" if form.channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def vary(image: Image.Image, view: View, fill: int | Colour = 0, *, labels: bool = False) -> Image.Image:
    """The small image after everything its view asks for beyond the crop; mode L, RGB or F.

    labels   its numbers are names of classes: none between two of them is made up, and they have no colour
    """
    uncovered = _colour(image, fill)
    if view.offset != (0, 0):
        moved = Image.new(image.mode, image.size, uncovered)
        moved.paste(image, view.offset)
        image = moved
    if view.hflip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if view.vflip:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    nearest, bilinear = Image.Resampling.NEAREST, Image.Resampling.BILINEAR
    if view.corners is not None:
        image = perspective(image, view.corners, uncovered, nearest if labels else bilinear)
    if view.angle or view.shift != (0, 0):
        resample = bilinear if view.smooth and not labels else nearest
        image = image.rotate(view.angle, resample, translate=view.shift, fillcolor=uncovered)
    for name, factor in () if labels else view.colour:
        image = adjust(image, name, factor)
    return image


def _colour(image: Image.Image, fill: int | Colour) -> Any:
    red, green, blue = (fill, fill, fill) if isinstance(fill, int) else fill
    return (red, green, blue) if image.mode == "RGB" else round(0.299 * red + 0.587 * green + 0.114 * blue)


def perspective(
    image: Image.Image,
    corners: Corners,
    fill: Any = 0,
    resample: Any = Image.Resampling.BILINEAR,
) -> Image.Image:
    """The image with its four corners, clockwise from the top left, moved to `corners`."""
    right, bottom = image.width - 1, image.height - 1
    whence = ((0, 0), (right, 0), (right, bottom), (0, bottom))
    # Pillow wants x = (a u + b v + c) / (g u + h v + 1) and y likewise: two equations a corner, eight unknowns.
    rows: list[list[float]] = []
    for (u, v), (x, y) in zip(corners, whence, strict=True):
        rows += [[u, v, 1, 0, 0, 0, -x * u, -x * v], [0, 0, 0, u, v, 1, -y * u, -y * v]]
    values = [value for corner in whence for value in corner]
    unknowns = np.linalg.lstsq(np.array(rows, float), np.array(values, float), rcond=None)[0].tolist()
    return image.transform(image.size, Image.Transform.PERSPECTIVE, unknowns, resample, fillcolor=fill)


def adjust(image: Image.Image, name: str, factor: float) -> Image.Image:
    """The image with brightness, contrast or saturation multiplied, or its hue turned by a share of the circle."""
    if name == "hue":
        return _turn_hue(image, factor)
    tool = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}
    return tool[name](image).enhance(factor)


def _turn_hue(image: Image.Image, factor: float) -> Image.Image:
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(factor * 255) % 256)  # 256 steps make a circle: overflow is meant
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
