"""Pack: every byte arrives, the same input gives the same files, and a kill leaves nothing half done in sight."""

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instar import pack, packed, prepare
from instar.cli import main
from instar.errors import DataError, RunError
from instar.experiment import Data
from instar.packed import Packed
from tests.fakes.images import folder_of_images
from tests.fakes.training import fingerprint, train

ROOT = Path(__file__).parent.parent
HOSTILE = 'it\'s "a" $(touch x) `b`\nc'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))


def packed_of(source: Path, target: Path, **options) -> Packed:
    return pack.pack(pack.found_at(source), target, pack.Options(**{"processes": 1} | options)).pack


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def png(seed: int, size: tuple[int, int] = (20, 30)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_the_next_shards_are_packed_while_one_is_hashed_and_synced(tmp_path, monkeypatch):
    everything, finish = threading.Event(), pack._finish

    def finish_last(*arguments):
        assert everything.wait(60)
        finish(*arguments)

    monkeypatch.setattr(pack, "_finish", finish_last)
    found = pack.found_at(folder_of_images(tmp_path / "images"))
    options = pack.Options(shard=30_000, processes=1)
    made = pack.pack(found, tmp_path / "p", options, progress=lambda done, of: done == of and everything.set()).pack
    assert len(made.about.shards) > 2 and pack.verify(made) == []


def test_a_shard_that_cannot_be_finished_ends_the_packing_and_leaves_no_index(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pack, "_finish", full)
    found = pack.found_at(folder_of_images(tmp_path / "images"))
    with pytest.raises(OSError, match="No space left"):
        pack.pack(found, tmp_path / "p", pack.Options(shard=70_000, processes=2))
    assert not (tmp_path / "p" / packed.INDEX).exists()


# --- what others read ----------------------------------------------------------------------------------------------


def test_tar_xf_gives_the_bytes_of_the_files(tmp_path):
    source = folder_of_images(tmp_path / HOSTILE)
    rows = packed_of(source, tmp_path / "packed", shard=70_000).index.to_pylist()
    (tmp_path / "out").mkdir()
    for shard in sorted((tmp_path / "packed").glob("*.tar")):
        subprocess.run(["tar", "xf", str(shard), "-C", str(tmp_path / "out")], check=True)
    assert len(rows) == 60 and len(list((tmp_path / "out").iterdir())) == 120
    for row in rows:
        assert (tmp_path / "out" / f"{row['key']}.png").read_bytes() == (source / row["source"]).read_bytes()
        assert (tmp_path / "out" / f"{row['key']}.cls").read_text() == row["label"][6]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files to be collected
def test_webdataset_reads_the_same_samples_with_their_classes(tmp_path):
    import webdataset

    source = folder_of_images(tmp_path / "images")
    rows = packed_of(source, tmp_path / "packed", shard=70_000).index.to_pylist()
    urls = [str(shard) for shard in sorted((tmp_path / "packed").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
    assert [sample["png"] for sample in samples] == [(source / row["source"]).read_bytes() for row in rows]
    assert [int(sample["cls"]) for sample in samples] == [number // 20 for number in range(60)]


# --- the same bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", packed.PAYLOADS)
def test_any_number_of_processes_and_any_source_gives_the_same_shards(tmp_path, payload):
    source = folder_of_images(tmp_path / "images", size=300 if payload.endswith("256") else 20)
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(source, "deep/er")
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(source.rglob("*.png"), reverse=True):
            archive.write(file, f"all/{file.relative_to(source)}")
    options = {"payload": payload, "shard": 1 << 24}
    packed_of(source, tmp_path / "one", **options)
    packed_of(source, tmp_path / "two", processes=3, **options)
    packed_of(tmp_path / "images.tar", tmp_path / "tar", **options)
    packed_of(tmp_path / "images.zip", tmp_path / "zip", processes=2, **options)
    shards = [
        {name: text for name, text in hashes(tmp_path / one).items() if name != "index.parquet"}
        for one in ("one", "two", "tar", "zip")
    ]
    assert shards[0] == shards[1] == shards[2] == shards[3]


def test_files_are_only_shards_and_an_index(tmp_path):
    source = folder_of_images(tmp_path / "images", each=40)
    made = packed_of(source, tmp_path / "packed", shard=70_000)
    names = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert names == ["index.parquet", *(shard.name for shard in made.about.shards)]
    assert all(shard.size <= 70_000 + 1024 for shard in made.about.shards)


def test_a_kill_at_any_moment_and_a_rerun_give_the_undisturbed_files(tmp_path):
    source = folder_of_images(tmp_path / "images", each=40, size=30)
    command = [sys.executable, "-m", "instar", "pack", str(source), "shard=100kB", "workers=2", "as=original"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}

    def go(target: str, fault: str = "") -> int:
        line = [*command, f"to={tmp_path / target}"]
        return subprocess.run(line, env={**environ, "INSTAR_FAULT": fault}, stdout=subprocess.DEVNULL).returncode

    assert go("whole") == 0
    for number, fault in enumerate(["pack.chunk:1:kill", "pack.shard:2:kill", "pack.index:1:kill"]):
        assert go(f"killed {number}", fault) == -9
        folder = tmp_path / f"killed {number}"
        seen = [path for path in folder.iterdir() if path.suffix == ".tar"]
        assert not (folder / "index.parquet").exists()
        for shard in seen:  # what can be seen is whole
            assert hashes(tmp_path / "whole")[shard.name] == hashes(folder)[shard.name]
        before = {shard: shard.stat().st_ino for shard in seen}
        assert go(f"killed {number}") == 0
        assert hashes(folder) == hashes(tmp_path / "whole")
        assert {shard: shard.stat().st_ino for shard in seen} == before  # finished shards were not made again


def test_packing_again_does_nothing_and_another_way_is_refused(tmp_path):
    source = folder_of_images(tmp_path / "images")
    packed_of(source, tmp_path / "packed")
    before = hashes(tmp_path / "packed")
    assert pack.pack(pack.found_at(source), tmp_path / "packed", pack.Options(processes=1)).already
    assert hashes(tmp_path / "packed") == before
    with pytest.raises(DataError, match="holds packed data made from something else, or in another way"):
        packed_of(source, tmp_path / "packed", payload="raw256")
    (source / "class 0's" / "0000.png").write_bytes(png(1))
    with pytest.raises(DataError, match="made from something else"):
        packed_of(source, tmp_path / "packed")


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    source = folder_of_images(tmp_path / "images")
    with pytest.raises(DataError, match="holds other files"):
        packed_of(source, source)
    packed_of(source, tmp_path / "packed")
    with pytest.raises(DataError, match="is packed already"):
        packed_of(tmp_path / "packed", tmp_path / "again")


def test_a_disk_that_is_full_is_an_error_and_no_file_is_seen(tmp_path, monkeypatch):
    from instar.engine.packing import pool

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pool, "_put", full)
    source = folder_of_images(tmp_path / "images")
    with pytest.raises(DataError, match="No space left on device"):
        packed_of(source, tmp_path / "packed", processes=2)
    assert list((tmp_path / "packed").iterdir()) == []


# --- what is stored ------------------------------------------------------------------------------------------------


def test_a_tar_is_indexed_in_place_and_nothing_is_copied(tmp_path):
    source = folder_of_images(tmp_path / "images")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(source, "images")
    made = packed_of(tmp_path / "images.tar", tmp_path / "packed", in_place=True)
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["index.parquet"]
    assert len(made) == 60
    for row, name in enumerate(made.index["source"].to_pylist()):
        assert made.checked(row) == (tmp_path / name).read_bytes()
    with pytest.raises(DataError, match="only an uncompressed tar can stay where it is"):
        packed_of(source, tmp_path / "other", in_place=True)


def test_deep_and_many_channelled_arrays_are_kept_exactly(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    bands = random.normal(size=(9, 11, 16)).astype(np.float32)
    np.save(tmp_path / "in" / "bands.npy", bands)
    grey = random.integers(0, 65536, (13, 17), np.uint16)
    Image.fromarray(grey).save(tmp_path / "in" / "deep.png")
    Image.fromarray(grey).save(tmp_path / "in" / "deep.tif")
    real = random.normal(size=(6, 5)).astype(np.float32)
    Image.fromarray(real).save(tmp_path / "in" / "real.tif")
    rgba = random.integers(0, 256, (4, 3, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "in" / "rgba.png")
    made = packed_of(tmp_path / "in", tmp_path / "packed", payload="array")
    kept = {name: made.array(row) for row, name in enumerate(made.index["source"].to_pylist())}
    wanted = {"bands.npy": bands, "deep.png": grey, "deep.tif": grey, "real.tif": real, "rgba.png": rgba}
    assert kept.keys() == wanted.keys()
    for name, array in wanted.items():
        assert kept[name].dtype == array.dtype
        np.testing.assert_array_equal(kept[name].reshape(array.shape), array)
    about = {
        row["source"]: (row["height"], row["width"], row["channels"], row["dtype"]) for row in made.index.to_pylist()
    }
    assert about["bands.npy"] == (9, 11, 16, "float32") and about["deep.png"] == (13, 17, 1, "uint16")
    with tarfile.open(tmp_path / "packed" / "shard-000000.tar") as shard:
        inside = np.load(io.BytesIO(shard.extractfile("000000000.npy").read()))
    np.testing.assert_array_equal(inside, bands)


def test_small_images_of_one_size_are_one_array_that_numpy_maps(tmp_path):
    source = folder_of_images(tmp_path / "images", size=12)
    made = packed_of(source, tmp_path / "packed", payload="array", processes=2)
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["images.npy", "index.parquet"]
    array = np.load(tmp_path / "packed" / "images.npy", mmap_mode="r")
    assert array.shape == (60, 12, 12, 3) and array.dtype == np.uint8
    for row, name in enumerate(made.index["source"].to_pylist()):
        np.testing.assert_array_equal(array[row], np.asarray(Image.open(source / name)))
        np.testing.assert_array_equal(made.array(row), array[row])


def test_small_images_of_several_sizes_become_shards(tmp_path):
    source = folder_of_images(tmp_path / "images", size=12)
    (source / "class 2's" / "0019.png").write_bytes(png(3, (12, 13)))
    made = packed_of(source, tmp_path / "packed", payload="array", processes=2)
    assert made.about.shards[0].name == "shard-000000.tar" and len(made) == 60
    assert made.array(59).shape == (12, 13, 3)


@pytest.mark.parametrize("payload", ["jpeg256", "raw256"])
def test_shrunk_images_have_a_short_side_of_256_and_look_alike(tmp_path, payload):
    rows, columns = np.mgrid[0:600, 0:800]
    shape = np.stack([rows * 0.4, columns * 0.3, (rows + columns) * 0.15], 2).astype(np.uint8)
    folder = tmp_path / "in" / "a"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(shape).save(folder / "turned.jpg", quality=95, exif=exif)
    Image.fromarray(shape[:100, :90]).save(folder / "small.png")
    made = packed_of(tmp_path / "in", tmp_path / "packed", payload=payload)
    sizes = {row["source"]: (row["width"], row["height"]) for row in made.index.to_pylist()}
    assert sizes == {"a/small.png": (90, 100), "a/turned.jpg": (256, 341)}  # smaller ones are not enlarged
    row = made.index["source"].to_pylist().index("a/turned.jpg")
    stored = made.array(row) if payload == "raw256" else np.asarray(Image.open(io.BytesIO(made.stored(row))))
    wanted = Image.fromarray(shape).transpose(Image.Transpose.ROTATE_270).resize((256, 341), Image.Resampling.BICUBIC)
    assert np.abs(stored.astype(int) - np.asarray(wanted)).mean() < 1.5


# --- bad input -----------------------------------------------------------------------------------------------------


def hostile_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:

        def add(name: str, data: bytes = b"", **settings: object) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in settings.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))

        add("a/good.png", png(1))
        add("../../out.png", png(2))
        add("/etc/absolute.png", png(3))
        add("a/link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("a/hard.png", type=tarfile.LNKTYPE, linkname="../../x")
        add("a/device.png", type=tarfile.CHRTYPE)
        add("a/good.png", png(4))
        add("a/broken.png", png(5)[:200])
        add("a/no\udcff utf8.png", png(6))
        add(f"b/{HOSTILE}.png", png(7))
        add("b/text.txt", b"hello")
        add("b/empty.png")


def test_hostile_members_of_a_tar_are_left_out_by_name(tmp_path):
    hostile_tar(tmp_path / "in.tar")
    made = packed_of(tmp_path / "in.tar", tmp_path / "deep" / "er" / "packed")
    assert made.index["source"].to_pylist() == ["a/good.png", f"b/{HOSTILE}.png"]
    assert made.stored(0) == png(1) and made.stored(1) == png(7)
    assert dict(made.about.skipped) == {
        "../../out.png": "its name leads out of the archive",
        "/etc/absolute.png": "an absolute name",
        "a/link.png": "a link or a device, and no file",
        "a/hard.png": "a link or a device, and no file",
        "a/device.png": "a link or a device, and no file",
        "a/good.png": "its name stands there twice; the first is used",
        "a/broken.png": "truncated: its end is missing",
        "a/no\\xff utf8.png": "its name is not UTF-8; rename it",
        "b/empty.png": "empty file, 0 bytes",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "in.tar"]  # nothing lies anywhere else


def test_hostile_members_of_a_zip_are_left_out_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/good.png", png(1))
        archive.writestr("../slip.png", png(2))
        archive.writestr("..\\slip.png", png(2))
        archive.writestr("C:/x.png", png(2))
        archive.writestr("a/bomb.png", b"\0" * (100 << 20))
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    made = packed_of(tmp_path / "in.zip", tmp_path / "packed")
    assert made.index["source"].to_pylist() == ["a/good.png"]
    reasons = dict(made.about.skipped)
    assert reasons.pop("a/bomb.png").startswith("a bomb: ")
    assert reasons == {
        "../slip.png": "its name leads out of the archive",
        "../slip.png" if os.sep == "\\" else "..\\slip.png": "its name leads out of the archive",
        "C:/x.png": "an absolute name",
        "a/link.png": "a link or a device, and no file",
    }


def test_an_archive_that_is_cut_off_gives_what_is_whole(tmp_path):
    source = folder_of_images(tmp_path / "images")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(source, "images")
    whole = (tmp_path / "images.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 + 700])
    made = packed_of(tmp_path / "cut.tar", tmp_path / "packed")
    assert 20 < len(made) < 35
    assert len(made.about.skipped) == 1
    assert "cut.tar is cut off, and what came behind is missing: the archive" in made.about.notes[0]


def test_what_was_left_out_when_it_was_packed_counts_against_how_many_may_be_bad(tmp_path):
    source = folder_of_images(tmp_path / "images")
    for number in range(6):
        (source / "class 0's" / f"bad {number}.png").write_bytes(b"")
    packed_of(source, tmp_path / "packed")
    for root in (source, tmp_path / "packed"):
        with pytest.raises(DataError, match="6 of 66 files cannot be used"):
            prepare.manifest(Data.model_validate({"root": root}), 0)


@pytest.mark.parametrize(("name", "content"), [("x.tar.gz", b"\x1f\x8b123"), ("x.tar", b"hello" * 300), ("x.tar", b"")])
def test_what_is_no_archive_is_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"no folder, no zip and no uncompressed tar|no image and no \.npy"):
        pack.found_at(tmp_path / name)


def test_files_that_vanish_or_change_while_they_are_packed_are_named(tmp_path):
    source = folder_of_images(tmp_path / "images")
    found = pack.found_at(source)
    (source / "class 0's" / "0003.png").unlink()
    (source / "class 1's" / "0004.png").write_bytes(png(1))
    made = pack.pack(found, tmp_path / "packed", pack.Options(processes=2)).pack
    assert len(made) == 58
    reasons = dict(made.about.skipped)
    assert reasons["class 0's/0003.png"] == "no such file"
    assert reasons["class 1's/0004.png"].startswith("it changed while it was packed: ")


# --- training ------------------------------------------------------------------------------------------------------


def manifest_of(root: Path, **settings) -> prepare.Manifest:
    return prepare.manifest(Data.model_validate({"root": root, **settings}), 3)


@pytest.mark.parametrize("payload", ["original", "array"])
def test_a_training_on_packed_images_is_the_training_on_the_files(tmp_path, payload):
    source = folder_of_images(tmp_path / "some 'images'", size=20)
    (source / "class 1's" / "broken.png").write_bytes(png(1)[:100])
    target = tmp_path / "packed"
    rows = manifest_of(source, min_per_class=5)
    pack.pack(pack.of_manifest(rows, divided=False), target, pack.Options(payload=payload, processes=1))
    files = train(tmp_path, run="files", root=source, train__epochs=2)
    packs = train(tmp_path, run="packs", root=target, train__epochs=2)
    assert fingerprint(files.run) == fingerprint(packs.run)
    assert list(manifest_of(source).ids) == list(manifest_of(target).ids)
    assert [one.file for one in manifest_of(target).skipped] == ["class 1's/broken.png"]
    same = manifest_of(source).hash == manifest_of(target).hash
    assert same == (payload == "original")


def test_workers_read_packed_images_as_the_training_itself_does(tmp_path):
    packed_of(folder_of_images(tmp_path / "images", size=20), tmp_path / "packed", shard=70_000)
    alone = train(tmp_path, run="alone", root=tmp_path / "packed", train__epochs=1)
    workers = train(tmp_path, run="workers", root=tmp_path / "packed", train__epochs=1, machine={"workers": 2})
    assert fingerprint(alone.run) == fingerprint(workers.run)


def test_workers_shrink_images_to_the_same_pixels_as_the_training_itself(tmp_path):
    from instar import plugins
    from instar.augment import Augment
    from instar.engine.loading.loaders import train_stream
    from instar.engine.loading.order import Order

    packed_of(folder_of_images(tmp_path / "images", size=200, each=6), tmp_path / "packed", payload="raw256")
    data = Data.model_validate({"root": tmp_path / "packed"})
    rows = prepare.manifest(data, 0)
    reader = plugins.load("readers", "image_label").open(data.reader, rows, Augment(kind="imagenet", size=96))
    order = Order([np.arange(len(rows))], [len(rows)], seed=0)

    def content(workers: int) -> list[bytes]:
        stream = train_stream(reader, order, start=0, total=18, batch=6, seed=0, workers=workers)
        return [batch["image"].numpy().tobytes() for batch in stream]

    assert content(0) == content(2)


def test_a_table_with_groups_and_given_splits_are_packed_with_the_rows(tmp_path):
    source = folder_of_images(tmp_path / "images")
    lines = ["path,label,group,split"]
    for number, file in enumerate(sorted(source.rglob("*.png"))):
        split = ("train", "train", "val", "test")[number % 4]
        lines.append(f"{file.relative_to(source)},kind {number % 2},{number // 8},{split}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    rows = manifest_of(source, table=tmp_path / "t.csv")
    pack.pack(pack.of_manifest(rows, divided=True), tmp_path / "packed", pack.Options(processes=1))
    again = manifest_of(tmp_path / "packed", table=tmp_path / "t.csv")
    assert again.table.equals(rows.table) and again.classes == rows.classes and again.hash == rows.hash
    assert "labels and splits are those that were packed" in " ".join(again.statistics["notes"])


def test_a_list_of_what_to_leave_out_holds_for_packed_data_too(tmp_path):
    source = folder_of_images(tmp_path / "images")
    packed_of(source, tmp_path / "packed")
    (tmp_path / "out.txt").write_text("class 0's/0003.png\nclass 2's/0004.png\n")
    files = manifest_of(source, exclude=tmp_path / "out.txt")
    packs = manifest_of(tmp_path / "packed", exclude=tmp_path / "out.txt")
    assert len(packs) == 58 and packs.hash == files.hash and packs.table.equals(files.table)


def test_packed_data_that_change_under_a_run_are_refused(tmp_path):
    source, target = folder_of_images(tmp_path / "images", size=20), tmp_path / "packed"
    packed_of(source, target, payload="jpeg256")
    train(tmp_path, root=target, train__epochs=1)
    for path in target.iterdir():
        path.unlink()
    packed_of(source, target, payload="raw256")
    with pytest.raises(RunError, match="changed under"):
        train(tmp_path, root=target, train__epochs=1)


def test_a_changed_byte_is_a_bad_sample_and_not_another_image(tmp_path):
    target = tmp_path / "packed"
    made = packed_of(folder_of_images(tmp_path / "images", size=20), target)
    with open(target / "shard-000000.tar", "r+b") as file:
        for row in range(5):  # some of them are trained on
            file.seek(made.index["offset"][row].as_py() + 60)
            file.write(b"xx")
    outcome = train(tmp_path, root=target, train__epochs=1, train__max_bad=0.5)
    bad = [event for event in outcome.run.events() if event["event"] == "bad_sample"]
    assert bad and all("are not those that were packed" in event["reason"] for event in bad)


def test_packed_samples_without_labels_cannot_be_classified(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(number))
    packed_of(tmp_path / "in", tmp_path / "packed")
    with pytest.raises(DataError, match="3 of 3 packed samples have no label"):
        manifest_of(tmp_path / "packed")


def test_a_run_page_shows_pictures_of_packed_data(tmp_path):
    from instar.report import thumbnails

    source = folder_of_images(tmp_path / "images", size=20)
    plain = thumbnails.of(source / "class 0's" / "0001.png")
    for payload in packed.PAYLOADS:
        packed_of(source, tmp_path / payload, payload=payload)
        shown = thumbnails.of(tmp_path / payload / "class 0's" / "0001.png")
        assert shown.source == plain.source or payload == "jpeg256"
        assert shown.source


# --- the command line ----------------------------------------------------------------------------------------------


def test_the_verb_packs_a_recipe_tells_what_and_verifies(tmp_path, capsys):
    source = folder_of_images(tmp_path / "images")
    (source / "class 1's" / "bro\nken.png").write_bytes(b"no image")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{root: {json.dumps(str(source))}, split: {{test: 0.2}}}}\n")
    target = tmp_path / "packed"
    assert main(["pack", str(recipe), f"to={target}", "data.max_bad=0.2", "--verify"]) == 0
    told = capsys.readouterr().out
    assert "pack     60 samples as original, 1 file of" in told
    assert "note     skipped class 1's/bro\\nken.png: not an image that is read here" in told
    assert f"next     instar train {recipe} data.root={target}" in told
    assert packed.read(target).index["split"].null_count == 60  # drawn by a seed, so not part of the data
    assert main(["pack", str(target), "--verify"]) == 0
    assert "verify   60 samples are what was packed" in capsys.readouterr().out
    with open(target / "shard-000000.tar", "r+b") as file:
        file.seek(700)
        file.write(b"??")
    assert main(["pack", str(target), "--verify"]) == 65
    assert "wrong    class 0's/0000.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pack", "SOURCE"], "where to? Name a new folder: to=FOLDER"),
        (["pack", "SOURCE", "to=x", "as=jpg256"], "as"),
        (["pack", "SOURCE", "to=x", "shard=many"], "must be a number and one of kB, MB, GB"),
        (["pack", "SOURCE", "to=x", "shrad=1GB"], "did you mean 'shard'?"),
        (["pack", "nowhere", "to=x"], "there is no such folder or archive"),
        (["pack", "EMPTY", "to=x"], "not one image or .npy array"),
    ],
)
def test_mistakes_are_told(tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "SOURCE", each=2)
    (tmp_path / "EMPTY").mkdir()
    assert main(words) == 65
    assert told in capsys.readouterr().err
