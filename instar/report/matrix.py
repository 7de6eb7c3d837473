"""How a confusion matrix is laid out: what each cell says, how strong its colour is, and which pairs stand out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from instar.metrics.counts import ratio
from instar.report.blocks import Confusion

NUMBERS_UP_TO = 30  # classes; in more, a number no longer fits its cell and the colour speaks alone
PAIRS = 12


@dataclass(frozen=True)
class Cell:
    """A cell that is not empty. strength is 0 to 100, for the colour."""

    count: int
    share: float
    strength: int
    right: bool
    name: str
    predicted: str


@dataclass(frozen=True)
class Pair:
    """Two classes that were taken for each other, in this direction."""

    true: str
    predicted: str
    count: int
    share: float
    cell: str


@dataclass(frozen=True)
class Layout:
    """rows: (class name, rows of it, its cells, None for an empty one)."""

    classes: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Cell | None, ...]], ...]
    pairs: tuple[Pair, ...]
    numbers: bool
    size: str


def laid_out(block: Confusion) -> Layout:
    """The layout; colours are shares of the true class, so that a rare class is as visible as a common one."""
    share_KK = ratio(block.count_KK, block.count_KK.sum(axis=1, keepdims=True))
    K = len(block.classes)
    return Layout(
        classes=block.classes,
        rows=tuple(
            (block.classes[row], int(block.count_KK[row].sum()), _cells(block, share_KK, row)) for row in range(K)
        ),
        pairs=_pairs(block, share_KK),
        numbers=K <= NUMBERS_UP_TO,
        size="large" if K <= 12 else "middle" if K <= NUMBERS_UP_TO else "small" if K <= 80 else "dot",
    )


def _cells(block: Confusion, share_KK: np.ndarray, row: int) -> tuple[Cell | None, ...]:
    cells: list[Any] = [None] * len(block.classes)
    for column in np.flatnonzero(block.count_KK[row]).tolist():
        share = float(share_KK[row, column])
        # A root makes one row in a hundred visible; the hits, nearly all rows, need no help.
        strength = 12 + 62 * share if row == column else 18 + 74 * share**0.5
        cells[column] = Cell(
            count=int(block.count_KK[row, column]),
            share=share,
            strength=round(strength),
            right=row == column,
            name=_cell_name(block, row, column),
            predicted=block.classes[column],
        )
    return tuple(cells)


def _pairs(block: Confusion, share_KK: np.ndarray) -> tuple[Pair, ...]:
    wrong_KK = block.count_KK.copy()
    np.fill_diagonal(wrong_KK, 0)
    true_C, predicted_C = np.nonzero(wrong_KK)
    order = np.lexsort((-share_KK[true_C, predicted_C], -wrong_KK[true_C, predicted_C]))[:PAIRS]
    return tuple(
        Pair(
            true=block.classes[true],
            predicted=block.classes[predicted],
            count=int(wrong_KK[true, predicted]),
            share=float(share_KK[true, predicted]),
            cell=_cell_name(block, true, predicted),
        )
        for true, predicted in zip(true_C[order].tolist(), predicted_C[order].tolist(), strict=True)
    )


def _cell_name(block: Confusion, row: int, column: int) -> str:
    return f"{block.number_K[row]}-{block.number_K[column]}"
