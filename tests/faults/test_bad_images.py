"""Faults 16, 17, 24 and 25: whatever lies in a folder of images, training goes on with the rest and names it."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instar import plugins, prepare
from instar.augment import Augment
from instar.engine.loading.loaders import eval_stream, train_stream
from instar.engine.loading.order import Order
from instar.errors import DataError
from instar.experiment import Data
from instar.manifest import Manifest
from instar.readers import _patience


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8))


def bomb() -> bytes:
    """A PNG of a hundred bytes whose header says 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def saved(image: Image.Image, path: Path, **options) -> bytes:
    image.save(path, **options)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of fifty good images."""
    for number in range(100):
        path = tmp_path / "it's data" / f'class "{number % 2}"' / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path, quality=90)
    return tmp_path / "it's data"


def spoil(folder: Path) -> dict[str, str]:
    """Put one file of every kind that is no image into the folder; what should be said of each."""
    bad = folder / 'class "0"'
    whole = {
        kind: saved(picture(7), folder / f"whole.{kind}") for kind in ("jpg", "png", "tif", "gif", "bmp", "webp", "ppm")
    }
    for kind in whole:
        (folder / f"whole.{kind}").unlink()
    says = {}

    def put(name: str, content: bytes, reason: str) -> None:
        (bad / name).write_bytes(content)
        says[f'class "0"/{name}'] = reason

    for kind, content in whole.items():
        put(f"cut.{kind}", content[: len(content) * 2 // 3], "")
        put(f"begun.{kind}", content[:40], "")
    put("padded.jpg", whole["jpg"][: len(whole["jpg"]) // 2] + b"\0" * 10, "truncated")
    put("empty.png", b"", "empty file, 0 bytes")
    put("page.jpg", b"<html>404</html>", "not an image")
    put("program.png", b"%!PS-Adobe-3.0 EPSF-3.0\n(rm -rf /) run\n", "not an image")
    put("bomb.png", bomb(), "more pixels than may be decoded")
    (bad / "gone.jpg").symlink_to("nowhere")
    says['class "0"/gone.jpg'] = "no such file"
    os.mkfifo(bad / "fifo.jpg")
    says['class "0"/fifo.jpg'] = "not a regular file"
    return says


def prepared(folder: Path, **settings) -> Manifest:
    return prepare.manifest(Data.model_validate({"root": folder, **settings}), 0)


def streams(rows: Manifest, *, workers: int):
    settings = Data(root=rows.root).reader
    reader = plugins.load("readers", "image_label").open(settings, rows, Augment(size=16))
    train = rows.rows("train")
    of_class = [train[rows.targets[train] == number] for number in (0, 1)]
    order = Order(of_class, [len(one) for one in of_class], seed=0)
    total = len(train) // 8 * 8
    return (
        train_stream(reader, order, start=0, total=total, batch=8, seed=0, workers=workers, timeout=5),
        eval_stream(reader, train, batch=8, workers=workers, timeout=5),
    )


def test_every_kind_of_bad_file_is_named_with_its_reason_and_left_out(folder):
    says = spoil(folder)
    rows = prepared(folder, max_bad=0.5)
    assert len(rows) == 100
    assert {one.file for one in rows.skipped} == set(says)
    assert rows.statistics["broken"] == len(says)
    for one in rows.skipped:
        assert one.reason
        assert says[one.file] in one.reason


def test_more_bad_files_than_allowed_are_one_error_that_names_the_first(folder):
    spoil(folder)
    with pytest.raises(
        DataError, match=r"21 of 121 files cannot be used, more than data\.max_bad = 5\.0%:\n  'class"
    ) as error:
        prepared(folder)
    assert len(str(error.value).splitlines()) == 8


def test_one_bad_file_in_a_small_folder_is_no_error_unless_none_is_allowed(tmp_path):
    for number in range(6):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture(number).save(path)
    (tmp_path / "a" / "torn.png").write_bytes(b"")
    assert prepared(tmp_path).statistics["broken"] == 1
    with pytest.raises(DataError, match="1 of 7 files cannot be used"):
        prepared(tmp_path, max_bad=0.0)


def test_files_that_only_look_odd_are_images(folder):
    good = folder / 'class "1"'
    jpeg = saved(picture(1), folder / "x.jpg")
    (good / "wrong ending.png").write_bytes(jpeg)
    (good / "more behind its end.jpg").write_bytes(jpeg + b"SEFT" * 20)
    (good / "CAPITAL.JPG").write_bytes(jpeg)
    picture(2).convert("CMYK").save(good / "cmyk.jpg")
    Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50)).save(good / "sixteen bits.png")
    picture(3).save(good / "animated.gif", save_all=True, append_images=[picture(4)])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(5).save(good / "turned.jpg", exif=exif)
    (folder / "x.jpg").unlink()
    rows = prepared(folder)
    assert (len(rows), rows.skipped) == (107, ())
    turned = list(rows.ids).index('class "1"/turned.jpg')
    assert (rows.table["width"][turned].as_py(), rows.table["height"][turned].as_py()) == (40, 50)


def test_float_images_need_to_be_told_what_is_black_and_white(tmp_path):
    for number in range(20):
        path = tmp_path / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).random((9, 9)).astype(np.float32)).save(path)
    with pytest.raises(DataError, match=r"20 of 20 files .*\n.*32-bit float: which values are black and white"):
        prepared(tmp_path)
    assert len(prepared(tmp_path, reader={"kind": "image_label", "span": [0, 1]})) == 20


@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_go_bad_after_listing_are_replaced_in_training_and_unknown_in_evaluation(folder, workers):
    rows = prepared(folder)
    torn, gone, fifo = (rows.path(row) for row in rows.rows("train")[[0, 40, 41]])
    torn.write_bytes(torn.read_bytes()[:500])
    gone.unlink()
    fifo.unlink()
    os.mkfifo(fifo)
    train, evaluate = streams(rows, workers=workers)
    bad, shown = {}, []
    for batch in train:
        bad |= dict(batch["bad"])
        shown += batch["row"].tolist()
        assert np.array_equal(batch["label"], rows.targets[batch["row"]])
        assert batch["image"].shape[1:] == (16, 16, 3)
    reasons = {Path(rows.path(row)): reason for row, reason in bad.items()}
    assert set(reasons) <= {torn, gone, fifo}
    assert len(reasons) >= 2
    assert not set(bad) & set(shown)
    labels = {}
    for batch in evaluate:
        labels |= dict(zip(batch["row"].tolist(), batch["label"].tolist(), strict=True))
        reasons |= {Path(rows.path(row)): reason for row, reason in batch["bad"]}
    assert sorted(labels) == rows.rows("train").tolist()
    assert {rows.path(row) for row, label in labels.items() if label == -1} == {torn, gone, fifo}
    assert "truncated" in reasons[torn]
    assert (reasons[gone], reasons[fifo]) == ("no such file", "not a regular file")


def test_a_folder_that_is_gone_says_so(folder):
    rows = prepared(folder)
    train, _ = streams(rows, workers=1)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(DataError, match=r"cannot be read \(.*it's data.*: no such file; .*Is their folder still there"):
        next(train)


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    real = os.open

    def refuse(path, *rest):
        if str(path).endswith("004.jpg"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest)

    monkeypatch.setattr(os, "open", refuse)  # root may read everything, so it is acted
    rows = prepared(folder)
    assert [(one.file, one.reason) for one in rows.skipped] == [('class "0"/004.jpg', "no permission to read it")]


def test_a_file_system_in_trouble_is_asked_again_and_the_view_stays_the_same(folder, monkeypatch):
    rows = prepared(folder)
    reader_module = plugins.load("readers", "image_label")
    monkeypatch.setattr(_patience, "_PAUSES", (0.0, 0.0))
    reader = reader_module.open(Data(root=folder).reader, rows, Augment(size=16))
    before = reader.read(3, np.random.Generator(np.random.Philox(key=1)))["image"]
    real, failures = os.open, [OSError(5, "Input/output error")]

    def fail_once(path, *arguments):
        if failures and str(path).startswith(str(folder)):
            raise failures.pop()
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", fail_once)
    after = reader.read(3, np.random.Generator(np.random.Philox(key=1)))["image"]
    assert failures == []
    assert torch.equal(torch.from_numpy(before.copy()), torch.from_numpy(after.copy()))
