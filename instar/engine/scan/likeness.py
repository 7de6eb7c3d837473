"""Likeness: pictures that look alike though their bytes differ - saved again, scaled, slightly brighter.

Each picture has 64 bits that say where its coarse pattern is above and below its middle: the DCT hash of Zauner 2010,
"Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1, as imagehash's `phash` computes it.
Like pictures differ in few of the bits. Mirrored and turned ones are found by a second hash, of the picture brought to
one of its eight positions: a mirror only changes signs of the DCT, and a quarter turn also swaps its axes.

Legend: N pictures, U different hashes, P pairs.
"""

from functools import cache

import numpy as np
from PIL import Image

SIDE = 32  # pixels the picture is made to
_KEPT = 8  # lowest frequencies of each axis
_FLAT = 2.0  # grey levels; a picture that varies less has no pattern
_BANDS = 4
_BITS = 64 // _BANDS
_AT_ONCE = 1_000_000  # pairs compared in one go
_MOST = 400_000_000  # pairs compared in all; half a million unrelated pictures take 130 million
_MOST_ALIKE = 200  # pictures with the same hash that are put beside one another


def likeness(grey: Image.Image) -> int:
    """The 64 bits of a picture in mode L; 0 for one without a pattern, which is like nothing."""
    low_KK = _low(grey)
    return 0 if low_KK is None else _bits(low_KK)


def turned(grey: Image.Image) -> int:
    """The same of the picture in a position that all of its mirrored and turned copies share."""
    low_KK = _low(grey)
    if low_KK is None:
        return 0
    # Brighter to the left, brighter at the top, and more so to the left: the lowest frequency of each axis says it.
    if abs(low_KK[0, 1]) < abs(low_KK[1, 0]):
        low_KK = low_KK.T
    sign_K = (-1.0) ** np.arange(_KEPT)
    down_K, right_K = (sign_K if low < 0 else np.ones(_KEPT) for low in (low_KK[1, 0], low_KK[0, 1]))
    return _bits(low_KK * down_K[:, None] * right_K)


def _low(grey: Image.Image) -> np.ndarray | None:
    """The lowest frequencies, those down the picture first; None for one without a pattern."""
    value_HW = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64)
    if value_HW.std() < _FLAT:
        return None
    wave_KH = _waves()
    return wave_KH @ value_HW @ wave_KH.T


def _bits(low_KK: np.ndarray) -> int:
    return int.from_bytes(np.packbits(low_KK > np.median(low_KK)).tobytes(), "big")


@cache
def _waves() -> np.ndarray:
    """The first rows of the DCT-II matrix of SIDE points; their common factor does not matter."""
    frequency, place = np.arange(_KEPT)[:, None], np.arange(SIDE)
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE))


def pairs(hash_N: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Pictures (first_P < second_P) that differ in at most `most` bits, the bits they differ in, and whether all such
    were found: where very many look alike, as in a film, only some are.

    hash_N   uint64, 0 for a picture that is like nothing
    most     at most 7: of four bands of 16 bits, one then differs in at most one bit, and is looked up
    """
    assert 0 <= most < 2 * _BANDS, most
    unique_U, place_N = np.unique(hash_N, return_inverse=True)
    first, second, whole = _near(unique_U[unique_U != 0], most)
    offset = int(bool(len(unique_U)) and unique_U[0] == 0)
    # From different hashes back to pictures: every picture of the one with every picture of the other.
    order = np.argsort(place_N, kind="stable")
    count_U = np.bincount(place_N, minlength=len(unique_U))
    start_U = np.cumsum(count_U) - count_U
    whole = whole and bool((count_U[offset:] <= _MOST_ALIKE).all())
    count_U = np.minimum(count_U, _MOST_ALIKE)
    same = np.flatnonzero(count_U > 1)
    same = same[same >= offset]
    one, other = np.concatenate([first + offset, same]), np.concatenate([second + offset, same])
    a, b = _products(start_U[one], count_U[one], start_U[other], count_U[other])
    a, b = order[a], order[b]
    keep = (a < b) | (hash_N[a] != hash_N[b])
    low, high = np.minimum(a, b)[keep], np.maximum(a, b)[keep]
    sorting = np.lexsort((high, low))
    low, high = low[sorting], high[sorting]
    return low, high, _differ(hash_N[low], hash_N[high]), whole


def _near(hash_U: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Pairs of different hashes, by their place, that are near one another."""
    found: list[np.ndarray] = []
    budget, whole = _MOST, True
    flips = [0, *(1 << bit for bit in range(_BITS))] if most >= _BANDS else [0]
    for band in range(_BANDS):
        value_U = ((hash_U >> np.uint64(band * _BITS)) & np.uint64((1 << _BITS) - 1)).astype(np.int64)
        order = np.argsort(value_U, kind="stable")
        count_V = np.bincount(value_U, minlength=1 << _BITS)
        start_V = np.cumsum(count_V) - count_V
        sorted_hash_U = hash_U[order]
        for flip in flips:
            if flip and not whole:
                break
            # In the order of the values, so that what is compared lies together in memory.
            wanted_U = value_U[order] ^ flip
            budget -= int(count_V[wanted_U].sum())
            whole = whole and budget >= 0
            for some in _portions(count_V[wanted_U]):
                a, b = _products(some, np.ones_like(some), start_V[wanted_U[some]], count_V[wanted_U[some]])
                near = np.flatnonzero(_differ(sorted_hash_U[a], sorted_hash_U[b]) <= most)
                a, b = order[a[near]], order[b[near]]
                found.append((a * len(hash_U) + b)[a < b])
    both = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    return both // max(1, len(hash_U)), both % max(1, len(hash_U)), whole


def _portions(count: np.ndarray) -> list[np.ndarray]:
    """The places of a list of counts, cut where their sum becomes too large to hold at once."""
    if not len(count):
        return []
    part = np.cumsum(count) // _AT_ONCE
    return np.split(np.arange(len(count)), np.flatnonzero(np.diff(part)) + 1)


def _products(start: np.ndarray, count: np.ndarray, to: np.ndarray, by: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every member of each first range beside every member of the second range beside it."""
    size = count * by
    which = np.repeat(np.arange(len(size)), size)
    nth = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
    if np.all(count == 1):
        return start[which], to[which] + nth
    return start[which] + nth // by[which], to[which] + nth % by[which]


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many bits differ."""
    value = a ^ b  # counted as in Warren 2013, "Hacker's Delight", section 5-1; NumPy 1 has no bit count
    value -= (value >> np.uint64(1)) & np.uint64(0x5555555555555555)
    value = (value & np.uint64(0x3333333333333333)) + ((value >> np.uint64(2)) & np.uint64(0x3333333333333333))
    value = (value + (value >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((value * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)
