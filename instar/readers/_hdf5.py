"""Files of arrays: HDF5, of which this is the only door, and NumPy. Nothing in them is executed.

A file is opened for one read and closed again, so that nothing is shared between forked workers.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from instar.errors import DataError
from instar.plugins import unknown
from instar.readers._pixels import BadImage

HDF5 = (".h5", ".hdf5", ".he5", ".nc", ".nc4")
_SHOWN = 8


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """An open HDF5 file. Raises BadImage with a reason where there is none."""
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"HDF5 files need h5py, which is not here ({error}). Install it: pip install 'instar[fields]'"
        ) from error
    try:
        if os.stat(path).st_size == 0:  # noqa: PTH116 - a text, as the manifest gives it
            raise BadImage("empty file, 0 bytes")
        # Locking fails on many network file systems, and nobody writes here.
        file = h5py.File(path, "r", locking=False)
    except FileNotFoundError as error:
        raise BadImage("no such file") from error
    except OSError as error:
        raise BadImage(f"not a whole HDF5 file: {_first(error)}") from error
    with file:
        try:
            yield file
        except OSError as error:
            raise BadImage(f"cannot be read: {_first(error)}") from error


def dataset(file: Any, name: str) -> Any:
    """The dataset with this name; raises BadImage with those that are there."""
    import h5py

    found = file.get(name)
    if isinstance(found, h5py.Dataset):
        return found
    there = names(file)
    return _refuse(f"{unknown(name, there, what='dataset')} (it holds {', '.join(there[:_SHOWN]) or 'none'})")


def names(file: Any) -> list[str]:
    """The names of all datasets in an open file."""
    import h5py

    found: list[str] = []
    file.visititems(lambda name, one: found.append(name) if isinstance(one, h5py.Dataset) else None)
    return found


def array(path: str | Path) -> np.ndarray:
    """A NumPy file, mapped into memory. Raises BadImage where it is none; a pickle could run anything."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise BadImage("no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise BadImage(f"not a whole NumPy file: {_first(error)}") from error
    if not isinstance(found, np.ndarray):
        raise BadImage("a .npz file of several arrays; write one .npy a row")
    return found


def numbers(path: Path, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the wanted arrays that a file of statistics holds, by their last name; float64.

    Raises BadImage where the file cannot be read.
    """
    if path.suffix.lower() in HDF5:
        with opened(path) as file:
            found = {name.rpartition("/")[2]: name for name in names(file)}
            return {name: np.asarray(file[found[name]], np.float64) for name in wanted if name in found}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name], np.float64) for name in wanted if name in archive}
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise BadImage(f"not a file of statistics (HDF5 or .npz): {_first(error)}") from error


def _refuse(reason: str) -> Any:
    raise BadImage(reason)


def _first(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
