"""Files are whole or not there, whoever else writes the same one."""

import os

import pytest

from instar import atomic


def test_a_block_that_raises_leaves_the_old_content_and_nothing_else(tmp_path):
    (tmp_path / "it's.txt").write_bytes(b"old")
    with pytest.raises(ValueError, match="no"), atomic.writing(tmp_path / "it's.txt") as file:
        file.write(b"new")
        raise ValueError("no")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("it's.txt", b"old")]


def test_two_that_have_the_same_number_write_the_same_file_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 4711)  # on two nodes of one file system
    with atomic.writing(tmp_path / "a") as first, atomic.writing(tmp_path / "a") as second:
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "a").read_bytes() == b"first"


@pytest.mark.parametrize(("lasting", "waits"), [(True, 1), (False, 0)])
def test_only_what_must_last_waits_for_the_disk(tmp_path, monkeypatch, lasting, waits):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with atomic.writing(tmp_path / "new folder" / "a", lasting=lasting) as file:
        file.write(b"1")
    assert (len(synced), (tmp_path / "new folder" / "a").read_bytes()) == (waits, b"1")
