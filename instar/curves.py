"""Curves in a terminal: points as braille dots, eight to a letter. Nothing here prints."""

import math
from collections.abc import Sequence

# Bits of the dots of one letter, [column][row].
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_EMPTY = 0x2800


def curve(
    points: Sequence[tuple[float, float]], *, columns: int, rows: int, span: tuple[float, float] | None = None
) -> list[str]:
    """Lines of letters that draw `points` joined up, the highest first; empty where there is nothing to draw.

    points   (x, y), x ascending; what is not finite leaves a gap
    span     lowest and highest x of the whole picture, so that a curve can be shorter than it
    """
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not finite or columns < 1 or rows < 1:
        return []
    left, right = span or (finite[0][0], finite[-1][0])
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    wide, tall = 2 * columns - 1, 4 * rows - 1

    def placed(x: float, y: float) -> tuple[int, int]:
        across = round((x - left) / (right - left) * wide) if right > left else 0
        up = round((y - low) / (high - low) * tall) if high > low else tall // 2
        return min(max(across, 0), wide), tall - up

    letters = [[_EMPTY] * columns for _ in range(rows)]
    before: tuple[int, int] | None = None
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            before = None
            continue
        here = placed(x, y)
        for column, row in _between(before or here, here):
            letters[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
        before = here
    return ["".join(map(chr, line)) for line in letters]


def _between(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots on the way from one to another."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (round(start[0] + (end[0] - start[0]) * i / steps), round(start[1] + (end[1] - start[1]) * i / steps))
        for i in range(steps + 1)
    ]
