"""Moments: mean, spread and range of every channel, of many arrays, exactly the same however the arrays were divided.

Each array is summed in float64 in blocks of fixed size; arrays are put together by `math.fsum`, whose result does not
depend on the order. Values that are no finite numbers are counted and left out.

Legend: C channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 1 << 20  # values of a channel and more that are summed at once


@dataclass(frozen=True)
class Moments:
    """Of every channel: how many finite values, their mean, the sum of squares around it, least, most; and how many
    others there were. Lists of C."""

    count: tuple[int, ...]
    mean: tuple[float, ...]
    squares: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]
    missing: tuple[int, ...]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation over all values (divided by their number)."""
        return tuple(math.sqrt(s / n) if n else math.nan for s, n in zip(self.squares, self.count, strict=True))


def of_array(array: np.ndarray, *, axis: int | None = -1) -> Moments:
    """Moments of one array. axis: where its channels are; None for one channel."""
    columns = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]) if axis is not None else array.reshape(-1, 1)
    step = max(1, _BLOCK // columns.shape[1])
    return together([_of_block(columns[at : at + step]) for at in range(0, max(1, len(columns)), step)])


def _of_block(block: np.ndarray) -> Moments:
    values = block.astype(np.float64)
    finite = np.isfinite(values)
    count = finite.sum(0)
    if not finite.all():
        values[~finite] = 0.0
    mean = values.sum(0) / np.maximum(count, 1)
    away = values - mean
    away *= away
    if finite.all():
        least, most = values.min(0, initial=math.inf), values.max(0, initial=-math.inf)
    else:
        away[~finite] = 0.0
        least = np.where(finite, values, math.inf).min(0, initial=math.inf)
        most = np.where(finite, values, -math.inf).max(0, initial=-math.inf)
    columns = (count, mean, away.sum(0), least, most, len(values) - count)
    return Moments(*(tuple(column.tolist()) for column in columns))


def together(parts: Sequence[Moments]) -> Moments:
    """Moments of all arrays together. Raises ValueError where they do not have the same channels."""
    channels = {len(part.count) for part in parts}
    if len(channels) != 1:
        raise ValueError(f"arrays with {' and '.join(map(str, sorted(channels)))} channels have no moments in common")
    made: list[tuple[int, float, float, float, float, int]] = []
    for channel in range(channels.pop()):
        some = [part for part in parts if part.count[channel]]
        count = sum(part.count[channel] for part in some)
        mean = math.fsum(part.mean[channel] * part.count[channel] for part in some) / count if count else math.nan
        squares = math.fsum(
            value
            for part in some
            for value in (part.squares[channel], part.count[channel] * (part.mean[channel] - mean) ** 2)
        )
        least = min((part.least[channel] for part in some), default=math.nan)
        most = max((part.most[channel] for part in some), default=math.nan)
        made.append((count, mean, squares, least, most, sum(part.missing[channel] for part in parts)))
    return Moments(*zip(*made, strict=True))
