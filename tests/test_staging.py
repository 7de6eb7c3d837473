"""Staging: one copy a node, whole or not there, and never a training that fails because there is no room for it."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from instar import pack, packed
from instar.engine import staging
from instar.errors import DataError
from tests.fakes.images import folder_of_images
from tests.fakes.training import fingerprint, train

ROOT = Path(__file__).parent.parent


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    source = folder_of_images(tmp_path / "images", size=20)
    pack.pack(pack.found_at(source), tmp_path / "it's packed", pack.Options(shard=70_000, processes=1))
    return tmp_path / "it's packed"


def test_what_is_not_packed_is_read_where_it_is_and_that_is_said(data, tmp_path):
    told: list[str] = []
    machine = SimpleNamespace(stage="auto", cache=0)
    assert staging.near(tmp_path / "images", machine, told=told.append) == tmp_path / "images"
    assert told == [
        f"stage=auto copies packed data, but {tmp_path / 'images'} is not packed: instar pack RECIPE to=FOLDER"
    ]


def test_a_copy_is_made_once_and_found_again(data, tmp_path):
    told: list[str] = []
    first = staging.staged(data, tmp_path / "node", told=told.append)
    inode = (first / "index.parquet").stat().st_ino
    second = staging.staged(data, tmp_path / "node", told=told.append)
    assert first == second != data and (second / "index.parquet").stat().st_ino == inode
    assert told[0].startswith("copies 1") and told[-1] == f"reads the copy in {first}"
    pack_ = packed.read(first)
    assert pack.verify(pack_) == [] and len(pack_) == 60


def test_of_two_processes_that_race_one_copies_and_both_read_the_same(data, tmp_path):
    code = (
        "import sys; from pathlib import Path; from instar.engine import staging\n"
        "told = []; print(staging.staged(Path(sys.argv[1]), Path(sys.argv[2]), told=told.append)); print(told)"
    )
    line = [sys.executable, "-c", code, str(data), str(tmp_path / "node")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environ) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert said[0][0] == said[1][0]
    assert sorted("copies" in one[1] for one in said) == [False, True]
    assert [path.name[0] for path in Path(said[0][0]).parent.iterdir() if path.name.endswith(".part")] == []


def test_what_a_killed_copy_left_is_cleared_and_a_short_copy_made_anew(data, tmp_path):
    target = staging.staged(data, tmp_path / "node")
    os.truncate(target / "shard-000001.tar", 100)
    left = target.with_name(f".{target.name}.999999.part")
    left.mkdir()
    assert staging.staged(data, tmp_path / "node") == target
    assert pack.verify(packed.read(target)) == [] and not left.exists()


def test_without_room_the_data_are_read_where_they_are_and_that_is_said(data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    told: list[str] = []
    assert staging.staged(data, tmp_path / "node", told=told.append) == data
    assert "has 1.0 kB to give, and 1" in told[0] and "are wanted" in told[0]


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(data, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging, "_copy_one", full)
    told: list[str] = []
    assert staging.staged(data, tmp_path / "node", told=told.append) == data
    assert "No space left on device" in told[-1]
    assert [path.suffix for path in (tmp_path / "node").glob("*/*")] == [".lock"]


def test_a_shard_that_is_not_what_was_packed_is_not_copied(data, tmp_path):
    with open(data / "shard-000000.tar", "r+b") as file:
        file.seek(600)
        file.write(b"x")
    with pytest.raises(DataError, match="is not what was packed"):
        staging.staged(data, tmp_path / "node")


def test_auto_takes_the_jobs_own_disk_before_memory_and_never_the_same_disk(data, tmp_path):
    shared = Path("/dev/shm") / f"instar-test-{os.getpid()}"
    shared.mkdir()
    try:
        places = staging._candidates(data, {"SLURM_TMPDIR": str(shared), "TMPDIR": str(tmp_path)})
        assert places[0] == shared and tmp_path not in places
    finally:
        shared.rmdir()


def test_a_tar_that_was_indexed_in_place_is_copied_too(data, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "images", "images")
    pack.pack(pack.found_at(tmp_path / "a.tar"), tmp_path / "in", pack.Options(processes=1, in_place=True))
    target = staging.staged(tmp_path / "in", tmp_path / "node")
    assert sorted(path.name for path in target.iterdir()) == ["index.parquet", "shard-000000.tar"]
    assert pack.verify(packed.read(target)) == []


def test_a_training_from_the_copy_is_the_training(data, tmp_path):
    plain = train(tmp_path, run="plain", root=data, train__epochs=1)
    near = train(tmp_path, run="near", root=data, train__epochs=1, machine={"stage": tmp_path / "node"})
    assert fingerprint(plain.run) == fingerprint(near.run)
    assert list((tmp_path / "node").glob("*/*/shard-000000.tar"))
