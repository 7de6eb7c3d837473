"""Small made-up photographs: each class has a colour and a frequency of its own, plus noise."""

from pathlib import Path

import numpy as np
from PIL import Image


def folder_of_images(root: Path, *, classes: int = 3, each: int = 20, size: int = 8, seed: int = 0) -> Path:
    """A folder with one folder of PNGs a class; returns it."""
    random = np.random.default_rng(seed)
    rows = np.arange(size)[:, None, None]
    for label in range(classes):
        folder = root / f"class {label}'s"
        folder.mkdir(parents=True, exist_ok=True)
        colour = 255 * np.eye(3)[label % 3] * 0.5 + 60
        for number in range(each):
            wave = 30 * np.sin(rows * (label + 1) + random.uniform(0, 6))
            pixels = np.clip(colour + wave + random.normal(0, 25, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return root
