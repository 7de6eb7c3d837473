"""Pixels: an image file to uint8 rows x columns x channels, doing as little as the view needs.

The view is chosen from the size in the header. A JPEG is then decoded at the largest DCT scale that still has a pixel
for every pixel wanted (training only). One antialiased bilinear `resize` takes the view's float box from what was
decoded (PyTorch's where the box is whole pixels, Pillow's elsewhere). Where our extension is installed it does both, to
their bits, and decodes no more than the box. Whatever else an image needs - turning it upright, compositing, another
colour mode - happens to the small result, or to the part under the box where that would change the numbers.

What each kind of file becomes:
  EXIF orientation      turned upright; a view's box is in the upright image
  RGBA, LA, palette     composited on the background where transparent
  CMYK, YCCK, YCbCr     RGB
  1-bit, greyscale      repeated to three channels; RGB becomes one as 0.299 R + 0.587 G + 0.114 B
  16-bit greyscale      0..65535 scaled to 0..255, not clipped; or `span`, if it is given
  float, 32-bit         only with `span`, the values that are black and white: nothing in the file says them
  animated, paged       the first picture
Anything else is a BadImage with a reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from instar.readers import _jpeg, _native
from instar.readers._images import (
    MOST_PIXELS,
    TURN,
    Colour,
    Span,
    averageable,
    bytes_of,
    kind,
    of_array,
    of_bytes,
    problems_named,
    ready,
    swapped,
)
from instar.readers._varying import colour, vary
from instar.readers._views import Box, View

_WORTH_IT = 64  # pixels a side from which another library's start pays
_GAP = 2.0  # times as many pixels as wanted that averaging in blocks leaves for the filter

Show = Callable[[np.ndarray | None], np.ndarray]  # puts a view into an array, or gives a new one


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
        orientation = ready(image)
    view = choose(*swapped(image.size, orientation))
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
    colours = 1 if size[2] == 1 else form.channels
    quick = colours == form.channels and orientation not in TURN and _is_quick(box, view, form)
    if _native.is_there():
        width, height = -(-size[0] // scale), -(-size[1] // scale)
        if quick or _in_one_pass(box, view, form, width=width, height=height):
            fill = partial(_native.jpeg, data, box=box, scale=scale, pytorch=quick)
            return _filled(fill, view, form, into_HWC, colours=colours, orientation=orientation)
        part = _in_a_whole(data, box, scale, form, width=width, height=height, colours=colours)
        return None if part is None else _shown(part, box, view, form, orientation)
    whole = _jpeg.whole(data) if scale == 1 and size[2] == colours == 3 else None
    if whole is None:
        return None
    if quick:
        left, top, right, bottom = map(int, box)
        return _resized(whole[top:bottom, left:right], view, form, into_HWC)
    return _shown(Image.fromarray(whole), box, view, form, orientation)


def _in_a_whole(
    data: bytes | memoryview, box: Box, scale: int, form: Form, *, width: int, height: int, colours: int
) -> Image.Image | None:
    """An image of full size, so that Pillow's sums are the same, of which only what it reads for the box is filled."""
    left, top, right, bottom = reach = _reach(box, form.size, width, height)
    cut_HWC = np.empty((bottom - top, right - left, colours), np.uint8)
    if not _native.jpeg(data, cut_HWC, reach, scale=scale, pytorch=True):
        return None
    whole = Image.new("L" if colours == 1 else "RGB", (width, height))
    whole.paste(_image(cut_HWC), (left, top))
    return whole


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
            return _resized(cut, view, form, into_HWC)
        left, top, right, bottom = _reach(view.box, form.size, width, height)
        box = (view.box[0] - left, view.box[1] - top, view.box[2] - left, view.box[3] - top)
        cut = array[top:bottom, left:right]
        own = array.dtype == np.uint8 and colours in (1, 3)
        if own and _in_one_pass(box, view, form, width=right - left, height=bottom - top):
            fill = partial(_native.array, cut.reshape(*cut.shape[:2], colours), box=box, pytorch=False)
            filled = _filled(fill, view, form, into_HWC, colours=colours)
            if filled is not None:
                return filled
        part, box = _under_box(of_array(cut), box, form, exact=view.exact)
        return _shown(part, box, view, form, 1)


def _in_one_pass(box: Box, view: View, form: Form, *, width: int, height: int) -> bool:
    """Whether Pillow resizes the box of an image of this size without averaging before, and first across.

    Since version 13 it begins with the rows where the height of the whole image shrinks much more than its width.
    """
    averages = not view.exact and max(box[2] - box[0], box[3] - box[1]) >= 2 * _GAP * form.size
    return not averages and height - form.size <= 2 * (width - form.size)


def _filled(
    fill: Callable[..., bool],
    view: View,
    form: Form,
    into_HWC: np.ndarray | None,
    *,
    colours: int,
    orientation: int = 1,
) -> np.ndarray | None:
    """What `fill` puts into an array of the form's size, and then all else that the view asks for; None if it cannot.

    fill      also mirrors, if it is asked to, and where nothing else is to be done it fills the place in the batch
    colours   values a pixel of what it fills: 1 or 3
    """
    more = _more(view) or colours != form.channels or orientation in TURN
    small = np.empty((form.size, form.size, colours), np.uint8) if into_HWC is None or more else into_HWC
    if not fill(small, mirrored=view.hflip and not more, upside_down=view.vflip and not more):
        return None
    return _finished_and_varied(_image(small), view, form, orientation) if more else small


