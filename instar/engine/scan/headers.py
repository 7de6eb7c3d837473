"""Headers: which files are whole images, and how large, without decoding them. What was found is remembered.

A file's kind and size come from its header. Whether its end is there is seen from the last bytes where the format says
what stands there; a file that ends otherwise is decoded once, which settles it. The answers are kept in one Parquet
file per data folder, in a cache folder and never beside the images, and hold while a file's size and time of change do.

Legend: N files.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from PIL import Image

from instar import atomic
from instar.engine.loading.cores import usable_cpus
from instar.readers import _images as images
from instar.readers._images import BadImage
from instar.remote import cache_folder

_AT_ONCE = 256  # files a thread takes in one go
_EDGE = 4096  # bytes at both ends that make the fingerprint
_WORTH_KEEPING = 1000  # fewer new answers are quicker to find again than to be worth a file
_VERSION = 1  # of what is found and how; raise it when that changes

# One line of the cache.
_HEADER = np.dtype(
    [
        ("bytes", np.int64),  # -1: nothing is known
        ("changed_ns", np.int64),
        ("width", np.int32),
        ("height", np.int32),
        ("content", np.uint64),
        ("mode", object),
        ("reason", object),
    ]
)
_UNKNOWN = (-1, -1, 0, 0, 0, "", "")


@dataclass(frozen=True)
class Headers:
    """What was found about N files.

    width_N, height_N   pixels of the upright image; 0 for a bad file
    content_N           fingerprint of size, beginning and end of the file; 0 for a bad file
    mode_N              Pillow's name of what a pixel is: L, RGB, F …
    reason_N            why a file is no usable image; '' for a good one
    note                a sentence about the cache where it could not be used; '' otherwise
    """

    width_N: np.ndarray
    height_N: np.ndarray
    content_N: np.ndarray
    mode_N: np.ndarray
    reason_N: np.ndarray
    note: str = ""

    def take(self, rows: Sequence[int]) -> "Headers":
        """The same with only these rows."""
        return Headers(
            self.width_N[rows],
            self.height_N[rows],
            self.content_N[rows],
            self.mode_N[rows],
            self.reason_N[rows],
            self.note,
        )


def check(root: Path, files: Sequence[str], *, progress: Callable[[int], None] = lambda done: None) -> Headers:
    """Look at the header of every file below the root, or remember what was found before.

    progress   told how many files are done, now and then
    """
    kept = _Kept(root)
    found = kept.read(files)
    stop = threading.Event()

    def look(at: int) -> int:
        return 0 if stop.is_set() else _refresh(root, files[at : at + _AT_ONCE], found[at : at + _AT_ONCE])

    new = 0
    # Threads hide the waiting for a network file system; on a local disk they cost little.
    with ThreadPoolExecutor(max_workers=min(32, 4 * usable_cpus())) as threads:
        try:
            for at, looked_at in enumerate(threads.map(look, range(0, len(files), _AT_ONCE)), start=1):
                new += looked_at
                progress(min(at * _AT_ONCE, len(files)))
        finally:
            stop.set()  # after Ctrl-C, do not go on to the end of the folder
    if new >= _WORTH_KEEPING:
        kept.write(files, found)
    return Headers(found["width"], found["height"], found["content"], found["mode"], found["reason"], kept.note)


def plain(root: Path, files: Sequence[str]) -> Headers:
    """The same about files that are no pictures, such as tables of temperatures: that they are there, and no size."""
    found = [_plain(f"{root}/{file}") for file in files]
    num = len(files)
    return Headers(
        np.zeros(num, np.int32),
        np.zeros(num, np.int32),
        np.array([content for content, _ in found], np.uint64),
        np.full(num, "", object),
        np.array([reason for _, reason in found], object),
    )


def _plain(path: str) -> tuple[int, str]:
    try:
        with images.problems_named():
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return 0, "not a regular file"
            size = status.st_size
            return (fingerprint(*ends(descriptor, size), size), "") if size else (0, "empty file, 0 bytes")
        finally:
            os.close(descriptor)
    except BadImage as error:
        return 0, str(error)


def of_both(first: Headers, second: Headers) -> Headers:
    """What is known of samples of two files: the size of the first, what is wrong, a fingerprint of both."""
    content_N = content_of_both(np.stack([first.content_N, second.content_N], axis=1))
    wrong = [
        one or (two and f"its second file: {two}") for one, two in zip(first.reason_N, second.reason_N, strict=True)
    ]
    return replace(first, content_N=content_N, reason_N=np.array(wrong, object))


def content_of_both(content_N2: np.ndarray) -> np.ndarray:
    """One fingerprint, uint64, of every two."""
    return np.array([xxhash.xxh3_64_intdigest(pair.tobytes()) for pair in content_N2], np.uint64)


def _refresh(root: Path, files: Sequence[str], found: np.ndarray) -> int:
    """Look at those files of which what was found does not hold any more; returns how many."""
    new = 0
    known = zip(found["bytes"].tolist(), found["changed_ns"].tolist(), strict=True)
    for number, (file, before) in enumerate(zip(files, known, strict=True)):
        path = f"{root}/{file}"
        if before[0] >= 0 and state(path) == before:
            continue
        found[number] = _look(path)
        new += 1
    return new


def _look(path: str) -> tuple[Any, ...]:
    try:
        with images.opened(path) as (image, descriptor):
            status = os.fstat(descriptor)
            width, height = images.upright_size(image)
            content = _fingerprint_if_whole(image, *ends(descriptor, status.st_size), status.st_size)
            return status.st_size, status.st_mtime_ns, width, height, content, images.kind(image), ""
    except BadImage as error:
        return *state(path), 0, 0, 0, "", str(error)


def state(path: str) -> tuple[int, int]:
    """Size and time of change of a file; -1 where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path costs more than the call
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def fingerprint_of(image: Image.Image, data: bytes) -> int:
    """The fingerprint of a file from all of its bytes; raises BadImage where its end is missing."""
    return _fingerprint_if_whole(image, data[:_EDGE], data[-_EDGE:], len(data))


