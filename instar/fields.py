"""Fields: arrays in HDF5, NetCDF and .npy files. Which there are, and one of them, or one row or some channels of it.

This is the only file that imports h5py; NetCDF of before 2008 (classic) is read by SciPy. Nothing in a file is
executed, and none stays open, so that none is shared by forked workers. Legend: C channels.
"""

import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instar.errors import DataError

ENDINGS = (".h5", ".hdf5", ".hdf", ".he5", ".nc", ".nc4", ".npy")
_CLASSIC = b"CDF"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NPY = b"\x93NUMPY"
_KINDS = "biufc"  # booleans and numbers
_SHOWN = 8
_HEAD = 65_600  # bytes that the header of an .npy file may take


class Unreadable(DataError):
    """A file that is not whole, or has no such array. `reason` says why, without the file's name."""

    def __init__(self, file: Path, reason: str):
        super().__init__(f"{file}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Field:
    """One array of a file.

    name     its path in the file; '' in an .npy file, which holds one
    offset   where its bytes lie in one piece in the file, as NumPy has them in memory; None where they do not
    rows     how many rows are compressed together: fewer at once would uncompress some twice
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None = None
    rows: int = 1

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def least(self) -> int:
        """Bytes that a buffer should have to read it without waste."""
        return self.size // max(1, self.shape[0]) * min(self.rows, self.shape[0]) if self.shape else self.size


def fields(file: Path) -> list[Field]:
    """All arrays of numbers in a file, by name. Raises Unreadable where it cannot be read."""
    with _opened(file) as source:
        return [source.field(name) for name in source.names()]


def field(file: Path, name: str) -> Field:
    """One array of a file, not its values. Raises Unreadable where there is none of this name, and names those."""
    return several(file, [name])[0]


def several(file: Path, names: Sequence[str]) -> list[Field]:
    """Some arrays of a file, not their values; it is opened once."""
    with _opened(file) as source:
        return [source.field(_known(name, source)) for name in names]


def read(
    file: Path, name: str = "", *, row: int | None = None, channels: Sequence[int] | None = None, axis: int = -1
) -> np.ndarray:
    """The values of one array.

    row        only this entry of its first axis
    channels   only these entries of `axis`, in this order
    axis       where the channels are, in what is returned without a choice
    Raises Unreadable where the file, the array, the row or a channel is not there.
    """
    with _opened(file) as source:
        name = _known(name, source)
        shape = source.field(name).shape
        where: list[Any] = [slice(None)] * len(shape)
        first = 0
        if row is not None:
            if not shape or not 0 <= row < shape[0]:
                raise _Reason(f"{name!r} has {shape[0] if shape else 0} rows, and row {row} is wanted")
            where[0], first = row, 1
        if channels is None:
            return source.read(name, tuple(where))
        at = axis + len(shape) if axis < 0 else axis + first
        if not first <= at < len(shape) or any(not 0 <= one < shape[at] for one in channels):
            raise _Reason(f"{name!r} is {_times(shape)}; channels {list(channels)} of axis {axis} are not there")
        # Neighbours are read in one piece and chosen from in memory: an index of its own for each would be slower.
        low, high = min(channels), max(channels) + 1
        where[at] = slice(low, high)
        part = source.read(name, tuple(where))
        return np.take(part, [one - low for one in channels], axis=at - first)


def blocks(file: Path, name: str, *, out: np.ndarray) -> Iterator[memoryview]:
    """The values of one array as bytes in C order, in pieces that are valid until the next is asked for.

    out   a buffer that is used again and again, uint8
    """
    with _opened(file) as source:
        about = source.field(name)
        if about.size == 0:
            return
        inner = about.size // about.shape[0] if about.shape else about.size
        if about.shape and inner <= out.size:
            most = max(1, out.size // inner)
            step = most - most % about.rows if most > about.rows else most
            for row in range(0, about.shape[0], step):
                rows = min(step, about.shape[0] - row)
                place = out[: rows * inner].view(about.dtype).reshape(rows, *about.shape[1:])
                source.read_into(name, place, row)
                yield out.data[: rows * inner]
        else:
            yield np.ascontiguousarray(source.read(name, ())).reshape(-1).view(np.uint8).data


def within(file: Path, offset: int, length: int) -> Field:
    """The array of an .npy file that lies inside another one; its offset is None where it has Fortran's order.

    Raises Unreadable where none lies there.
    """
    try:
        with open(file, "rb") as source:
            source.seek(offset)
            start = io.BytesIO(source.read(min(length, _HEAD)))
        shape, fortran, dtype = _npy_header(start)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise Unreadable(file, f"no .npy array lies at byte {offset} ({error})") from error
    about = Field("", shape, dtype, None if fortran else offset + start.tell())
    if start.tell() + about.size != length:
        raise Unreadable(file, f"the .npy array at byte {offset} is {length} bytes long, not as it says")
    return about


def _npy_header(start: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type as the beginning of an .npy file says; raises ValueError for Python objects."""
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(start)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, fortran, dtype


def of_npy(data: bytes | memoryview) -> np.ndarray:
    """The array in the bytes of an .npy file, not copied. Raises DataError for anything else, and for pickles."""
    start = io.BytesIO(bytes(data[:_HEAD]))
    try:
        shape, fortran, dtype = _npy_header(start)
        flat = np.frombuffer(data, dtype, offset=start.tell(), count=int(np.prod(shape, dtype=np.int64)))
    except (ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"not a whole .npy array ({error})") from error
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an HDF5 file of these arrays, whole or not at all."""
    _there_is_h5py(file)
    import h5py

    unfinished = file.with_name(f".{file.name}.part")
    with h5py.File(unfinished, "w") as made:
        for name, array in arrays.items():
            made[name] = array
    unfinished.replace(file)


# --- the kinds of files --------------------------------------------------------------------------------------------


class _Hdf5:
    def __init__(self, handle: Any):
        self._handle = handle

    def names(self) -> list[str]:
        found: list[str] = []
        self._handle.visititems(lambda name, entry: found.append(name) if self._is_one(entry) else None)
        return sorted(found)

    def has(self, name: str) -> bool:
        try:
            return self._is_one(self._handle[name])
        except KeyError:
            return False

    def _is_one(self, entry: Any) -> bool:
        import h5py

        if not isinstance(entry, h5py.Dataset) or entry.dtype.kind not in _KINDS or not entry.shape:
            return False
        # One whose values lie in another file could be made to show any file of this machine.
        return not entry.external and entry.file.filename == self._handle.filename

    def field(self, name: str) -> Field:
        data = self._handle[name]
        offset = None
        if data.chunks is None and not data.is_virtual and data.dtype.kind in "iuf":
            offset = data.id.get_offset()
        rows = data.chunks[0] if data.chunks else 1
        return Field(name, tuple(data.shape), data.dtype, offset, rows)

    def read(self, name: str, where: tuple[Any, ...]) -> np.ndarray:
        return np.asarray(self._handle[name][where or ...])

    def read_into(self, name: str, place: np.ndarray, row: int) -> None:
        self._handle[name].read_direct(place, np.s_[row : row + len(place)], np.s_[:])


class _InMemory:
    """Arrays that NumPy or SciPy maps."""

    def __init__(self, arrays: dict[str, np.ndarray], offset: int | None = None):
        self._arrays, self._offset = arrays, offset

    def names(self) -> list[str]:
        return sorted(name for name in self._arrays if self.has(name))

    def has(self, name: str) -> bool:
        array = self._arrays.get(name)
        return array is not None and array.dtype.kind in _KINDS and bool(array.shape)

    def field(self, name: str) -> Field:
        array = self._arrays[name]
        return Field(name, array.shape, array.dtype, self._offset if array.flags.c_contiguous else None)

    def read(self, name: str, where: tuple[Any, ...]) -> np.ndarray:
        return np.array(self._arrays[name][where or ...])  # a copy: the file may be closed

    def read_into(self, name: str, place: np.ndarray, row: int) -> None:
        place[...] = self._arrays[name][row : row + len(place)]


class _Reason(Exception):
    """Why a file cannot be used, on its way to where its name is known."""


@contextmanager
def _opened(file: Path) -> Iterator[_Hdf5 | _InMemory]:
    kind = ""
    try:
        with open(file, "rb") as start:
            magic = start.read(8)
        if not magic:
            raise _Reason("empty file, 0 bytes")
        kind = "NumPy" if magic.startswith(_NPY) else "NetCDF" if magic.startswith(_CLASSIC) else "HDF5"
        if kind == "NumPy":
            array = np.lib.format.open_memmap(file, mode="r")
            yield _InMemory({"": array}, int(array.offset))
        elif kind == "NetCDF":
            yield from _classic(file)
        elif magic == _HDF5:
            yield from _modern(file)
        else:
            raise _Reason("neither HDF5 nor NetCDF nor .npy; is it whole?")
    except _Reason as error:
        raise Unreadable(file, str(error)) from None
    except (OSError, ValueError, RuntimeError, LookupError, TypeError) as error:
        told = str(error).strip().split("\n")[0] or type(error).__name__
        reason = f"not a whole {kind} file ({told})" if kind else f"cannot be read ({told})"
        reason = "no such file" if isinstance(error, FileNotFoundError) else reason
        raise Unreadable(file, reason) from error


def _modern(file: Path) -> Iterator[_Hdf5]:
    _there_is_h5py(file)
    import h5py

    # Readers need no lock, and on many parallel file systems there is none to be had.
    with h5py.File(file, "r", locking=False) as handle:
        yield _Hdf5(handle)


def _there_is_h5py(file: Path) -> None:
    if importlib.util.find_spec("h5py") is None:
        raise DataError(f"{file}: HDF5 needs h5py, which is not installed here: pip install 'instar[fields]'")


def _classic(file: Path) -> Iterator[_InMemory]:
    from scipy.io import netcdf_file

    with netcdf_file(file, "r", mmap=False) as handle:
        yield _InMemory({name: variable.data for name, variable in handle.variables.items()})


def _known(name: str, source: _Hdf5 | _InMemory) -> str:
    """The name as the file has it; it need not be said where there is one array."""
    plain = name.strip("/")
    if plain and source.has(plain):
        return plain
    names = source.names()
    if not plain and len(names) == 1:
        return names[0]
    from instar.plugins import unknown

    shown = ", ".join(names[:_SHOWN]) or "none"
    raise _Reason(f"{unknown(name, names, what='array')} (it holds {shown}). Name one of those")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
