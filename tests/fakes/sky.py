"""Made-up pairs in the very files of a Sage camera, in a folder with a name that shells dislike."""

from pathlib import Path

import numpy as np

from instar.bench import pairs


def folder_of_pairs(root: Path, *, num: int = 24) -> Path:
    """rgb/, thermal/ and pairs/ below a root; returns the root."""
    pairs.write(root, rows=num)
    return root


def celsius(*, height: int = 6, width: int = 9, low: float = -30, high: float = 45, seed: int = 0) -> np.ndarray:
    """Temperatures in hundredths of a degree, as a camera gives them."""
    return np.random.default_rng(seed).uniform(low, high, (height, width)).round(2)


def table(celsius_HW: np.ndarray, form: str = "{:.2f}") -> bytes:
    """The bytes of a camera's file, numbers written in a form."""
    head = pairs.table(celsius_HW).split("\n")[:8]
    return "\n".join([*head, *(";".join(form.format(one) for one in row) for row in celsius_HW.tolist()), ""]).encode()
