"""Overlays: what masks say, in colours over a picture. Legend: H W pixels."""

import colorsys
from collections.abc import Sequence

import numpy as np

from instar.masks import IGNORE

# Told apart by the colour-blind (Okabe and Ito 2008), then around the circle.
_FIRST_COLOURS = ((86, 180, 233), (0, 170, 120), (240, 228, 66), (40, 90, 210), (150, 220, 190), (120, 130, 40))
# Unlike every colour above.
MISSED, INVENTED, CONFUSED = (222, 45, 120), (255, 140, 20), (178, 80, 220)


def overlay(image_HW3: np.ndarray, class_HW: np.ndarray) -> np.ndarray:
    """The image with each class but the ground in its colour; what nobody knows is hatched grey."""
    shown = _grey(image_HW3, 0.55)
    for number in np.unique(class_HW).tolist():
        if number not in (0, IGNORE):
            shown[class_HW == number] = 0.35 * image_HW3[class_HW == number] + 0.65 * np.array(
                colour_of(number), np.float32
            )
    return _hatched(shown, class_HW == IGNORE)


def errors(image_HW3: np.ndarray, truth_HW: np.ndarray, class_HW: np.ndarray) -> np.ndarray:
    """The image with what is right in the colour of its class, faint, and what is wrong by the kind of its error."""
    shown = _grey(image_HW3, 0.55)
    for number in np.unique(class_HW).tolist():
        right = (class_HW == number) & (truth_HW == number) & (number != 0)
        shown[right] = 0.65 * image_HW3[right] + 0.35 * np.array(colour_of(number), np.float32)
    wrong = (class_HW != truth_HW) & (truth_HW != IGNORE)
    kinds = ((wrong & (class_HW == 0), MISSED), (wrong & (truth_HW == 0), INVENTED))
    for where, colour in (*kinds, (wrong & (class_HW != 0) & (truth_HW != 0), CONFUSED)):
        shown[where] = 0.2 * image_HW3[where] + 0.8 * np.array(colour, np.float32)
    return _hatched(shown, truth_HW == IGNORE)


def _grey(image_HW3: np.ndarray, share: float) -> np.ndarray:
    """The image with that share of its colour taken out, so that colours laid over it speak."""
    return image_HW3 * (1 - share) + image_HW3.mean(2, keepdims=True) * share


def _hatched(image_HW3: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    row_H1, column_1W = np.ogrid[: where_HW.shape[0], : where_HW.shape[1]]
    lines_HW = where_HW & ((row_H1 + column_1W) % 6 < 2)
    return np.where(lines_HW[..., None], np.float32(128), image_HW3)


def legend_of(classes: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The colour of each of the first classes, and its name; the ground has none."""
    return tuple((css(colour_of(number)), name) for number, name in enumerate(classes[1:9], start=1))


def colour_of(number: int) -> tuple[int, int, int]:
    """Red, green and blue of a class; the first, 0, is the ground and has none."""
    if number <= len(_FIRST_COLOURS):
        return _FIRST_COLOURS[number - 1]
    red, green, blue = colorsys.hls_to_rgb(number * 0.381966 % 1, 0.55, 0.7)  # the golden angle: neighbours differ
    return round(255 * red), round(255 * green), round(255 * blue)


def css(colour: tuple[int, int, int]) -> str:
    return f"#{colour[0]:02x}{colour[1]:02x}{colour[2]:02x}"
