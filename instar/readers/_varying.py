"""Varying: what a view asks of a small image beyond the crop. Moved, mirrored, turned, tilted, other colours."""

from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from instar.readers._images import Colour
from instar.readers._views import Corners, View


def vary(image: Image.Image, view: View, fill: int | Colour = 0, *, labels: bool = False) -> Image.Image:
    """The small image after everything its view asks for beyond the crop; mode L, RGB or F.

    labels   its numbers are names of classes: none between two of them is made up, and they have no colour
    """
    uncovered = colour(image, fill)
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


def colour(image: Image.Image, fill: int | Colour) -> Any:
    red, green, blue = (fill, fill, fill) if isinstance(fill, int) else fill
    return (red, green, blue) if image.mode == "RGB" else round(0.299 * red + 0.587 * green + 0.114 * blue)


def _turn_hue(image: Image.Image, factor: float) -> Image.Image:
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(factor * 255) % 256)  # 256 steps make a circle: overflow is meant
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
