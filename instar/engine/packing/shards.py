"""Shards: which sample goes into which file, and the tar bytes around it. The same input always gives the same bytes.

Legend: N samples.
"""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 512
END = bytes(2 * BLOCK)  # what a tar ends with
_CHUNK_BYTES = 1 << 23  # what one process takes in one go


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples that one process packs in one go: rows `first` to `last`, not included, of a shard."""

    shard: int
    first: int
    last: int


def planned(
    weight_N: np.ndarray, size_N: np.ndarray, *, most: int, rows: int = 64, keys: Sequence[int] | None = None
) -> list[Chunk]:
    """All samples, in order, as chunks of shards.

    weight_N   bytes that each is expected to take in a shard
    size_N     bytes that are read for it
    most       bytes of a shard; a sample that is larger has one for itself
    rows       samples that one process takes in one go, at most
    keys       the sample each belongs to, where one has several: it is never cut in two
    """
    if keys is not None:
        weight_N = _of_samples(weight_N, np.asarray(keys))
    chunks: list[Chunk] = []
    shard, filled, begun, read = 0, 0, 0, 0
    for row, (weight, size) in enumerate(zip(weight_N.tolist(), size_N.tolist(), strict=True)):
        full = filled > 0 < weight and filled + weight > most
        if full or row - begun == rows or (read and read + size > _CHUNK_BYTES):
            chunks.append(Chunk(shard, begun, row))
            begun, read = row, 0
        if full:
            shard, filled = shard + 1, 0
        filled += weight
        read += size
    return [*chunks, Chunk(shard, begun, len(weight_N))]


def _of_samples(weight_N: np.ndarray, key_N: np.ndarray) -> np.ndarray:
    """What members weigh if the first of a sample bears it all."""
    first = np.flatnonzero(np.diff(key_N, prepend=-1))
    weighed_N = np.zeros_like(weight_N)
    weighed_N[first] = np.add.reduceat(weight_N, first) if len(first) else 0
    return weighed_N


def key_of(row: int) -> str:
    """The name of a sample in its shard."""
    return f"{row:09d}"


def name_of(shard: int) -> str:
    return f"shard-{shard:06d}.tar"


def member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, bytes and padding of one member. No clock, no user and no machine is in it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    return info.tobuf(tarfile.GNU_FORMAT), data, bytes(-len(data) % BLOCK)


def sample(key: str, ending: str, data: bytes, number: int | None) -> tuple[list[bytes], int]:
    """The members of one sample, and where its bytes begin in them.

    number   of its class; None without labels
    """
    pieces = [*member(f"{key}.{ending}", data)]
    if number is not None:
        pieces += member(f"{key}.cls", str(number).encode())
    return pieces, BLOCK


def expected(size_N: np.ndarray, pixels_N: Sequence[int] | np.ndarray | None, *, payload: str) -> np.ndarray:
    """Bytes that each sample will about take in a shard, from what is known before it is read."""
    around = 3 * BLOCK  # its header, and the member with its class
    size_N = np.maximum(size_N, 0)
    if payload == "original":
        return -(-size_N // BLOCK) * BLOCK + around
    if payload == "array":
        return (3 * np.asarray(pixels_N) if pixels_N is not None else 8 * size_N) + around
    most = 3 * 256 * 384 if payload == "raw256" else 40_000
    if pixels_N is None:  # an archive; an image takes many times its file when it is decoded
        return np.minimum(30 * size_N if payload == "raw256" else size_N, most) + around
    each = 3.0 if payload == "raw256" else 0.4
    return np.minimum((each * np.asarray(pixels_N)).astype(np.int64), most) + around