def _more(view: View) -> bool:
    """Whether a view asks for more than to be mirrored."""
    return bool(view.colour or view.corners or view.angle) or view.offset != (0, 0) or view.shift != (0, 0)


def _image(small_HWC: np.ndarray) -> Image.Image:
    return Image.fromarray(small_HWC if small_HWC.shape[2] == 3 else small_HWC[..., 0])


def _shown(part: Image.Image, box: Box, view: View, form: Form, orientation: int) -> np.ndarray:
    """The box of what was decoded at the form's size, and then all else that the view asks for."""
    own_mode = part.mode == ("L" if form.channels == 1 else "RGB")
    if own_mode and orientation not in TURN and _is_quick(box, view, form):
        cut = np.array(part.crop(box))
        return _resized(cut.reshape(*cut.shape[:2], form.channels), view, form)
    # Where more than 4 pixels become one, they are first averaged in whole blocks.
    gap = None if view.exact else _GAP
    small = part.resize((form.size, form.size), Image.Resampling.BILINEAR, box, reducing_gap=gap)
    return _finished_and_varied(small, view, form, orientation)


def _finished_and_varied(small: Image.Image, view: View, form: Form, orientation: int = 1) -> np.ndarray:
    small = _finished(small, form)
    if orientation in TURN:
        small = small.transpose(TURN[orientation])
    return np.asarray(vary(small, view, form.fill)).reshape(form.size, form.size, form.channels)


def _framed(image: Image.Image, view: View, orientation: int, form: Form) -> np.ndarray:
    """The framed view of an image, which is decoded whole; uint8 of the frame's shape x channels."""
    assert view.frame is not None, "the caller looked"
    if image.format in ("JPEG", "MPO") and form.channels == 1:
        image.draft("L", image.size)
    image.load()
    if image.mode not in ("L", "RGB") or image.has_transparency_data:
        image = averageable(image, kind(image), form.span)
    image = _finished(image, form)
    if orientation in TURN:
        image = image.transpose(TURN[orientation])
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
    whole = Image.new(image.mode, (frame.shape[1], frame.shape[0]), colour(image, fill))
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


def _resized(cut_HWC: np.ndarray, view: View, form: Form, into_HWC: np.ndarray | None = None) -> np.ndarray:
    """A part of an array, uint8 of the form's channels, at the form's size and with all else its view asks for.

    into_HWC   where it is put, unless more is asked for than its being mirrored; a new array without
    """
    height, width = cut_HWC.shape[:2]
    fill = partial(_native.array, cut_HWC, box=(0, 0, width, height), pytorch=True)
    filled = _filled(fill, view, form, into_HWC, colours=form.channels)
    if filled is None:
        filled = _filled(partial(_by_pytorch, cut_HWC), view, form, into_HWC, colours=form.channels)
    assert filled is not None, "PyTorch resizes whatever there is"
    return filled


def _by_pytorch(cut_HWC: np.ndarray, into_HWC: np.ndarray, *, mirrored: bool, upside_down: bool) -> bool:
    import torch  # only those who read images for a training wait for it

    # In one piece and a batch of one from the start, or PyTorch would lay the result out by channels.
    cut_1HWC = cut_HWC[None].copy()
    turned = [axis for axis, asked in ((2, upside_down), (3, mirrored)) if asked]
    whence, place = (
        torch.from_numpy(array).permute(0, 3, 1, 2)
        for array in (cut_1HWC, np.empty((1, *into_HWC.shape), np.uint8) if turned else into_HWC[None])
    )
    # What torch.nn.functional.interpolate(mode="bilinear", antialias=True) calls, which cannot be told where to put it.
    resize = torch.ops.aten._upsample_bilinear2d_aa.out
    threads = torch.get_num_threads()
    if threads > 1:  # without workers; on a busy machine threads that share 0.2 ms of work wait 10 for each other
        torch.set_num_threads(1)
    try:
        resize(whence, into_HWC.shape[:2], False, out=place)
    finally:
        if threads > 1:
            torch.set_num_threads(threads)
    if turned:  # ten times as fast as NumPy's slice, which copies three bytes at a time
        into_HWC[...] = place.flip(turned)[0].permute(1, 2, 0).numpy()
    return True


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
        image = averageable(part, kind(image), form.span)
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
        orientation = ready(image)
        scale = short / min(image.size) if short and min(image.size) > short else 1.0
        size = (round(image.width * scale), round(image.height * scale))
        if image.format in ("JPEG", "MPO") and scale < 1:
            image.draft(None, (2 * size[0], 2 * size[1]))  # twice as fine as what is kept: the same to the eye
        image.load()
        if image.mode not in ("L", "RGB") or image.has_transparency_data:
            image = averageable(image, kind(image), form.span)
        image = image.resize(size, Image.Resampling.BICUBIC) if scale < 1 else image
        image = _finished(image, replace(form, channels=1 if image.mode in ("L", "F") else 3))
    return image.transpose(TURN[orientation]) if orientation in TURN else image


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
