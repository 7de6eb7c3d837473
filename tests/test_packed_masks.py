"""Packed pixel labels: the same recipe trains to the same bits from files, shards, converted files and copies of them."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import xxhash

from instar import fields as files
from instar import manifest as manifests
from instar import pack, packed, plugins, prepare
from instar.augment import Augment
from instar.cli import main
from instar.engine import staging
from instar.errors import DataError
from instar.experiment import Data
from instar.run import Run
from tests.fakes.masks import field, folder_of_fields, folder_of_masks
from tests.fakes.training import fingerprint, train

h5py = pytest.importorskip("h5py")
ROOT = Path(__file__).parent.parent
PIXELS = {"model": {"kind": "tests.fakes.tiny_fcn"}, "task": {"kind": "segmentation"}, "train__epochs": 2}
OF_FIELDS = PIXELS | {"data__reader": "field", "augment": {"kind": "field"}}
OF_MASKS = PIXELS | {"data__reader": "image_mask", "augment": {"size": 16, "resize": 16, "hflip": 0.5}}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def fields(tmp_path):
    return folder_of_fields(tmp_path / "it's $(a) place")


@pytest.fixture
def photos(tmp_path):
    return folder_of_masks(tmp_path / 'some "photos"')


def recipe_of(tmp_path, root, changes, **data):
    """A YAML file of the trainings here; gives its path."""
    text = {"seed": 7, "data": {"root": str(root), "reader": changes["data__reader"], **data}}
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(text), encoding="utf-8")
    return file


def packed_by_command(tmp_path, root, changes, *words, **data):
    folder = tmp_path / "a $(packed) folder"
    assert main(["pack", str(recipe_of(tmp_path, root, changes, **data)), f"to={folder}", "workers=1", *words]) == 0
    return folder


def bits(tmp_path, root, name, changes, **more):
    """The sha256 of weights and metrics of a training on this root."""
    run = train(tmp_path, run=name, root=root, **(changes | more)).run
    return fingerprint(run)


# --- the same training ---------------------------------------------------------------------------------------------


def test_fields_train_to_the_same_bits_from_files_shards_and_a_copy_on_the_node(tmp_path, fields):
    loose = bits(tmp_path, fields, "loose", OF_FIELDS)
    folder = packed_by_command(tmp_path, fields, OF_FIELDS)
    shutil.move(fields, tmp_path / "gone")
    assert bits(tmp_path, folder, "packed", OF_FIELDS) == loose
    staged = train(
        tmp_path, run="staged", root=folder, machine={"stage": str(tmp_path / "a disk"), "workers": 2}, **OF_FIELDS
    )
    assert fingerprint(staged.run) == loose
    assert list((tmp_path / "a disk").glob("*/*/shard-000000.tar"))


def test_what_convert_makes_trains_the_same_with_one_word_changed(tmp_path, fields, capsys):
    loose = bits(tmp_path, fields, "loose", OF_FIELDS)
    for name, how in (("arrays", []), ("shards", ["as=packed"])):
        assert main(["convert", str(fields), f"to={tmp_path / name}", "workers=1", *how]) == 0
        assert bits(tmp_path, tmp_path / name, f"of-{name}", OF_FIELDS) == loose
    assert (tmp_path / "arrays" / "stats.h5").read_bytes() == (fields / "stats.h5").read_bytes()
    assert (tmp_path / "shards" / "stats.h5").read_bytes() == (fields / "stats.h5").read_bytes()
    assert "broken" not in capsys.readouterr().out


def test_images_with_masks_train_to_the_same_bits_packed(tmp_path, photos):
    loose = bits(tmp_path, photos, "loose", OF_MASKS)
    folder = packed_by_command(tmp_path, photos, OF_MASKS)
    manifest = prepare.manifest(Data.model_validate({"root": photos, "reader": "image_mask"}), 7)
    again = prepare.manifest(Data.model_validate({"root": folder, "reader": "image_mask"}), 7)
    assert again.hash == manifest.hash
    shutil.move(photos, tmp_path / "gone")
    assert bits(tmp_path, folder, "packed", OF_MASKS) == loose


def test_images_as_arrays_keep_the_numbers_in_their_masks(tmp_path, photos):
    as_they_are = OF_MASKS | {"augment": {"crop": "window", "size": 16, "hflip": 0.5}}
    loose = bits(tmp_path, photos, "loose", as_they_are)
    folder = packed_by_command(tmp_path, photos, OF_MASKS, "as=array")
    shutil.move(photos, tmp_path / "gone")
    assert bits(tmp_path, folder, "packed", as_they_are) == loose


def test_arrays_of_any_type_are_kept_exactly_and_masks_are_second_members(tmp_path):
    root = tmp_path / "cubes"
    root.mkdir()
    for number in range(6):
        image, mask = field(number)
        with h5py.File(root / f"data-{number}.h5", "w") as file:
            file["a/red"], file["b/red"] = image[..., 0].astype(">f8"), (image[..., 1] * 9).astype(np.uint16)
            file["cover"] = mask.astype(np.int16)
    reader = {"kind": "field", "data": ["a/red", "b/red"], "labels": "cover"}
    folder = packed_by_command(tmp_path, root, OF_FIELDS | {"data__reader": reader})
    with tarfile.open(folder / "shard-000000.tar") as shard:
        assert shard.getnames()[:3] == ["000000000.a-red.npy", "000000000.b-red.npy", "000000000.cover.npy"]
    pack_ = packed.read(folder)
    rows = {source: number for number, source in enumerate(pack_.index["source"].to_pylist())}
    for number in range(6):
        image, mask = field(number)
        for name, wanted in (("a/red", image[..., 0].astype(">f8")), ("b/red", (image[..., 1] * 9).astype(np.uint16)),
                             ("cover", mask.astype(np.int16))):  # fmt: skip
            found = pack_.array(rows[f"data-{number}.h5:{name}"])
            np.testing.assert_array_equal(found, wanted)
            assert found.dtype == wanted.dtype
    loose, there = (
        plugins.load("readers", "field").open(
            (data := Data.model_validate({"root": place, "reader": reader})).reader,
            prepare.manifest(data, 0),
            Augment(kind="field"),
        )
        for place in (root, folder)
    )
    np.testing.assert_array_equal(loose.read(3, None)["image"], there.read(3, None)["image"])


def test_a_sample_is_never_cut_between_two_shards(tmp_path, fields):
    folder = packed_by_command(tmp_path, fields, OF_FIELDS, "shard=100kB")
    index = packed.read(folder).index.to_pylist()
    assert len({row["shard"] for row in index}) > 3
    for key in {row["key"] for row in index}:
        assert len({row["shard"] for row in index if row["key"] == key}) == 1


def test_smaller_pictures_of_masks_are_refused(tmp_path, photos):
    with pytest.raises(DataError, match="a label of a smaller picture would be another one"):
        rows = prepare.manifest(Data.model_validate({"root": photos, "reader": "image_mask"}), 0)
        found = pack.of_masks(rows, lambda a, b: [(a, ""), (b, "mask")], form="folder", beside=(), divided=False)
        pack.pack(found, tmp_path / "p", pack.Options(payload="jpeg256"))


def test_a_folder_of_fields_or_masks_needs_no_recipe(tmp_path, fields, photos, capsys):
    for source, kind in ((fields, "field"), (photos, "image_mask")):
        folder = tmp_path / kind
        assert main(["pack", str(source), f"to={folder}", "workers=1"]) == 0
        assert main(["prepare", str(folder), f"to={tmp_path / kind}.parquet", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 24


# --- lists and manifests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["fields", "photos"])
def test_what_a_list_names_is_left_out_of_packed_data_too(of, tmp_path, request):
    root, changes = request.getfixturevalue(of), OF_FIELDS if of == "fields" else OF_MASKS
    folder = packed_by_command(tmp_path, root, changes)
    rows = prepare.manifest(Data.model_validate({"root": folder, "reader": changes["data__reader"]}), 7)
    names = [rows.ids[3], xxhash.xxh3_128_hexdigest((root / rows.ids[5]).read_bytes())]
    listed = tmp_path / "left out.txt"
    listed.write_text("\n".join(names))
    data = {"root": folder, "reader": changes["data__reader"], "exclude": listed}
    left = prepare.manifest(Data.model_validate(data), 7)
    if of == "photos":  # stored as they are, so a hash of the file is one of the member
        assert set(rows.ids) - set(left.ids) == {rows.ids[3], rows.ids[5]} and left.statistics["excluded"] == 2
    else:
        assert set(rows.ids) - set(left.ids) == {rows.ids[3]}
        assert any("name nothing here" in note for note in left.statistics["notes"])


def test_the_hash_of_an_array_leaves_it_out_wherever_it_lies(tmp_path, fields):
    rows = prepare.manifest(Data.model_validate({"root": fields, "reader": "field"}), 7)
    array = io.BytesIO()
    np.save(array, files.read(fields / rows.ids[5], "climate/data"))
    listed = tmp_path / "left out.csv"
    listed.write_text(f"hash,why\n{xxhash.xxh3_128_hexdigest(array.getvalue())},it is 'strange'\n")
    packed_ = packed_by_command(tmp_path, fields, OF_FIELDS)
    for root in (fields, packed_, fields):  # the second time of what is remembered
        data = Data.model_validate({"root": root, "reader": "field", "exclude": listed})
        left = prepare.manifest(data, 7)
        assert set(rows.ids) - set(left.ids) == {rows.ids[5]} and left.statistics["excluded"] == 1
    with h5py.File(fields / rows.ids[5], "r+") as file:
        file["climate/data"][0, 0, 0] += 1
    data = Data.model_validate({"root": fields, "reader": "field", "exclude": listed})
    assert rows.ids[5] in prepare.manifest(data, 7).ids


@pytest.mark.parametrize("of", ["fields", "photos"])
def test_a_manifest_made_of_files_holds_for_packed_data(of, tmp_path, request):
    root, changes = request.getfixturevalue(of), OF_FIELDS if of == "fields" else OF_MASKS
    data = Data.model_validate({"root": root, "reader": changes["data__reader"]})
    made = prepare.prepare(data, 7, tmp_path / "m.parquet").manifest
    loose = bits(tmp_path, root, "loose", changes, data__manifest=str(tmp_path / "m.parquet"))
    folder = packed_by_command(tmp_path, root, changes)
    shutil.move(root, tmp_path / "gone")
    assert bits(tmp_path, folder, "packed", changes, data__manifest=str(tmp_path / "m.parquet")) == loose
    other = made.table.set_column(made.table.column_names.index("content"), "content", made.table["content"][::-1])
    manifests.write(manifests.Manifest(made.root, other, made.classes, (), made.statistics), tmp_path / "o.parquet")
    with pytest.raises(DataError, match="files are not what they were"):
        train(tmp_path, run="other", root=folder, **changes, data__manifest=str(tmp_path / "o.parquet"))


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["pack.chunk:1:kill", "pack.shard:2:kill", "pack.index:1:kill"])
def test_a_killed_packing_carries_on_to_the_same_bytes(fault, tmp_path, fields):
    whole = packed_by_command(tmp_path, fields, OF_FIELDS, "shard=100kB")
    line = [sys.executable, "-m", "instar", "pack", str(tmp_path / "recipe.yaml"), f"to={tmp_path / 'k'}"]
    line += ["workers=1", "shard=100kB"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "INSTAR_FAULT": fault}
    killed = subprocess.run(line, env=environ, capture_output=True, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "k" / "index.parquet").exists()
    assert main([*line[3:], "--verify"]) == 0
    assert {one.name: one.read_bytes() for one in (tmp_path / "k").iterdir()} == {
        one.name: one.read_bytes() for one in whole.iterdir()
    }


def test_a_truncated_shard_is_told_before_a_training(tmp_path, fields):
    folder = packed_by_command(tmp_path, fields, OF_FIELDS)
    shard = folder / "shard-000000.tar"
    os.truncate(shard, shard.stat().st_size - 1024)
    with pytest.raises(DataError, match=r"shard-000000\.tar has \d+ bytes, but \d+ were packed"):
        train(tmp_path, root=folder, **OF_FIELDS)


@pytest.mark.parametrize("spoil", ["truncated", "gone", "changed"])
def test_a_shard_that_cannot_be_read_any_more_while_training_is_named_and_nothing_is_lost(spoil, tmp_path, fields):
    folder = packed_by_command(tmp_path, fields, OF_FIELDS, "shard=100kB")
    data = Data.model_validate({"root": folder, "reader": "field"})
    rows = prepare.manifest(data, 0)
    shelf = plugins.load("readers", "field")
    reader = shelf.open(data.reader, rows, Augment(kind="field"))
    shard = folder / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    if spoil == "truncated":
        shard.write_bytes(content[:5000])
    elif spoil == "gone":
        shard.unlink()
    else:
        content[3000] ^= 1
        shard.write_bytes(content)
    reasons = []
    for row in range(len(rows)):
        try:
            reader.read(row, None)
        except DataError as error:
            reasons.append(str(error))
    assert 1 <= len(reasons) < len(rows)
    told = {"truncated": "were packed", "gone": "is not there", "changed": "not those that were packed"}[spoil]
    assert all(told in reason for reason in reasons)


def test_a_training_goes_on_with_the_rows_of_other_shards(tmp_path, fields):
    folder = packed_by_command(tmp_path, fields, OF_FIELDS, "shard=100kB")
    shard = folder / "shard-000001.tar"
    content = bytearray(shard.read_bytes())
    content[3000] ^= 1
    shard.write_bytes(content)
    outcome = train(tmp_path, root=folder, **OF_FIELDS, train__max_bad=0.5)
    named = [event for event in Run(outcome.run.path).events() if event["event"] == "bad_sample"]
    assert outcome.state == "finished" and named
    assert "not those that were packed" in named[0]["reason"]


def test_a_copy_on_the_node_has_the_statistics_too(tmp_path, fields):
    folder = packed_by_command(tmp_path, fields, OF_FIELDS)
    copy = staging.staged(folder, tmp_path / "disk")
    assert (copy / "stats.h5").read_bytes() == (fields / "stats.h5").read_bytes()
    (copy / "stats.h5").unlink()
    assert staging.staged(folder, tmp_path / "disk") == copy and (copy / "stats.h5").exists()


def test_data_without_masks_are_no_pixel_labels(tmp_path):
    from tests.fakes.images import folder_of_images

    pack.pack(pack.found_at(folder_of_images(tmp_path / "i")), tmp_path / "p", pack.Options(processes=1))
    with pytest.raises(DataError, match="not one of 60 packed images has a mask"):
        prepare.manifest(Data.model_validate({"root": tmp_path / "p", "reader": "image_mask"}), 0)
