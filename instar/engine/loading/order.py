"""Order: which row is seen when, as a pure function of (rows, quotas, seed, epoch, position).

Nothing is shuffled and nothing is stored. A position is sent through a keyed permutation of the epoch (a Feistel
network with cycle walking), which gives a draw; the draw belongs to a class by that class's quota; and the class's
draws walk through its rows, pass after pass, each pass in a permutation of its own. So

- any position of any epoch is found in constant time, by any worker, rank or restart, from one integer;
- with every quota equal to its class's size an epoch is a permutation: each row once;
- with other quotas every class is drawn exactly as often as its quota says, no row of a class comes a second time
  before all of them came once, and the next epoch carries on where this one ended.

Legend: N positions asked for, R rows, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_AT_ONCE = 16_384  # positions worked out together: what stays in a core's cache takes a third of the time
_FEW = 16  # indices for which plain integers are faster than arrays
_MANY = 2048  # from which three quick operations are faster than a slow one
_ROUNDS = 6  # four make a Luby-Rackoff pseudo-random permutation; two more for very small digits

_MASK = 0xFFFFFFFFFFFFFFFF
_ONE, _HALF = np.uint64(1), np.uint64(32)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SALTS = [np.uint64(0x9E3779B97F4A7C15 * (turn + 1) & 0xFFFFFFFFFFFFFFFF) for turn in range(_ROUNDS)]


@dataclass(frozen=True)
class Draw:
    """What stands at each of N positions.

    row_N     row number in the manifest
    epoch_N   epoch of the position, from 0
    repeat_N  how often the row came before in this epoch, so that a repeated row is augmented anew
    """

    row_N: np.ndarray
    epoch_N: np.ndarray
    repeat_N: np.ndarray


class Order:
    """The global order of one training set.

    rows_of_class   for each class, the manifest rows it has, in manifest order; as ranges they take no memory
    quotas_K        draws of each class in one epoch
    """

    def __init__(self, rows_of_class: Sequence[np.ndarray | range], quotas_K: Sequence[int], *, seed: int):
        sizes = np.array([len(rows) for rows in rows_of_class], np.int64)
        quotas = np.asarray(quotas_K, np.int64)
        if len(sizes) != len(quotas):
            raise ValueError(f"{len(sizes)} classes but {len(quotas)} quotas")
        if np.any((sizes == 0) & (quotas > 0)):
            raise ValueError("a class without rows has a quota")
        self.epoch_samples = int(quotas.sum())
        if self.epoch_samples <= 0:
            raise ValueError("an epoch of no samples")
        self.seed = seed
        self._quota_ends_K = np.cumsum(quotas)
        self._rows = _Rows(rows_of_class)
        self._plain = bool(np.all(quotas == sizes))
        begins_K, row_starts_K = self._quota_ends_K - quotas, np.cumsum(sizes) - sizes
        sizes_3K = _with_digits(np.maximum(sizes, 1)).view(np.int64)
        self._of_class = np.stack([quotas, begins_K, row_starts_K, *sizes_3K])
        self._epoch = _with_digits(np.array([self.epoch_samples]))
        # Where every class is drawn equally often, a division tells the class.
        self._each = np.uint64(quotas[0]) if np.all(quotas == quotas[0]) else None

    def draw(self, position_N: np.ndarray) -> Draw:
        """The rows at global positions (0 is the first sample of the first epoch)."""
        position_N = np.asarray(position_N, np.int64)
        # Unsigned and by one number NumPy divides without dividing: its divmod would take a tenth of all of this.
        epoch_N = (position_N.view(np.uint64) // np.uint64(self.epoch_samples)).view(np.int64)
        within_N = position_N - epoch_N * self.epoch_samples
        row_N = np.empty_like(position_N)
        repeat_N = np.zeros_like(position_N)
        for at in range(0, len(position_N), _AT_ONCE):
            for epoch, here in _parts(epoch_N[at : at + _AT_ONCE], at):
                key_1 = np.array([_mix(key_of((self.seed, 0, epoch)))], np.uint64)
                shuffled_M = _permuted(within_N[here], self._epoch, key_1)
                if self._plain:
                    row_N[here] = self._rows[shuffled_M]
                else:
                    row_N[here], repeat_N[here] = self._by_quota(shuffled_M, epoch)
        return Draw(row_N, epoch_N, repeat_N)

    def companions(self, row: int) -> np.ndarray:
        """The training rows of that row's class, itself among them. Looks through all rows: for the rare bad sample."""
        return self._rows.beside(row)

    def anyone(self, row: int, share: float) -> int:
        """A row of any class to take the place of this one: the draw at a share of the first epoch."""
        return int(self.draw(np.array([int(share * self.epoch_samples)])).row_N[0])

    def _by_quota(self, draw_M: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        class_M = self._class_of(draw_M)
        of_class_6M = self._of_class.take(class_M, axis=1)
        quota_M, begin_M, start_M, size_M = of_class_6M[:4]
        before_epoch_M = quota_M * epoch
        nth_M = before_epoch_M + draw_M - begin_M  # nth draw of its class, ever
        pass_M = (nth_M.view(np.uint64) // size_M.view(np.uint64)).view(np.int64)  # unsigned: half the time
        within_M = nth_M - pass_M * size_M
        stream_M = (class_M.astype(np.uint64) << np.uint64(40)) + pass_M.view(np.uint64)
        key_M = _mix_each(stream_M ^ np.uint64(key_of((self.seed, 1))))
        shuffled_M = _permuted(within_M, of_class_6M[3:].view(np.uint64), key_M)
        return self._rows[start_M + shuffled_M], pass_M - before_epoch_M // size_M

    def _class_of(self, draw_M: np.ndarray) -> np.ndarray:
        """The class that each draw of an epoch belongs to."""
        if self._each is not None:
            return (draw_M.view(np.uint64) // self._each).view(np.int64)
        return np.searchsorted(self._quota_ends_K, draw_M, side="right")


class _Rows:
    """The rows of all classes, one class after the other: of ranges their beginnings, else the one array with an entry
    a row, as narrow as it may be; forked workers share its pages."""

    def __init__(self, rows_of_class: Sequence[np.ndarray | range]):
        ends_K = np.cumsum([len(rows) for rows in rows_of_class])
        ranges = [rows for rows in rows_of_class if isinstance(rows, range) and rows.step == 1]
        self._starts_K = np.concatenate([[0], ends_K[:-1]])
        self._ends_K = ends_K
        self._begins_K = np.array([rows.start for rows in ranges], np.int64)
        self._rows_R: np.ndarray | None = None
        if len(ranges) < len(rows_of_class):
            largest = max((int(np.max(rows)) for rows in rows_of_class if len(rows)), default=0)
            narrow = np.int32 if largest < 2**31 else np.int64
            self._rows_R = np.concatenate([np.asarray(rows).astype(narrow) for rows in rows_of_class])

    def __getitem__(self, place_M: np.ndarray) -> np.ndarray:
        if self._rows_R is not None:
            return self._rows_R[place_M]
        class_M = np.searchsorted(self._ends_K, place_M, side="right")
        return self._begins_K[class_M] + place_M - self._starts_K[class_M]

    def beside(self, row: int) -> np.ndarray:
        """All rows of that row's class."""
        if self._rows_R is None:
            sizes_K = self._ends_K - self._starts_K
            number = int(np.flatnonzero((self._begins_K <= row) & (row < self._begins_K + sizes_K))[0])
        else:
            place = int(np.flatnonzero(self._rows_R == row)[0])
            number = int(np.searchsorted(self._ends_K, place, side="right"))
        return self[np.arange(self._starts_K[number], self._ends_K[number])].astype(np.int64)


def _parts(epoch_M: np.ndarray, at: int) -> Iterator[tuple[int, slice | np.ndarray]]:
    """Each epoch among some positions that begin at `at`, and where its positions are. Nearly always it is one."""
    first = int(epoch_M[0])
    if np.all(epoch_M == first):
        yield first, slice(at, at + len(epoch_M))
        return
    for epoch in np.unique(epoch_M).tolist():
        yield epoch, at + np.flatnonzero(epoch_M == epoch)


def permute(index_N: np.ndarray, size: int, *, key: tuple[int, ...]) -> np.ndarray:
    """Where a keyed pseudo-random permutation of 0 .. size-1 sends each index; int64, any order, no memory."""
    return permute_each(index_N, np.full(1, size, np.int64), stream_M=np.zeros(1, np.uint64), key=key)


def permute_each(index_N: np.ndarray, size_M: np.ndarray, *, stream_M: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """As `permute`, with a size and a stream of its own for every index (or one for all: length 1)."""
    return _permuted(index_N, _with_digits(size_M), _mix_each(stream_M ^ np.uint64(key_of(key))))


def _with_digits(size_M: np.ndarray) -> np.ndarray:
    """Sizes, and the radices a and b of two digits that each index below them has: a b >= size and hardly more."""
    size_M = size_M.astype(np.uint64)
    a_M = np.ceil(np.sqrt(size_M)).astype(np.uint64)
    return np.stack([size_M, a_M, (size_M + a_M - _ONE) // a_M])


def _permuted(index_N: np.ndarray, size_3M: np.ndarray, key_M: np.ndarray) -> np.ndarray:
    """Where permutations of these sizes and keys (M = N, or one for all) send each index."""
    size_M, a_M, b_M = size_3M
    result_N = _feistel(index_N.astype(np.uint64), key_M, a_M, b_M)
    # Cycle walking: a b overshoots the size by less than a, so few indices land outside; they walk on until inside.
    outside = np.flatnonzero(result_N >= size_M)
    if outside.size:
        size_M, a_M, b_M, key_M = (np.broadcast_to(each, index_N.shape) for each in (size_M, a_M, b_M, key_M))
    if outside.size <= _FEW:
        for at in outside.tolist():
            result_N[at] = _walked(*(int(each[at]) for each in (result_N, key_M, a_M, b_M, size_M)))
        return result_N.view(np.int64)
    while outside.size:
        result_N[outside] = _feistel(result_N[outside], key_M[outside], a_M[outside], b_M[outside])
        outside = outside[result_N[outside] >= size_M[outside]]
    return result_N.view(np.int64)


def _feistel(value_N: np.ndarray, key_M: np.ndarray, a_M: np.ndarray, b_M: np.ndarray) -> np.ndarray:
    """A Feistel network over two digits with modular addition. Source: Black and Rogaway 2002, section 6."""
    left_N = value_N // b_M
    right_N = value_N - left_N * b_M
    for turn in range(0, _ROUNDS, 2):
        left_N = _added(left_N, _scramble(right_N, key_M, turn), a_M)
        right_N = _added(right_N, _scramble(left_N, key_M, turn + 1), b_M)
    left_N *= b_M
    left_N += right_N
    return left_N


def _added(digit_N: np.ndarray, other_N: np.ndarray, radix_M: np.ndarray) -> np.ndarray:
    """The sum of two, modulo a radix; made in `other_N`."""
    other_N += digit_N
    if len(radix_M) > 1 or len(other_N) < _MANY:
        other_N %= radix_M
    else:  # half the time: NumPy divides by a single number without dividing, but has no such remainder
        whole_N = other_N // radix_M
        whole_N *= radix_M
        other_N -= whole_N
    return other_N


def _scramble(digit_N: np.ndarray, key_M: np.ndarray, turn: int) -> np.ndarray:
    """A keyed hash of a digit, 32 bits, so that a digit and it add without overflow."""
    value_N = digit_N ^ (key_M + _SALTS[turn])
    value_N *= _FIRST
    value_N ^= value_N >> _HALF
    value_N *= _SECOND
    value_N >>= _HALF
    return value_N


def _walked(value: int, key: int, a: int, b: int, size: int) -> int:
    """Cycle walking of one index that is outside: the same as `_feistel` and `_scramble` until it is inside.

    In plain integers, as calls of NumPy for one number take ten times as long.
    """
    while value >= size:
        digits, radices = list(divmod(value, b)), (a, b)
        for turn in range(_ROUNDS):
            mine, other = turn % 2, 1 - turn % 2
            mixed = (digits[other] ^ (key + int(_SALTS[turn]) & _MASK)) * int(_FIRST) & _MASK
            mixed = (mixed ^ (mixed >> 32)) * int(_SECOND) & _MASK
            digits[mine] = (digits[mine] + (mixed >> 32)) % radices[mine]
        value = digits[0] * b + digits[1]
    return value


def key_of(parts: tuple[int, ...], *, after: int = 0) -> int:
    """A 64-bit key from integers, the same on every machine. Source of the mixer: Steele et al. 2014, SplitMix64.

    after   the key of the integers before these: key_of((a, b)) is key_of((b,), after=key_of((a,)))
    """
    # Plain integers: it stands in every step, and arrays of one number would take ten times as long.
    state = after
    for part in parts:
        state = _mix((state + (part & _MASK) + 0x9E3779B97F4A7C15) & _MASK)
    return state


def _mix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _mix_each(value_N: np.ndarray) -> np.ndarray:
    """`_mix` for an array."""
    value_N = (value_N ^ (value_N >> np.uint64(30))) * _FIRST
    value_N = (value_N ^ (value_N >> np.uint64(27))) * _SECOND
    return value_N ^ (value_N >> np.uint64(31))
