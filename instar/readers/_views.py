"""Augment: how a training image is varied. Here it is decided; `_pixels` carries it out.

Every draw is a pure function of the generator it is given, and uses its `random()` only, whose stream NumPy keeps.
Nothing here looks at a pixel, so a view is chosen from an image's size, before anything is decoded.

The order of what is done is always crop, mirror, perspective, rotation and shift, colour: that of all four source
recipes. Definitions and ranges are torchvision's, https://docs.pytorch.org/vision/stable/transforms.html
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # reading a recipe must not load NumPy, nor an exported model pydantic
    from numpy.random import Generator

    from instar.augment import Augment

Box = tuple[float, float, float, float]
Corners = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]


class Geometry(Protocol):
    """What of the settings evaluation goes by; an exported model's contract says it too."""

    @property
    def crop(self) -> str: ...
    @property
    def resize(self) -> int: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class View:
    """What is done to one image, all of it decided.

    box            left, top, right, bottom in pixels of the upright image; resized to size x size, unless framed
    frame          what comes of it instead
    exact          no shortcut in decoding: evaluation
    offset         whole pixels that the result is moved right and down over the fill
    hflip, vflip   mirrored left to right, top to bottom
    corners        where perspective puts the top left, top right, bottom right and bottom left corner
    angle, shift   degrees counter-clockwise, then pixels right and down
    smooth         whether that reads between pixels
    colour         adjustments with their factors, in order
    """

    box: Box
    exact: bool = False
    offset: tuple[int, int] = (0, 0)
    hflip: bool = False
    vflip: bool = False
    corners: Corners | None = None
    angle: float = 0.0
    shift: tuple[int, int] = (0, 0)
    smooth: bool = False
    colour: tuple[tuple[str, float], ...] = ()
    frame: "Frame | None" = None


@dataclass(frozen=True)
class Frame:
    """An image that keeps its pixels, or nearly: what a view's box becomes where each pixel has a label.

    shape   height and width
    lands   width and height that the box is resized to
    place   left and top of that in the frame, the rest of which is filled
    roll    whole pixels that the image is moved right before all that, what leaves coming in again on the left
    """

    shape: tuple[int, int]
    lands: tuple[int, int]
    place: tuple[int, int] = (0, 0)
    roll: int = 0


def once(choose: Callable[[int, int], View]) -> Callable[[int, int], View]:
    """The same choice however often it is asked for, so that a second try to read an image does not draw anew."""
    chosen: View | None = None

    def remembered(width: int, height: int) -> View:
        nonlocal chosen
        chosen = chosen or choose(width, height)
        return chosen

    return remembered


def evaluation(settings: Geometry, width: int, height: int) -> View:
    """What evaluation sees of an image: the same every time."""
    if settings.crop == "squash":
        return View((0, 0, width, height), exact=True)
    return View(centre(width, height, resize=settings.resize, size=settings.size), exact=True)


def training(settings: "Augment", width: int, height: int, draw: "Generator") -> View:
    """What training sees of an image this time."""
    size = settings.size
    if settings.crop in ("window", "whole"):
        return _of_all(settings, width, height, draw)
    if settings.crop == "area":
        box, exact = random_area(width, height, scale=settings.scale, ratio=settings.ratio, draw=draw), False
    else:
        seen = evaluation(settings, width, height)
        box, exact = seen.box, seen.exact
    offset = (0, 0)
    if settings.crop == "pad":
        offset = (_whole(-settings.pad, settings.pad, draw), _whole(-settings.pad, settings.pad, draw))
    return _varied(box, settings, (size, size), draw, exact=exact, offset=offset)


def everything(settings: Geometry, width: int, height: int) -> View:
    """What evaluation sees where each pixel has a label: all of the image.

    As it is for windows and wholes, in a square where it is squashed, else at a short side of `resize`.
    """
    if settings.crop in ("window", "whole"):
        lands = (width, height)
    elif settings.crop == "squash":
        lands = (settings.size, settings.size)
    else:
        share = settings.resize / min(width, height)
        lands = (max(1, round(width * share)), max(1, round(height * share)))
    return View((0, 0, width, height), exact=True, frame=Frame((lands[1], lands[0]), lands))


def untouched(width: int, height: int) -> View:
    """All of an image, as large as it is."""
    return View((0, 0, width, height), exact=True, frame=Frame((height, width), (width, height)))