def _fingerprint_if_whole(image: Image.Image, head: bytes, tail: bytes, size: int) -> int:
    """A fingerprint of the file behind an image; raises BadImage where its end is missing."""
    if not _ends_well(image, head, tail, size):
        with images.problems_named():
            image.load()  # other programs add bytes after the end, so this is no proof yet; decoding is
    return fingerprint(head, tail, size)


def fingerprint(head: bytes, tail: bytes, size: int) -> int:
    """64 bits that differ where the size, the beginning or the end of two files do; never 0."""
    digest = xxhash.xxh3_64(size.to_bytes(8, "little"))
    digest.update(head)
    digest.update(tail)
    return digest.intdigest() or 1


def ends(descriptor: int, size: int) -> tuple[bytes, bytes]:
    """The first and last bytes of a file, which are what `fingerprint` looks at."""
    return os.pread(descriptor, _EDGE, 0), os.pread(descriptor, _EDGE, max(0, size - _EDGE))


def _ends_well(image: Image.Image, head: bytes, tail: bytes, size: int) -> bool:
    """Whether the file is seen to be whole from its two ends, in formats where that can be seen."""
    if image.format in ("JPEG", "MPO"):
        return tail.endswith(b"\xff\xd9")
    if image.format == "PNG":
        return tail[-8:-4] == b"IEND"
    if image.format == "GIF":
        return tail.endswith(b"\x3b")
    if image.format == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    if image.format == "BMP":
        return 0 < int.from_bytes(head[2:6], "little") <= size
    return image.format == "TIFF" and _last_strip(image) <= size


def _last_strip(image: Any) -> float:
    """Where the pixels of a TIFF end in the file; infinity where it does not say."""
    for starts, lengths in ((273, 279), (324, 325)):  # strips, tiles
        begin, long = image.tag_v2.get(starts), image.tag_v2.get(lengths)
        if begin and long and len(begin) == len(long):
            return max(at + count for at, count in zip(begin, long, strict=True))
    return float("inf")


class _Kept:
    """What was found before about the files of one folder. Whatever is wrong with the cache is a note, no error."""

    def __init__(self, root: Path):
        self.note = ""
        self._folder = cache_folder()
        name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
        self._file = self._folder / "headers" / f"{name}.parquet"
        self._version = f"{_VERSION} {Image.__version__} {images.MOST_PIXELS}".encode()

    def read(self, files: Sequence[str]) -> np.ndarray:
        """What is known of each of these files."""
        found = np.full(len(files), np.array(_UNKNOWN, _HEADER))
        try:
            if not self._file.exists():
                return found
            table = pq.read_table(self._file, partitioning=None)
            if (table.schema.metadata or {}).get(b"instar.version") != self._version:
                return found
            place_N = pc.index_in(pa.array(files, pa.string()), value_set=table["file"].combine_chunks())
            here_N = pc.is_valid(place_N).to_numpy(zero_copy_only=False)
            columns = table.take(place_N.filter(pa.array(here_N)))
            for name in _HEADER.names or ():
                found[name][here_N] = columns[name].to_numpy()
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            self.note = f"{self._file}: the cache of file headers could not be read ({error})"
            found[:] = _UNKNOWN
        return found

    def write(self, files: Sequence[str], found: np.ndarray) -> None:
        try:
            table = pa.table({"file": list(files), **{name: found[name] for name in _HEADER.names or ()}})
            table = table.replace_schema_metadata({"instar.version": self._version})
            with atomic.writing(self._file, lasting=False) as file:
                pq.write_table(table, file, compression="zstd")
        except (OSError, pa.ArrowException) as error:
            self.note = (
                f"{self._folder}: the cache of file headers cannot be written ({error}), so every start looks into "
                f"every file. Name another folder in INSTAR_CACHE."
            )
