"""A large data set whose folders are as they were is not looked through again; whatever can be seen to change is seen."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from instar import prepare
from instar.engine.scan import headers, whole
from instar.experiment import Data
from instar.manifest import Manifest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "a cache"))
    monkeypatch.setattr(whole, "_BY_FOLDER", 10)
    monkeypatch.setattr(whole, "_SETTLED_NS", -(10**15))  # folders made a moment ago count as settled
    return tmp_path / "a cache"


def image(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade, 3, 9)).save(path)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    for number in range(30):
        image(tmp_path / "it's data" / "ab"[number % 2] / "deep er"[: number % 3 * 3] / f"{number}.png", number)
    (tmp_path / "it's data" / "empty").mkdir()
    return tmp_path / "it's data"


def looked_at(root: Path, monkeypatch, seed: int = 0, **settings) -> tuple[Manifest, int]:
    """The manifest, and at how many files was looked for it."""
    count = 0
    real = headers.check

    def counting(root, files, **options):
        nonlocal count
        count += len(files)
        return real(root, files, **options)

    with monkeypatch.context() as patch:
        patch.setattr(headers, "check", counting)
        return prepare.manifest(Data.model_validate({"root": root, **settings}), seed), count


def test_the_second_start_looks_at_no_file_and_says_what_it_cannot_see(root, monkeypatch):
    first, looked = looked_at(root, monkeypatch)
    assert looked == 30
    again, looked = looked_at(root, monkeypatch)
    assert looked == 0
    assert again.hash == first.hash
    assert again.table.equals(first.table)
    assert (again.classes, again.root, again.skipped) == (first.classes, first.root, first.skipped)
    assert "files written over in place are not seen" in again.statistics["notes"][-1]
    image(root / "a" / "0.png", 200)
    assert looked_at(root, monkeypatch)[0].hash == first.hash
    assert looked_at(root, monkeypatch, recheck="files")[0].hash != first.hash


CHANGES = {
    "a new file": lambda root: image(root / "a" / "new.png", 99),
    "a file gone": lambda root: (root / "b" / "3.png").unlink(),
    "a file renamed": lambda root: (root / "a" / "0.png").rename(root / "a" / "x.png"),
    "a first file in an empty folder": lambda root: image(root / "empty" / "1.png", 98),
    "a file deep down": lambda root: image(root / "a" / "dee" / "1.png", 97),
    "a new folder": lambda root: image(root / "c" / "1.png", 96),
    "a folder in the place of another": lambda root: ((root / "a").rename(root / "z"), image(root / "a" / "0.png", 0)),
    "a file replaced by a rename": lambda root: image(root / "t.png", 95).replace(root / "a" / "0.png"),
}


def test_what_is_remembered_has_the_hash_of_what_is_looked_at(root, monkeypatch):
    first, _ = looked_at(root, monkeypatch)
    again, looked = looked_at(root, monkeypatch)
    assert looked == 0 and vars(again)["hash"] == first.hash  # it is there, and nobody computes it
    assert replace(again).hash == first.hash


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_that_a_folder_shows_is_seen(root, monkeypatch, change):
    before = looked_at(root, monkeypatch)[0]
    times = {folder: folder.stat() for folder in root.rglob("*/")}
    change(root)
    for folder, status in times.items():
        if folder.is_dir():  # an archive that was unpacked, or rsync, sets the old time again
            os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))
    after, looked = looked_at(root, monkeypatch)
    assert looked > 0
    assert after.hash != before.hash


def test_other_settings_seeds_and_lists_are_other_data(root, monkeypatch, tmp_path):
    looked_at(root, monkeypatch)
    assert looked_at(root, monkeypatch, seed=1)[1] > 0
    assert looked_at(root, monkeypatch, min_per_class=2)[1] > 0
    listed = tmp_path / "leave out.txt"
    listed.write_text("a/0.png\n")
    first = looked_at(root, monkeypatch, exclude=listed)[0]
    assert looked_at(root, monkeypatch, exclude=listed)[1] == 0
    listed.write_text("a/0.png\nb/3.png\n")
    assert len(looked_at(root, monkeypatch, exclude=listed)[0]) == len(first) - 1


def test_rows_of_a_table_are_remembered_by_its_time_and_the_folders_of_its_files(root, monkeypatch, tmp_path):
    table = tmp_path / "t.csv"
    files = [file.relative_to(root) for file in sorted(root.rglob("*.png"))]
    table.write_text("\n".join(["path,label", *(f"{file},{str(file)[0]}" for file in files)]))
    assert [looked_at(root, monkeypatch, table=table)[1] for _ in range(2)] == [30, 0]
    (root / "a" / "dee").joinpath(files[0].name).unlink(missing_ok=True)
    next((root / "a" / "dee").glob("*.png")).unlink()
    assert looked_at(root, monkeypatch, table=table)[1] > 0


def test_small_data_sets_are_always_looked_at_file_by_file(root, monkeypatch):
    monkeypatch.setattr(whole, "_BY_FOLDER", 30)
    assert [looked_at(root, monkeypatch)[1] for _ in range(2)] == [30, 30]
    assert [looked_at(root, monkeypatch, recheck="folders")[1] for _ in range(2)] == [30, 0]


def test_folders_that_changed_a_moment_ago_are_not_trusted(root, monkeypatch):
    monkeypatch.setattr(whole, "_SETTLED_NS", 10**12)
    assert [looked_at(root, monkeypatch)[1] for _ in range(2)] == [30, 30]


def test_a_damaged_cache_is_made_again(root, monkeypatch, cache):
    first = looked_at(root, monkeypatch)[0]
    (file,) = (cache / "manifests").iterdir()
    for damaged in (b"", b"ARROW1\0\0nothing", file.read_bytes().replace(b"a/0.png", b"a/9.png")):
        file.write_bytes(damaged)
        again, looked = looked_at(root, monkeypatch)
        assert looked == 30
        assert again.hash == first.hash
    monkeypatch.setenv("INSTAR_CACHE", "/proc/nowhere")
    assert looked_at(root, monkeypatch)[0].hash == first.hash
