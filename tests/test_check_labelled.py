"""Images and fields whose pixels have labels are checked to the last one; mirrored and turned copies are found."""

import json
import os
import shlex
import shutil

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image, ImageOps

from instar import cli, packed, plugins, prepare
from instar.engine.scan import labelled, likeness, shown
from instar.experiment import Data
from instar.report import overlays
from tests.fakes.images import folder_of_images
from tests.fakes.masks import folder_of_fields, folder_of_masks, scene
from tests.fakes.sky import folder_of_pairs

h5py = pytest.importorskip("h5py")
TURNS = [None, *Image.Transpose]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def checked(capsys, *words):
    assert cli.main(["check", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def reasons(facts):
    return {one["file"]: one["reason"] for one in facts["broken"]}


def picture(number, size=(90, 64)):
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def test_pixels_of_masks_are_counted_and_what_is_wrong_with_them_is_named(tmp_path, capsys):
    root = folder_of_masks(tmp_path / "m")
    masks = sorted((root / "masks").rglob("*.png"))
    Image.fromarray(np.zeros((24, 30), np.uint8)).save(masks[0])
    strange = np.asarray(Image.open(masks[1])).copy()
    strange[:2, :2] = 9
    Image.fromarray(strange).save(masks[1])
    masks[2].write_bytes(masks[2].read_bytes()[:60])
    facts = checked(capsys, root, "data.reader.classes=[sky, house, tree]")
    found = {name.rpartition("/")[2]: reason for name, reason in reasons(facts).items()}
    assert "is 30x24, the image 32x24 (upright)" in found["000.png"]
    assert found["001.png"] == "its mask holds 9 (4 pixels), which is no class"
    assert found["002.png"].startswith("mask masks/")
    whole = np.stack([scene(number)[1] for number in range(3, 24)])
    counted = facts["masks"]["classes"]
    assert [counted[name]["pixels"] for name in ("sky", "house", "tree")] == np.bincount(whole.ravel()).tolist()
    assert counted["tree"]["images"] == sum((one == 2).any() for one in whole)
    assert facts["images"] == 21 and facts["refusal"] == ""


def test_fields_are_looked_at_with_what_is_no_number_left_out(tmp_path, capsys):
    root = folder_of_fields(tmp_path / "f")
    files = sorted((root / "train").glob("*.h5"))
    with h5py.File(files[0], "a") as file:
        file["climate/data"][3, 4, 2] = np.nan
    with h5py.File(files[1], "a") as file:
        file["climate/labels_0"][:2, :2] = 7
    with h5py.File(files[2], "a") as file:
        del file["climate/labels_0"]
        file["climate/labels_0"] = np.zeros((24, 30), np.int64)
    shutil.copy(files[3], root / "test" / "data-900.h5")
    files[4].write_bytes(files[4].read_bytes()[:5000])
    facts = checked(capsys, root, "data.reader.classes=[a, b, c]")
    found = {name.rpartition("/")[2]: reason for name, reason in reasons(facts).items()}
    assert "1 of its numbers are NaN or infinite, most of them in channel 2" in found[files[0].name]
    assert "its mask holds 7 (4 pixels), which is no class" in found[files[1].name]
    assert "its data has the shape (24, 36, 4), its labels (24, 30)" in found[files[2].name]
    assert "not a whole HDF5 file" in found[files[4].name]
    [same] = facts["copies"]
    assert sorted(same["splits"]) == ["test", "train"]
    good = [number for number in range(24) if number not in [int(file.stem[-3:]) for file in files[:5]]]
    values = []
    for number in [*good, int(files[3].stem[-3:])]:
        with h5py.File(next(root.rglob(f"data-{number:03}.h5"))) as file:
            values.append(file["climate/data"][...])
    channel = facts["channels"][1]
    with h5py.File(files[1]) as file:  # its numbers are good, though its labels are not
        values += [file["climate/data"][...], values[-1]]
    with h5py.File(files[0]) as file:
        values.append(file["climate/data"][...])
    assert channel["mean"] == pytest.approx(np.mean([one[..., 1] for one in values], dtype=np.float64), rel=1e-6)
    assert facts["channels"][2]["none"] == 1


@pytest.mark.parametrize("kind", ["fields", "masks"])
def test_a_second_check_opens_only_rows_with_a_file_that_changed(kind, tmp_path, capsys):
    root = (folder_of_fields if kind == "fields" else folder_of_masks)(tmp_path / "it's $(a) folder")
    first = checked(capsys, root)
    assert first["opened"] == first["files"] == 24
    assert checked(capsys, root) == first | {"opened": 0}
    changed = sorted(root.rglob("data-*.h5" if kind == "fields" else "masks/**/*.png"))[0]
    changed.write_bytes(changed.read_bytes()[:70])
    again = checked(capsys, root)
    assert again["opened"] == 1 and len(again["broken"]) == 1
    assert checked(capsys, root, "data.reader.ignore=2")["opened"] == 24  # what is asked is another question


@pytest.mark.parametrize("kind", ["fields", "masks"])
def test_a_field_or_a_mask_that_does_not_come_is_named_and_the_others_are_looked_at(kind, tmp_path, capsys):
    root = (folder_of_fields if kind == "fields" else folder_of_masks)(tmp_path / "f")
    gone = sorted(root.rglob("data-*.h5" if kind == "fields" else "masks/**/*.png"))[3]
    gone.unlink()
    os.mkfifo(gone)  # as a mount that hangs: whoever opens it waits
    facts = checked(capsys, root, "timeout=0.5 s")
    assert [reason for reason in reasons(facts).values()] == ["reading it takes more than 0.5 s"]
    assert facts["images"] == 23 and facts["refusal"] == ""


def packed_from(root, *words):
    folder = root.with_name("it's $(a) pack")
    assert cli.main(["pack", str(root), f"to={folder}", "workers=1", *words]) == 0
    return folder


def spoil(folder, source):
    """Change one byte of a packed row."""
    row = packed.read(folder).index.filter(pc.field("source") == source).to_pylist()[0]
    with open(folder / "shard-000000.tar", "r+b") as file:
        file.seek(row["offset"] + row["length"] // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    return f"(key {'.'.join(filter(None, (row['key'], row['part'])))})"


SAME = ("files", "images", "classes", "width", "sides", "modes", "channels", "masks", "copies", "alike", "refusal")


@pytest.mark.parametrize("kind", ["photos", "masks", "fields"])
def test_packed_data_are_found_to_be_what_they_were_packed_from(kind, tmp_path, capsys):
    make = {"photos": folder_of_images, "masks": folder_of_masks, "fields": folder_of_fields}[kind]
    root = make(tmp_path / "f")
    loose, folder = checked(capsys, root), packed_from(root)
    capsys.readouterr()
    stored = checked(capsys, folder)
    assert {name: stored[name] for name in SAME} == {name: loose[name] for name in SAME}
    assert stored["broken"] == [] and stored["opened"] == stored["files"]
    source = packed.read(folder).index["source"][2].as_py()
    key = spoil(folder, source)
    [broken] = checked(capsys, folder)["broken"]
    assert "not those that were packed" in broken["reason"]
    assert key in broken["reason"] or kind != "photos"


def test_of_packed_pairs_both_halves_are_looked_at(tmp_path, capsys):
    root = folder_of_pairs(tmp_path / "sky")
    recipe = tmp_path / "sky.yaml"
    recipe.write_text(f"data: {{root: {root}, reader: image_pair}}")
    folder = packed_from(recipe)
    capsys.readouterr()
    facts = checked(capsys, folder)
    assert facts["images"] == facts["files"] > 0 and facts["broken"] == []
    key = spoil(folder, packed.read(folder).index["source"][1].as_py())
    [broken] = checked(capsys, folder)["broken"]
    assert broken["reason"].startswith("its second file: its bytes in shard-000000.tar") and key in broken["reason"]


def test_of_very_many_values_in_a_mask_some_are_kept_and_all_are_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(labelled, "_MOST_VALUES", 3)
    root = folder_of_fields(tmp_path / "f")
    path = sorted((root / "train").glob("*.h5"))[0]
    with h5py.File(path, "a") as file:
        shape = file["climate/labels_0"].shape
        del file["climate/labels_0"]
        file["climate/labels_0"] = (2**63 + 2**20 * np.arange(np.prod(shape), dtype=np.uint64)).reshape(shape)
    for _ in range(2):  # looked at, and remembered
        facts = checked(capsys, root, "data.reader.classes=[a, b, c]")
        last = np.prod(shape) - 2
        expected = (
            f"its mask holds {2**63} (1 pixels), {2**63 + 2**20} (1 pixels), {2**63 + 2**21} ({last} pixels), which"
        )
        assert reasons(facts)[f"train/{path.name}"].startswith(expected)
        assert facts["images"] == 23


def test_prepare_says_what_there_is(tmp_path, capsys):
    for root in (folder_of_masks(tmp_path / "m"), folder_of_fields(tmp_path / "f")):
        assert cli.main(["prepare", str(root), f"to={root.name}.parquet"]) == 0
        told = capsys.readouterr().out
        assert "24 images with masks, 3 classes" in told and "None" not in told


def test_the_page_shows_the_share_of_each_class(tmp_path, capsys):
    root = folder_of_masks(tmp_path / "m")
    assert cli.main(["check", str(root), "page=p.html"]) == 0
    told = capsys.readouterr().out
    page = (tmp_path / "p.html").read_text()
    assert "masks    0 " in told and "rarest class" in page and "of pixels" in page


def test_the_next_command_names_the_data_as_this_one_did_and_asks_for_no_list_of_nothing(tmp_path, capsys):
    root = folder_of_masks(tmp_path / "it's")
    next((root / "images").rglob("*.*")).write_bytes(b"")
    assert cli.main(["pack", str(root), "to=packed"]) == 0
    for words, following in (
        ([str(root), "data.reader=image_mask"], "check {} data.reader=image_mask quarantine=leave-out.csv"),
        (["packed"], "prepare packed"),
    ):
        capsys.readouterr()
        assert cli.main(["check", *words]) == 0
        told = capsys.readouterr().out
        assert "broken   1 file" in told, told
        assert f"next     instar {following.format(shlex.quote(str(root)))}" in told


def test_the_page_shows_pictures_with_what_their_masks_say_and_fields_by_their_first_channel(tmp_path):
    for number, make in enumerate((folder_of_masks, folder_of_fields)):
        root = make(tmp_path / f"it's {number}")
        assert cli.main(["check", str(root), f"page={number}.html", "--quiet"]) == 0
        page = (tmp_path / f"{number}.html").read_text()
        assert page.count('<img src="data:image') == 16 and "cannot be read" not in page
        assert f"background:{overlays.css(overlays.colour_of(2))}" in page


def test_what_is_of_no_class_is_shown_as_the_picture_alone_and_a_broken_row_as_none(tmp_path):
    root = folder_of_fields(tmp_path / "f")
    data, reader = Data.model_validate({"root": root, "reader": "field"}), plugins.load("readers", "field")
    found = prepare.masked_files(data, reader)
    plain, masked = shown.pictures(found, data, reader, {"values": [0, 1, 2], "ignored": []})
    assert plain(0).source != masked(0).source and plain(1).source.startswith("data:image/png")
    assert shown.pictures(found, data, reader, {"values": [77], "ignored": []})[1](0) == plain(0)
    (root / found.files[1]).write_bytes(b"no HDF5")
    assert masked(1).source == ""


# --- mirrored and turned -------------------------------------------------------------------------------------------


def test_all_eight_positions_of_a_picture_have_one_hash_and_others_another():
    hashes = []
    for number in range(40):
        grey = picture(number, (64, 64)).convert("L")
        found = {likeness.turned(grey if turn is None else grey.transpose(turn)) for turn in TURNS}
        bits = [bin(one ^ other).count("1") for one in found for other in found]
        assert max(bits) <= 4
        hashes.append(found.pop())
    between = [bin(one ^ other).count("1") for place, one in enumerate(hashes) for other in hashes[:place]]
    assert min(between) > 6


def test_a_mirrored_copy_in_another_split_is_found_and_said(tmp_path, capsys):
    for number in range(12):
        place = tmp_path / "d" / ("train", "train", "val")[number % 3] / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number}.png")
    ImageOps.mirror(picture(0)).save(tmp_path / "d" / "val" / "a" / "mirrored.png")
    picture(3).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "d" / "val" / "b" / "turned.png")
    facts = checked(capsys, tmp_path / "d")
    names = sorted(sorted(row["id"].rpartition("/")[2] for row in same["rows"]) for same in facts["alike"])
    assert names == [["0.png", "mirrored.png"], ["3.png", "turned.png"]]
    assert all(same["turned"] and len(same["splits"]) == 2 for same in facts["alike"])
    assert cli.main(["check", str(tmp_path / "d")]) == 0
    assert "2 mirrored or turned" in capsys.readouterr().out
