"""Made-up images with masks: squares of class 1 and discs of class 2 on noise; and fields of many channels."""

from pathlib import Path

import numpy as np
from PIL import Image


def scene(number: int, *, height: int = 24, width: int = 32, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """An image, uint8 HW3, and the class of each pixel, uint8 HW."""
    random = np.random.default_rng(number)
    row_H1, column_1W = np.ogrid[:height, :width]
    class_HW = np.zeros((height, width), np.uint8)
    top, left = random.integers(0, height // 2), random.integers(0, width // 2)
    class_HW[top : top + height // 3, left : left + width // 3] = 1
    if classes > 2:
        y, x = random.integers(height // 3, height), random.integers(width // 3, width)
        class_HW[(row_H1 - y) ** 2 + (column_1W - x) ** 2 < (height // 4) ** 2] = 2
    colours = np.array([[60, 60, 60], [200, 70, 70], [70, 90, 210]])
    image = colours[class_HW] + random.normal(0, 25, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8), class_HW


def folder_of_masks(root: Path, *, num: int = 24, classes: int = 3, height: int = 24, width: int = 32) -> Path:
    """images/ and masks/ below a root, in a folder with a name that shells dislike; returns the root."""
    for number in range(num):
        image, mask = scene(number, height=height, width=width, classes=classes)
        for kind, array in (("images", image), ("masks", mask)):
            file = root / kind / "it's $(a) place" / f"{number:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(file)
    return root


def field(number: int, *, height: int = 24, width: int = 36, channels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of any size, float32 HWC, of which channel 1 follows the class; and the class, int64 HW."""
    random = np.random.default_rng(number)
    _, class_HW = scene(number, height=height, width=width)
    image = random.normal(100, 30, (height, width, channels)).astype(np.float32)
    image[..., 1] += 90 * class_HW
    return image, class_HW.astype(np.int64)


def folder_of_fields(root: Path, *, num: int = 24, stats: bool = True, numpy: bool = False) -> Path:
    """The layout of DeepCAM: train, validation and test with data-*.h5, and stats.h5; returns the root."""
    import h5py

    everything = []
    for number in range(num):
        image, mask = field(number)
        everything.append(image)
        folder = root / ("train", "train", "train", "validation", "test")[number % 5]
        folder.mkdir(parents=True, exist_ok=True)
        if numpy:
            np.save(folder / f"data-{number:03d}.npy", image)
            np.save(folder / f"label-{number:03d}.npy", mask)
            continue
        with h5py.File(folder / f"data-{number:03d}.h5", "w") as file:
            file["climate/data"], file["climate/labels_0"] = image, mask
    if stats:
        whole = np.stack(everything).reshape(-1, everything[0].shape[2]).astype(np.float64)
        with h5py.File(root / "stats.h5", "w") as file:
            file["climate/minval"], file["climate/maxval"] = whole.min(0), whole.max(0)
            file["climate/mean"], file["climate/sqmean"] = whole.mean(0), (whole**2).mean(0)
    return root
