"""Augment: how a training image is varied. Here it is decided; `pixels` carries it out.

Every draw is a pure function of the generator it is given, and uses its `random()` only, whose stream NumPy keeps.
Nothing here looks at a pixel, so a view is chosen from an image's size, before anything is decoded.

The order of what is done is always crop, mirror, perspective, rotation and shift, colour: that of all four source
recipes. Definitions and ranges are torchvision's, https://docs.pytorch.org/vision/stable/transforms.html
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from instar.settings import Settings

if TYPE_CHECKING:  # reading a recipe must not load NumPy
    from numpy.random import Generator

Kind = Literal["standard", "none", "butterflies", "food_v1", "food_v3", "imagenet", "cifar", "digits"]
Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Byte = Annotated[int, Field(ge=0, le=255)]
Box = tuple[float, float, float, float]
Corners = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]

PRESETS: dict[str, dict[str, Any]] = {
    "standard": {"scale": [0.35, 1.0], "hflip": 0.5},
    "none": {"crop": "centre"},
    # butterfly_identification, run_acc.py
    "butterflies": {
        "scale": [0.5, 1.0],
        "ratio": [0.8, 1.2],
        "hflip": 0.3,
        "vflip": 0.3,
        "perspective": 0.2,
        "perspective_p": 0.4,
        "rotation": 50.0,
        "resize": 224,
    },
    # Satu-source/Machine-Learning: V1 squashes and does not normalise
    "food_v1": {"crop": "squash", "normalise": False},
    # V3 resizes to 256 first and crops a share of that, which is the same share of the original
    "food_v3": {
        "scale": [0.8, 1.0],
        "hflip": 0.5,
        "vflip": 0.3,
        "rotation": 15.0,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
    },
    "imagenet": {"scale": [0.08, 1.0], "hflip": 0.5},
    "cifar": {"crop": "pad", "size": 32, "resize": 32, "pad": 4, "hflip": 0.5},
    "digits": {
        "crop": "centre",
        "size": 32,
        "resize": 32,
        "rotation": 10.0,
        "shift": 0.1,
        "interpolation": "bilinear",
    },
}


class Augment(Settings):
    """How training images are varied, and the size of what the network sees.

    `kind` is a preset that fills in every key not given; null keeps the preset's value too. What is saved has them
    all, so a later change of a preset cannot change a run.
    """

    kind: Kind = "standard"
    """The preset: `standard` for photographs, `none` to train on what evaluation sees, the rest by name."""
    size: Annotated[int, Field(ge=8, le=4096)] = 224
    """Height and width of what the network sees, in pixels."""
    resize: Annotated[int, Field(ge=8, le=8192)] = 256
    """Short side that evaluation resizes to before it cuts the centre, in pixels; 8/7 of `size` if unsaid."""
    crop: Literal["area", "centre", "squash", "pad"] = "area"
    """What training sees: a random `area` of the image; the `centre`, as evaluation does; all of it, `squash`ed to a
    square (evaluation then too); or the centre moved by up to `pad` pixels over a filled border."""
    scale: tuple[Probability, Probability] = (0.35, 1.0)
    """Smallest and largest share of the image that a random area covers."""
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    """Narrowest and widest aspect (width / height) of a random area."""
    pad: Annotated[int, Field(ge=0, le=4096)] = 0
    """How far `crop: pad` may move the image, in pixels of `size`."""
    hflip: Probability = 0.0
    """Probability of a mirror image, left to right."""
    vflip: Probability = 0.0
    """Probability of a mirror image, top to bottom."""
    perspective: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far a random perspective moves the corners, as a share of half the side."""
    perspective_p: Probability = 0.5
    """Probability of that perspective."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation either way, in degrees."""
    shift: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest shift either way, as a share of the side."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """How rotation and shift read between pixels; bilinear costs 1 ms at 224 pixels. Perspective is always bilinear."""
    brightness: Amount = 0.0
    """Largest relative change of brightness."""
    contrast: Amount = 0.0
    """Largest relative change of contrast."""
    saturation: Amount = 0.0
    """Largest relative change of saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift of hue, as a share of the colour circle."""
    fill: Byte | tuple[Byte, Byte, Byte] = 0
    """What rotation, shift, perspective and padding uncover: a grey value, or red, green and blue."""
    normalise: bool = True
    """Whether the network's mean and standard deviation are applied; without, it sees pixels from 0 to 1."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kind = given.get("kind", "standard")
        preset = PRESETS.get(kind) if isinstance(kind, str) else None
        if preset is None:
            return given  # the field itself says what is allowed
        filled = {**preset, **{key: value for key, value in given.items() if value is not None}}
        # Strict validation takes a list for a tuple from JSON, but not from here.
        filled = {key: tuple(value) if isinstance(value, list) else value for key, value in filled.items()}
        size = filled.get("size", 224)
        # A preset's short side belongs to the preset's size.
        keeps_resize = given.get("resize") is not None or ("resize" in preset and size == preset.get("size", 224))
        if not keeps_resize and isinstance(size, int):
            same = preset.get("resize") == preset.get("size", 224)
            filled["resize"] = size if same else round(size * 8 / 7)
        return filled

    @model_validator(mode="after")
    def _fits_together(self) -> "Augment":
        if self.resize < self.size:
            raise ValueError(f"resize is {self.resize}, but a centre of size {self.size} must fit in it")
        for name, (low, high) in {"scale": self.scale, "ratio": self.ratio}.items():
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}], but the smaller number comes first")
        if self.crop == "area" and self.scale[1] == 0:
            raise ValueError("scale is [0, 0], but a random area must cover something")
        if self.kind == "none" and (active := self._active()):
            raise ValueError(f"kind is none, but {', '.join(active)} would still change images; choose another kind")
        return self

    def _active(self) -> list[str]:
        names = ("hflip", "vflip", "perspective", "rotation", "shift", "brightness", "contrast", "saturation", "hue")
        return [name for name in names if getattr(self, name)] + (["crop"] if self.crop in ("area", "pad") else [])


@dataclass(frozen=True)
class View:
    """What is done to one image, all of it decided.

    box            left, top, right, bottom in pixels of the upright image; resized to size x size
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


def evaluation(settings: Augment, width: int, height: int) -> View:
    """What evaluation sees of an image: the same every time."""
    if settings.crop == "squash":
        return View((0, 0, width, height), exact=True)
    return View(centre(width, height, resize=settings.resize, size=settings.size), exact=True)


def training(settings: Augment, width: int, height: int, draw: "Generator") -> View:
    """What training sees of an image this time."""
    size = settings.size
    if settings.crop == "area":
        box, exact = random_area(width, height, scale=settings.scale, ratio=settings.ratio, draw=draw), False
    else:
        seen = evaluation(settings, width, height)
        box, exact = seen.box, seen.exact
    offset = (0, 0)
    if settings.crop == "pad":
        offset = (_whole(-settings.pad, settings.pad, draw), _whole(-settings.pad, settings.pad, draw))
    return View(
        box,
        exact,
        offset,
        hflip=_chance(settings.hflip, draw),
        vflip=_chance(settings.vflip, draw),
        corners=(
            random_corners(size, size, distortion=settings.perspective, draw=draw)
            if settings.perspective and _chance(settings.perspective_p, draw)
            else None
        ),
        angle=_between(-settings.rotation, settings.rotation, draw) if settings.rotation else 0.0,
        shift=random_shift(size, settings.shift, draw) if settings.shift else (0, 0),
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


def random_colour(settings: Augment, draw: "Generator") -> tuple[tuple[str, float], ...]:
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
