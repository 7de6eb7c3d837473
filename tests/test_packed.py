"""Packed data: any row at once, the bytes that were packed or an error, in any number of processes."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from instar import fields, pack, packed, remote
from instar.errors import DataError
from tests.fakes.images import folder_of_images


@pytest.fixture
def folder(tmp_path):
    """Sixty packed images in four shards, in a folder with a hostile name."""
    source = folder_of_images(tmp_path / "some 'images' $(x)", size=30)
    target = tmp_path / "it's\npacked"
    pack.pack(pack.found_at(source), target, pack.Options(shard=70_000, processes=1))
    return source, target


@pytest.mark.parametrize("access", ["mmap", "pread"])
def test_every_row_is_the_bytes_of_its_file(folder, access):
    source, target = folder
    pack_ = packed.read(target, access=access)
    assert len(pack_) == 60 and len(pack_.about.shards) == 4
    for row, name in enumerate(pack_.index["source"].to_pylist()):
        assert pack_.stored(row) == pack_.checked(row) == (source / name).read_bytes()


@pytest.mark.parametrize("access", ["mmap", "pread"])
def test_rows_are_read_by_a_fork_and_by_another_process(folder, access):
    _, target = folder
    pack_ = packed.read(target, access=access)
    expected = pack_.stored(7)  # opened before the fork
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.write(theirs, bytes([all(pack_.checked(row) for row in range(60)) and pack_.stored(7) == expected]))
        os._exit(0)
    assert os.read(ours, 1) == b"\x01"
    os.wait()
    assert pickle.loads(pickle.dumps(pack_)).stored(7) == expected


def test_more_shards_than_may_be_open_are_read(folder, monkeypatch):
    _, target = folder
    monkeypatch.setattr(packed, "_OPEN", 1)
    pack_ = packed.read(target)
    assert [len(pack_.checked(row)) for row in (0, 59, 0, 30)] == [
        pack_.index["length"][row].as_py() for row in (0, 59, 0, 30)
    ]


def test_one_changed_bit_is_named(folder):
    _, target = folder
    pack_ = packed.read(target)
    shard, at = target / "shard-000000.tar", pack_.index["offset"][5].as_py() + 200
    with open(shard, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DataError, match=r"its bytes in shard-000000\.tar are not those that were packed"):
        packed.read(target).checked(5)
    assert pack.verify(packed.read(target)) == [
        "class 0's/0005.png: its bytes in shard-000000.tar are not those that were packed"
    ]


def test_a_shard_that_is_gone_or_short_is_told_before_anything_is_read(folder):
    _, target = folder
    os.truncate(target / "shard-000001.tar", 5000)
    (target / "shard-000002.tar").unlink()
    with pytest.raises(DataError, match=r"shard-000001\.tar has 5000 bytes, but \d+ were packed; shard-000002\.tar is"):
        packed.read(target)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 30])
def test_an_index_that_is_not_whole_is_an_error(folder, content):
    _, target = folder
    (target / "index.parquet").write_bytes(content)
    with pytest.raises(DataError, match="is not a whole index"):
        packed.read(target)


def test_a_folder_without_an_index_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"no packed data are here\. Make them: instar pack"):
        packed.read(tmp_path)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<f4", "<f8", "?", "<c8"])
@pytest.mark.parametrize("fortran", [False, True])
def test_arrays_are_those_numpy_reads(tmp_path, dtype, fortran):
    array = (np.random.default_rng(0).random((5, 7, 3)) * 200).astype(dtype)
    file = tmp_path / "a.npy"
    np.save(file, np.asfortranarray(array) if fortran else array)
    read = fields.of_npy(file.read_bytes())
    np.testing.assert_array_equal(read, np.load(file))
    assert read.dtype == np.load(file).dtype


@pytest.mark.parametrize("what", ["pickle", "cut", "text", "empty", "huge"])
def test_what_is_no_array_is_refused_and_nothing_runs(tmp_path, what):
    file = tmp_path / "a.npy"
    np.save(file, np.array([print], object) if what == "pickle" else np.zeros((4, 4)), allow_pickle=True)
    data = {"cut": file.read_bytes()[:-1], "text": b"hello", "empty": b""}.get(what, file.read_bytes())
    if what == "huge":
        head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117) + b"\n"
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
    with pytest.raises(DataError, match=r"not a whole \.npy array"):
        fields.of_npy(data)


def test_addresses_survive_a_path():
    for text in ("s3://bucket/a/b", "https://host:80/x", "memory://x"):
        assert remote.is_address(text) and remote.is_address(Path(text))
        assert remote.address(Path(text)) == remote.address(text) == text
    for text in ("/a/b", "C:/x", "relative/s3:/x", "s3:x"):
        assert not remote.is_address(text)


def test_a_source_that_is_not_in_the_index_is_named(folder):
    _, target = folder
    with pytest.raises(DataError, match="1 samples are not in its index, for example 'nowhere'"):
        packed.read(target).rows_of(pa.chunked_array([["class 0's/0001.png", "nowhere"]]))


def test_a_path_below_packed_data_is_the_row_it_names(folder):
    _, target = folder
    found = packed.at_path(target / "class 1's" / "0003.png")
    assert found is not None and found[1] == 23
    assert packed.at_path(target / "class 1's" / "none.png") is None
