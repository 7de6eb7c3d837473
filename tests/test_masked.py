"""Images with masks, found by folder, pattern and table; codes of all kinds; and everything that can be wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from instar import experiment as experiments
from instar import manifest as manifests
from instar import plugins, prepare
from instar.augment import Augment
from instar.engine.loading import loaders
from instar.engine.loading.loaders import keyed
from instar.errors import ConfigError, DataError
from instar.experiment import Data
from instar.masks import IGNORE
from instar.readers import _masks, _views
from instar.readers._images import BadImage
from instar.readers._views import Frame, View
from tests.fakes.masks import folder_of_masks, scene


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))


def data_of(root, **given):
    more = {name: given.pop(name) for name in ("table", "max_bad") if name in given}
    return Data.model_validate({"root": root, "reader": {"kind": "image_mask", **given}, **more})


def rows_of(root, **given):
    return prepare.manifest(data_of(root, **given), 0)


def opened(root, augment=None, **given):
    rows = rows_of(root, **given)
    view = augment or Augment(crop="window", size=16)
    return plugins.load("readers", "image_mask").open(data_of(root, **given).reader, rows, view), rows


def save(file, array, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(file, **options)
    return file


# --- which mask belongs to which image ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "mask", "given"),
    [
        ("images/a b/{}.jpg", "masks/a b/{}.png", {}),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", {}),
        ("Images/{}.png", "segmentations/{}_seg0.png", {}),
        ("img/{}.png", "labels/{}_mask.png", {}),
        ("x $(y)/{}.png", "y/m-{}-end.png", {"images": "x $(y)", "masks": "y", "pattern": "m-{stem}-end"}),
    ],
)
def test_pairs_are_found_by_folder_and_name(image, mask, given, tmp_path):
    for number in range(10):
        picture, classes = scene(number)
        save(tmp_path / image.format(number), picture)
        save(tmp_path / mask.format(number), classes)
    rows = rows_of(tmp_path, **given)
    assert len(rows) == 10 and rows.classes == ("0", "1", "2")
    for row, file in enumerate(rows.table["file"].to_pylist()):
        number = file.rpartition("/")[2].partition(".")[0]
        assert rows.table["other"][row].as_py() == mask.format(number)


@pytest.mark.parametrize("places", [("{split}/images", "{split}/masks"), ("images/{split}", "masks/{split}")])
def test_a_division_that_is_there_is_kept(places, tmp_path):
    for number in range(12):
        split = ("train", "train", "val", "test")[number % 4]
        for place, array in zip(places, scene(number), strict=True):
            save(tmp_path / place.format(split=split) / f"{number}.png", array)
    rows = rows_of(tmp_path)
    assert [len(rows.rows(split)) for split in ("train", "val", "test")] == [6, 3, 3]


def test_a_table_names_masks_groups_and_splits(tmp_path):
    lines = ["path,mask,group"]
    for number in range(12):
        picture, classes = scene(number)
        save(tmp_path / "all" / f"{number} x.png", picture)
        save(tmp_path / "all" / f"{number} y.png", classes)
        lines.append(f"{number} x.png,{number} y.png,g{number // 3}")
    table = tmp_path / "all" / "rows.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    rows = rows_of(tmp_path / "all", table=table)
    assert rows.table["other"].to_pylist()[3] == "3 y.png"
    groups, splits = rows.table["group"].to_pylist(), rows.table["split"].to_pylist()
    assert all(len({split for g, split in zip(groups, splits, strict=True) if g == group}) == 1 for group in groups)


def test_a_manifest_with_masks_reads_back_and_notices_a_changed_mask(tmp_path):
    root = folder_of_masks(tmp_path / "m")
    rows = rows_of(root)
    manifests.write(rows, tmp_path / "manifest.parquet")
    again = manifests.read(tmp_path / "manifest.parquet")
    assert again.hash == rows.hash and again.table["other"].to_pylist() == rows.table["other"].to_pylist()
    save(root / rows.table["other"][0].as_py(), np.ones((24, 32), np.uint8))
    assert rows_of(root).hash != rows.hash


def test_a_folder_of_images_and_masks_is_recognised_by_its_name_alone(tmp_path):
    from instar.cli import train
    from instar.cli.words import parse

    root = folder_of_masks(tmp_path / "some $(masks)")
    experiment, _, _ = train.settings(parse("train", [str(root), "epochs=2"], flags=("dry",), things=(0, 1)))
    assert (experiment.data.reader.kind, experiment.task.kind, experiment.model.kind) == (
        "image_mask",
        "segmentation",
        "smp",
    )
    classes = tmp_path / "classes"
    save(classes / "images" / "1.png", scene(1)[0])
    save(classes / "others" / "1.png", scene(2)[0])
    assert (
        train.settings(parse("train", [str(classes)], flags=("dry",), things=(0, 1)))[0].task.kind == "classification"
    )


def test_what_says_pixels_in_one_place_says_it_in_all(tmp_path):
    for said in ({"data": {"root": "x", "reader": "image_mask"}}, {"data": {"root": "x"}, "task": "segmentation"},
                 {"data": {"root": "x"}, "model": "deeplab_xception"}):  # fmt: skip
        found = experiments.load(said)
        assert (found.data.reader.kind, found.task.kind) == ("image_mask", "segmentation")
        assert found.model.kind == said.get("model", "smp")
    fields = experiments.load({"data": {"root": "x", "reader": "field"}, "task": {"loss": "dice"}})
    assert (fields.augment.kind, fields.augment.crop, fields.task.loss) == ("field", "whole", "dice")
    with pytest.raises(ConfigError, match="timm resnet18 answers for each image, and segmentation needs"):
        experiments.load({"data": {"root": "x"}, "task": "segmentation", "model": "resnet18"})
    with pytest.raises(ConfigError, match="image_label does not give mask, which segmentation needs"):
        experiments.load({"data": {"root": "x", "reader": "image_label"}, "task": "segmentation"})


# --- what stands in a mask ------------------------------------------------------------------------------------------


def palette(class_HW):
    image = Image.fromarray(class_HW)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [224, 224, 192] * 253)
    return image


@pytest.mark.parametrize(
    ("written", "given", "expected"),
    [
        (lambda c: c, {"classes": ["a", "b", "c"]}, lambda c: c),
        (palette, {"classes": ["a", "b", "c"]}, lambda c: c),
        (
            lambda c: np.where(c == 2, 255, c).astype(np.uint8),
            {"classes": ["a", "b"]},
            lambda c: np.where(c == 2, IGNORE, c),
        ),
        (lambda c: np.where(c == 2, 255, c).astype(np.uint8), {}, lambda c: np.where(c == 2, IGNORE, c)),
        (lambda c: (c > 0).astype(np.uint8) * 255, {}, lambda c: c > 0),
        (lambda c: Image.fromarray((c > 0).astype(np.uint8) * 255).convert("1"), {}, lambda c: c > 0),
        (lambda c: c * 100, {"classes": {"a": 0, "b": 100, "c": 200}}, lambda c: c),
        (
            lambda c: c.astype(np.uint16) * 1000,
            {"classes": {"a": 0, "b": 1000}, "ignore": 2000},
            lambda c: np.where(c == 2, IGNORE, c),
        ),
        (lambda c: c * 60 + 20, {"threshold": 128, "classes": ["no", "yes"]}, lambda c: c == 2),
        (
            lambda c: np.array([[255, 0, 0], [0, 128, 64], [1, 2, 3]], np.uint8)[c],
            {"classes": {"a": "#ff0000", "b": "#008040", "c": "#010203"}},
            lambda c: c,
        ),
        (
            lambda c: np.array([[255, 0, 0], [0, 128, 64], [1, 2, 3]], np.uint8)[c],
            {"classes": {"a": "#ff0000", "b": "#008040"}, "ignore": "#010203"},
            lambda c: np.where(c == 2, IGNORE, c),
        ),
    ],
)
def test_every_way_to_write_classes_is_read_as_it_is_meant(written, given, expected, tmp_path):
    for number in range(10):
        picture, classes = scene(number)
        save(tmp_path / "images" / f"{number}.png", picture)
        save(tmp_path / "masks" / f"{number}.png", written(classes))
    reader, rows = opened(tmp_path, **given)
    for row in range(10):
        number = int(rows.ids[row].rpartition("/")[2].partition(".")[0])
        np.testing.assert_array_equal(reader.read(row, None)["mask"], expected(scene(number)[1]).astype(np.uint8))
    counted = sum(rows.statistics["pixels"])
    assert 0 < counted <= 8 * 24 * 32


def test_values_that_are_no_classes_are_named_with_what_to_write(tmp_path):
    codes = _masks.Codes((0, 1), (255,))
    file = save(tmp_path / "m.png", np.array([[0, 1, 7, 7], [255, 9, 0, 0]], np.uint8))
    with pytest.raises(
        BadImage, match=r"holds 7 \(2 pixels\), 9 \(1 pixels\), but the classes are 0, 1.*data\.reader\.ignore"
    ):
        _masks.read(_masks.values(file, colours=codes.colours), codes)
    with pytest.raises(BadImage, match="a mask in colours"):
        _masks.values(save(tmp_path / "c.png", np.array([[[1, 2, 3]]], np.uint8)), colours=False)


def test_masks_that_look_like_pictures_are_refused_with_what_to_write(tmp_path):
    for number in range(10):
        save(tmp_path / "images" / f"{number}.png", scene(number)[0])
        save(tmp_path / "masks" / f"{number}.png", scene(number)[0][..., 0])
    with pytest.raises(DataError, match=r"different values, which looks like pictures.*threshold=128"):
        rows_of(tmp_path)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"classes": ["only one"]}, "2 to 254"),
        ({"classes": {"a": 0, "b": "#000001"}}, "write all of them alike"),
        ({"classes": {"a": 3, "b": 3}}, "same value"),
        ({"threshold": 3, "classes": ["a", "b", "c"]}, "threshold makes two classes"),
        ({"pattern": "{name}_mask"}, "pattern"),
        ({"classes": {"a": "red", "b": "blue"}}, "classes"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given, text, tmp_path):
    with pytest.raises(ConfigError, match=text):
        experiments.load({"data": {"root": str(tmp_path), "reader": {"kind": "image_mask", **given}}})


# --- what is wrong with files ---------------------------------------------------------------------------------------


def test_broken_missing_and_unequal_pairs_are_named_counted_and_left_out(tmp_path):
    root = folder_of_masks(tmp_path / "m", num=20)
    place = "it's $(a) place"
    (root / "masks" / place / "000.png").unlink()
    (root / "masks" / place / "001.png").write_bytes(b"")
    (root / "images" / place / "002.png").write_bytes(b"not an image")
    save(root / "masks" / place / "003.png", np.zeros((10, 32), np.uint8))
    save(root / "masks" / place / "left over.png", np.zeros((10, 32), np.uint8))
    rows = rows_of(root, max_bad=0.5)
    assert len(rows) == 16
    reasons = {file.rpartition("/")[2]: reason for file, reason in rows.skipped}
    assert reasons["000.png"].startswith("it has no mask called masks/it's $(a) place/000")
    assert reasons["001.png"] == f"mask masks/{place}/001.png: empty file, 0 bytes"
    assert "not an image" in reasons["002.png"]
    assert reasons["003.png"] == f"mask masks/{place}/003.png is 32x10, the image 32x24 (upright)"
    assert rows.statistics["broken"] == 4
    assert any("1 masks in masks/ have no image" in note for note in rows.statistics["notes"])
    with pytest.raises(DataError, match=r"4 of 20 files cannot be used"):
        rows_of(root, max_bad=0.01)


def test_folders_that_cannot_be_told_are_asked_for(tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(DataError, match=r"which folder holds the images and which the masks\? It has one"):
        rows_of(tmp_path)
    with pytest.raises(DataError, match="there is no folder 'two' in it"):
        rows_of(tmp_path, images="one", masks="two")
    save(tmp_path / "one" / "a.png", scene(0)[0])
    save(tmp_path / "two" / "b.png", scene(0)[1])
    with pytest.raises(DataError, match=r"not one image has a mask.*data\.reader\.pattern"):
        rows_of(tmp_path, images="one", masks="two")


def test_a_mask_that_changes_its_classes_or_size_later_is_bad_and_replaced(tmp_path):
    root = folder_of_masks(tmp_path / "m", num=12)
    reader, rows = opened(root, classes=["a", "b", "c"])
    first, second = (root / rows.table["other"][row].as_py() for row in (0, 1))
    save(first, np.full((24, 32), 9, np.uint8))
    save(second, np.zeros((24, 30), np.uint8))
    for row, text in ((0, "holds 9"), (1, "is 30x24, the image 32x24")):
        with pytest.raises(BadImage, match=text):
            reader.read(row, None)
    batches = list(loaders.eval_stream(reader, np.arange(4), batch=4))
    assert batches[0]["label"].tolist() == [-1, -1, 0, 0]
    assert batches[0]["height"].tolist() == [0, 0, 24, 24]
    assert [row for row, _ in batches[0]["bad"]] == [0, 1]


def test_an_image_turned_by_exif_goes_with_a_mask_of_its_upright_pixels(tmp_path):
    for number in range(10):
        picture, classes = scene(number)
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90)  # stored so; shown upright again
        save(tmp_path / "images" / f"{number}.jpg", turned, quality=95, subsampling=0, exif=exif)
        save(tmp_path / "masks" / f"{number}.png", classes)
    reader, _ = opened(tmp_path, augment=Augment(crop="window", size=16, hflip=0.5))
    for row in range(10):
        sample = reader.read(row, keyed(0, 0, row))
        red = sample["image"][..., 0].astype(int) - sample["image"][..., 2]
        if (sample["mask"] == 1).sum() > 8 and (sample["mask"] == 2).sum() > 8:
            assert red[sample["mask"] == 1].mean() > 60 and red[sample["mask"] == 2].mean() < -60


# --- image and mask are varied alike --------------------------------------------------------------------------------

MOVES = {
    "area": {"crop": "area", "resize": 16, "scale": (0.3, 1.0), "hflip": 0.5, "vflip": 0.5, "rotation": 40.0},
    "pad": {"crop": "pad", "resize": 16, "pad": 5, "shift": 0.2, "perspective": 0.4},
    "window": {"crop": "window", "zoom": (0.5, 2.0), "hflip": 0.5, "vflip": 0.5, "rotation": 30.0, "roll": True},
    "whole": {"crop": "whole", "roll": True, "hflip": 0.5, "vflip": 0.5, "shift": 0.3},
}


@pytest.mark.parametrize("crop", list(MOVES))
def test_what_moves_the_image_moves_the_mask(crop, tmp_path):
    """An image whose colours are its classes must still agree with its mask, but for the seams."""
    for number in range(8):
        _, classes = scene(number, height=48, width=64)
        save(
            tmp_path / "images" / f"{number}.png",
            np.array([[40, 40, 40], [240, 40, 40], [40, 40, 240]], np.uint8)[classes],
        )
        save(tmp_path / "masks" / f"{number}.png", classes)
    reader, _ = opened(tmp_path, augment=Augment(size=16, fill=128, **MOVES[crop]))
    right = known = 0
    shown = set()
    for row in range(8):
        for epoch in range(6):
            sample = reader.read(row, keyed(0, epoch, row))
            image, mask = sample["image"].astype(int), sample["mask"]
            seen = np.where(image[..., 0] > 150, 1, np.where(image[..., 2] > 150, 2, 0))
            sure = mask != IGNORE
            right += (seen == mask)[sure].sum()
            known += sure.sum()
            shown.add(mask.tobytes())
    assert right / known > 0.93 and len(shown) > 20
    assert known > 0.4 * 48 * (16 * 16 if crop != "whole" else 48 * 64)


def test_a_roll_goes_around_and_a_small_image_lies_somewhere_in_its_window():
    class_HW = np.arange(12, dtype=np.uint8).reshape(2, 6)
    rolled = _masks.seen(class_HW, View((0, 0, 6, 2), frame=Frame((2, 6), (6, 2), roll=2)), 0)
    np.testing.assert_array_equal(rolled, np.roll(class_HW, 2, axis=1))
    window = _masks.seen(class_HW, View((0, 0, 6, 2), frame=Frame((8, 8), (6, 2), place=(1, 5))), 0)
    np.testing.assert_array_equal(window[5:7, 1:7], class_HW)
    assert (window == IGNORE).sum() == 64 - 12


@pytest.mark.parametrize(("width", "height"), [(100, 60), (10, 200), (8, 8)])
def test_windows_of_any_image_are_inside_it_and_come_from_everywhere(width, height):
    settings, lefts = Augment(crop="window", size=32, zoom=(0.5, 2.0)), set()
    for number in range(200):
        view = _views.training(settings, width, height, keyed(0, 0, number))
        left, top, right, bottom = view.box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert view.frame.shape == (32, 32)
        assert all(at >= 0 and at + long <= 32 for at, long in zip(view.frame.place, view.frame.lands, strict=True))
        lefts.add(round(left))
    assert width < 60 or len(lefts) > 30


def test_evaluation_sees_all_of_each_image_at_its_own_size(tmp_path):
    for number in range(10):
        picture, classes = scene(number, height=20 + number, width=40 - number)
        save(tmp_path / "images" / f"{number}.png", picture)
        save(tmp_path / "masks" / f"{number}.png", classes)
    reader, rows = opened(tmp_path)
    seen = []
    for batch in loaders.eval_stream(reader, np.arange(10), batch=4, workers=2):
        for at, row in enumerate(batch["row"].tolist()):
            height, width = int(batch["height"][at]), int(batch["width"][at])
            assert [width, height] == rows.sizes[row].tolist()
            number = int(rows.ids[row].rpartition("/")[2].partition(".")[0])
            picture, classes = scene(number, height=height, width=width)
            np.testing.assert_array_equal(batch["mask"][at, :height, :width].numpy(), classes)
            np.testing.assert_array_equal(batch["image"][at, :height, :width].numpy(), picture)
            seen.append(row)
    assert seen == list(range(10))


def test_whole_images_of_several_sizes_cannot_be_trained_on_whole(tmp_path):
    for number in range(10):
        picture, classes = scene(number, height=20 + number)
        save(tmp_path / "images" / f"{number}.png", picture)
        save(tmp_path / "masks" / f"{number}.png", classes)
    with pytest.raises(DataError, match=r"crop=whole needs images of one size.*augment\.crop=window"):
        opened(tmp_path, augment=Augment(crop="whole"))


def test_the_experiment_with_masks_survives_saving(tmp_path):
    from instar.settings import dump

    given = {"kind": "image_mask", "classes": {"a": "#ff0000", "b": "#00ff00"}, "ignore": "#000000"}
    found = experiments.load({"data": {"root": str(tmp_path), "reader": given}})
    (tmp_path / "experiment.yaml").write_text(dump(found), encoding="utf-8")
    assert experiments.load(tmp_path / "experiment.yaml") == found
    assert json.loads(json.dumps(found.model_dump(mode="json")))["data"]["reader"]["classes"] == given["classes"]
