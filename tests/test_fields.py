"""Fields: the values h5py, SciPy and NumPy read, by row and by channel, and nothing from anywhere else."""

import importlib.util

import numpy as np
import pytest

from instar import fields
from instar.errors import DataError

h5py = pytest.importorskip("h5py")


@pytest.fixture
def cube():
    return np.random.default_rng(0).normal(size=(6, 7, 9, 4)).astype(np.float32)


@pytest.fixture(params=["contiguous", "chunked", "gzip", "big", "npy", "classic"])
def file(request, tmp_path, cube):
    """One file of each kind with the cube in it, and the cube's name there."""
    path = tmp_path / "it's $(x)\na.h5"
    if request.param == "npy":
        np.save(path.with_suffix(".npy"), cube)
        return path.with_suffix(".npy"), ""
    if request.param == "classic":
        from scipy.io import netcdf_file

        with netcdf_file(path, "w") as made:
            for name, size in zip("nhwc", cube.shape, strict=True):
                made.createDimension(name, size)
            made.createVariable("cube", "f4", tuple("nhwc"))[:] = cube
        return path, "cube"
    how = {"chunked": {"chunks": (4, 7, 3, 4)}, "gzip": {"chunks": (2, 7, 9, 4), "compression": "gzip"}}
    with h5py.File(path, "w") as made:
        kind = ">f4" if request.param == "big" else "<f4"
        made.create_dataset("a/b/cube", data=cube, dtype=kind, **how.get(request.param, {}))
        made["text"] = "no numbers"
        made["a/number"] = 7
    return path, "a/b/cube"


def test_values_rows_and_channels_are_those_that_were_written(file, cube):
    path, name = file
    np.testing.assert_array_equal(fields.read(path, name), cube)
    np.testing.assert_array_equal(fields.read(path, name, row=4), cube[4])
    np.testing.assert_array_equal(fields.read(path, name, channels=[2, 0]), cube[..., [2, 0]])
    np.testing.assert_array_equal(fields.read(path, name, row=1, channels=[3, 1, 3]), cube[1][..., [3, 1, 3]])
    np.testing.assert_array_equal(fields.read(path, name, channels=[5], axis=0), cube[[5]])
    np.testing.assert_array_equal(fields.read(path, name, row=2, channels=[5, 1], axis=0), cube[2][[5, 1]])
    assert [(one.name, one.shape) for one in fields.fields(path)] == [(name, cube.shape)]


@pytest.mark.parametrize("size", [1 << 20, 9 * 4 * 7 * 4 * 2, 10])
def test_bytes_come_in_order_through_one_buffer(file, cube, size):
    path, name = file
    data = b"".join(bytes(piece) for piece in fields.blocks(path, name, out=np.empty(size, np.uint8)))
    assert np.frombuffer(data, fields.field(path, name).dtype).tobytes() == data
    np.testing.assert_array_equal(np.frombuffer(data, fields.field(path, name).dtype).reshape(cube.shape), cube)


def test_an_offset_is_where_the_bytes_lie(file, cube):
    path, name = file
    about = fields.field(path, name)
    if about.offset is not None:
        lies = path.read_bytes()[about.offset : about.offset + about.size]
        np.testing.assert_array_equal(np.frombuffer(lies, about.dtype).reshape(cube.shape), cube)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"row": 6}, "6 rows, and row 6 is wanted"),
        ({"row": -1}, "row -1 is wanted"),
        ({"channels": [4]}, r"channels \[4\] of axis -1 are not there"),
        ({"channels": [0], "axis": 9}, "of axis 9 are not there"),
    ],
)
def test_what_is_not_there_is_told(file, wanted, told):
    with pytest.raises(DataError, match=told):
        fields.read(*file, **wanted)


def test_a_misspelt_array_names_the_near_one(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as made:
        made["climate/data"] = np.zeros((2, 3))
    with pytest.raises(DataError, match="unknown array 'climate/dat': did you mean 'climate/data'"):
        fields.read(tmp_path / "a.h5", "climate/dat")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\0" * 300, b"CDF\x01"]
)
def test_a_broken_file_is_an_error_with_its_name(tmp_path, content):
    (tmp_path / "bad.h5").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.h5: "):
        fields.fields(tmp_path / "bad.h5")
    with pytest.raises(DataError, match="no such file"):
        fields.fields(tmp_path / "none.h5")


def test_values_in_other_files_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret words here")
    np.save(tmp_path / "pickle.npy", np.array([print], object), allow_pickle=True)
    with h5py.File(tmp_path / "a.h5", "w") as made:
        made.create_dataset("out", (16,), "u1", external=[(str(tmp_path / "secret"), 0, 16)])
        made["link"] = h5py.ExternalLink(str(tmp_path / "b.h5"), "x")
        made["ok"] = np.zeros(3)
    assert [one.name for one in fields.fields(tmp_path / "a.h5")] == ["ok"]
    with pytest.raises(DataError, match="unknown array 'out'"):
        fields.read(tmp_path / "a.h5", "out")
    with pytest.raises(DataError, match="not a whole NumPy file"):
        fields.read(tmp_path / "pickle.npy")


def test_a_missing_h5py_is_named_with_what_to_install(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as made:
        made["x"] = np.zeros(3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs h5py, which is not installed here: pip install 'instar\[fields\]'"):
        fields.fields(tmp_path / "a.h5")
