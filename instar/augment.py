"""Augment: the settings of how a training image is varied, and presets of them. `readers/_views.py` draws by them.

Definitions and ranges are torchvision's, https://docs.pytorch.org/vision/stable/transforms.html
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from instar.settings import Settings

Kind = Literal["standard", "none", "butterflies", "food_v1", "food_v3", "imagenet", "cifar", "digits", "field"]
Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Byte = Annotated[int, Field(ge=0, le=255)]

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
    # Fields over the whole globe, as the DeepCAM benchmark varies them.
    "field": {"crop": "whole", "roll": True, "vflip": 0.5, "normalise": False},
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
    crop: Literal["area", "centre", "squash", "pad", "window", "whole"] = "area"
    """What training sees: a random `area` of the image; the `centre`, as evaluation does; all of it, `squash`ed to a
    square (evaluation then too); or the centre moved by up to `pad` pixels over a filled border. For pixel labels,
    where evaluation sees all of the image: also a `window` of `size` pixels as they are, or the `whole` image."""
    scale: tuple[Probability, Probability] = (0.35, 1.0)
    """Smallest and largest share of the image that a random area covers."""
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    """Narrowest and widest aspect (width / height) of a random area."""
    pad: Annotated[int, Field(ge=0, le=4096)] = 0
    """How far `crop: pad` may move the image, in pixels of `size`."""
    zoom: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 1.0)
    """Smallest and largest magnification of a `window`."""
    roll: bool = False
    """Whether a `window` or the `whole` is first moved to the right by any number of pixels, what leaves coming in
    again on the left: for fields around the globe."""
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
        for name, (low, high) in {"scale": self.scale, "ratio": self.ratio, "zoom": self.zoom}.items():
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}], but the smaller number comes first")
        if self.crop == "area" and self.scale[1] == 0:
            raise ValueError("scale is [0, 0], but a random area must cover something")
        if self.zoom != (1.0, 1.0) and self.crop != "window":
            raise ValueError(f"zoom magnifies a window, but crop is {self.crop!r}; write crop: window, or leave it out")
        if self.roll and self.crop not in ("window", "whole"):
            raise ValueError(f"roll moves a window or the whole, but crop is {self.crop!r}; leave one of them out")
        if self.kind == "none" and (active := self._active()):
            raise ValueError(f"kind is none, but {', '.join(active)} would still change images; choose another kind")
        return self

    def _active(self) -> list[str]:
        names = (
            "roll",
            "hflip",
            "vflip",
            "perspective",
            "rotation",
            "shift",
            "brightness",
            "contrast",
            "saturation",
            "hue",
        )
        return [name for name in names if getattr(self, name)] + (
            ["crop"] if self.crop in ("area", "pad", "window") else []
        )


@dataclass(frozen=True)
class Crops:
    """What a task learns from beside the one view that every sample has. It follows from the task's settings.

    branches            which files of a row are read: image, other
    views               how many views of each
    local, local_size   how many small ones, and their height and width where those of views are `size`
    local_scale         smallest and largest share of the picture that a small one covers
    together            whether the same view of all branches shows the same part of the scene
    """

    branches: tuple[str, ...] = ("image", "other")
    views: int = 1
    local: int = 0
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.4)
    together: bool = True