def _of_all(settings: "Augment", width: int, height: int, draw: "Generator") -> View:
    """A window or the whole of an image whose pixels stay as they are, or nearly."""
    roll = _whole(0, width - 1, draw) if settings.roll else 0
    if settings.crop == "whole":
        frame = Frame((height, width), (width, height), roll=roll)
        return _varied((0, 0, width, height), settings, (width, height), draw, exact=True, frame=frame)
    size, (low, high) = settings.size, settings.zoom
    zoom = _between(low, high, draw) if low < high else low
    across, down = min(size / zoom, width), min(size / zoom, height)
    if zoom == 1:
        left, top = float(_whole(0, round(width - across), draw)), float(_whole(0, round(height - down), draw))
    else:
        left, top = _between(0, width - across, draw), _between(0, height - down, draw)
    lands = (max(1, min(size, round(across * zoom))), max(1, min(size, round(down * zoom))))
    # An image smaller than the window lies somewhere in it.
    place = (_whole(0, size - lands[0], draw), _whole(0, size - lands[1], draw))
    box = (left, top, min(left + across, width), min(top + down, height))
    frame = Frame((size, size), lands, place, roll)
    return _varied(box, settings, (size, size), draw, exact=True, frame=frame)


def _varied(
    box: Box,
    settings: "Augment",
    size: tuple[int, int],
    draw: "Generator",
    *,
    exact: bool,
    offset: tuple[int, int] = (0, 0),
    frame: Frame | None = None,
) -> View:
    """The view of a box with all that is done after the crop, which gives an image of this width and height."""
    width, height = size
    return View(
        box,
        exact=exact,
        offset=offset,
        frame=frame,
        hflip=_chance(settings.hflip, draw),
        vflip=_chance(settings.vflip, draw),
        corners=(
            random_corners(width, height, distortion=settings.perspective, draw=draw)
            if settings.perspective and _chance(settings.perspective_p, draw)
            else None
        ),
        angle=_between(-settings.rotation, settings.rotation, draw) if settings.rotation else 0.0,
        shift=random_shift(min(width, height), settings.shift, draw) if settings.shift else (0, 0),
        smooth=settings.interpolation == "bilinear",
        colour=random_colour(settings, draw),
    )


def centre(width: int, height: int, *, resize: int, size: int) -> Box:
    """The part of the image that Resize(resize) then CenterCrop(size) of torchvision would show.

    The resized sides and the crop's corner are whole numbers there, so they are here, mapped back to the original.
    A smaller image is enlarged: its part still lies inside it.
    """
    short, long = (width, height) if width <= height else (height, width)
    other = int(resize * long / short)
    resized_w, resized_h = (resize, other) if width <= height else (other, resize)
    left, top = round((resized_w - size) / 2), round((resized_h - size) / 2)
    across, down = width / resized_w, height / resized_h
    # Rounding must not push the box a hair outside the image.
    return left * across, top * down, min((left + size) * across, width), min((top + size) * down, height)


def random_area(
    width: int, height: int, *, scale: tuple[float, float], ratio: tuple[float, float], draw: "Generator"
) -> Box:
    """A box of random area and aspect: ten tries, then the largest central box whose aspect is allowed.

    torchvision's RandomResizedCrop.get_params.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = width * height * _between(scale[0], scale[1], draw)
        aspect = math.exp(_between(low, high, draw))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = _whole(0, height - h, draw), _whole(0, width - w, draw)
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_corners(width: int, height: int, *, distortion: float, draw: "Generator") -> Corners:
    """Where a random perspective puts the four corners, clockwise from the top left.

    torchvision's RandomPerspective.get_params.
    """
    across, down = int(distortion * (width // 2)), int(distortion * (height // 2))
    left, right = (0, across), (width - across - 1, width - 1)
    top, bottom = (0, down), (height - down - 1, height - 1)
    return (
        (_whole(*left, draw), _whole(*top, draw)),
        (_whole(*right, draw), _whole(*top, draw)),
        (_whole(*right, draw), _whole(*bottom, draw)),
        (_whole(*left, draw), _whole(*bottom, draw)),
    )


def random_shift(size: int, share: float, draw: "Generator") -> tuple[int, int]:
    """Whole pixels right and down, up to `share` of the side either way. torchvision's RandomAffine(translate=…)."""
    most = share * size
    return round(_between(-most, most, draw)), round(_between(-most, most, draw))


def random_colour(settings: "Augment", draw: "Generator") -> tuple[tuple[str, float], ...]:
    """Colour adjustments in random order, each with its factor. torchvision's ColorJitter."""
    wanted = {name: getattr(settings, name) for name in ("brightness", "contrast", "saturation", "hue")}
    if not any(wanted.values()):
        return ()
    names = sorted((name for name in wanted if wanted[name]), key=lambda _: draw.random())
    return tuple((name, _factor(name, wanted[name], draw)) for name in names)


def _factor(name: str, amount: float, draw: "Generator") -> float:
    if name == "hue":
        return _between(-amount, amount, draw)
    return _between(max(0.0, 1 - amount), 1 + amount, draw)


def _chance(probability: float, draw: "Generator") -> bool:
    return probability > 0 and draw.random() < probability


def _between(low: float, high: float, draw: "Generator") -> float:
    return low + (high - low) * draw.random()


def _whole(low: int, high: int, draw: "Generator") -> int:
    """A whole number from `low` to `high`, both included, all alike."""
    return low + int(draw.random() * (high - low + 1))
