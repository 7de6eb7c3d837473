"""Fields out of HDF5 and NumPy: channels, normalisation, layouts, and everything that can be wrong."""

import numpy as np
import pytest
import torch

from instar import plugins, prepare
from instar.augment import Augment
from instar.engine.loading.loaders import keyed
from instar.errors import ConfigError, DataError
from instar.experiment import Data
from instar.masks import IGNORE
from instar.networks import pixels
from instar.readers._images import BadImage
from tests.fakes.masks import field, folder_of_fields

h5py = pytest.importorskip("h5py")
reader = plugins.load("readers", "field")
WHOLE = Augment(kind="field")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))


def data_of(root, max_bad=0.05, **given):
    return Data.model_validate({"root": root, "reader": {"kind": "field", **given}, "max_bad": max_bad})


def opened(root, augment=WHOLE, max_bad=0.05, **given):
    data = data_of(root, max_bad, **given)
    rows = prepare.manifest(data, 0)
    return reader.open(data.reader, rows, augment), rows


def number_of(rows, row):
    return int(rows.ids[row][-6:-3] if rows.ids[row].endswith("h5") else rows.ids[row][-7:-4])


@pytest.mark.parametrize("numpy", [False, True])
def test_the_layout_of_deepcam_is_read_as_it_is_in_the_file(numpy, tmp_path):
    root = folder_of_fields(tmp_path / "it's $(x)", numpy=numpy, stats=False)
    found, rows = opened(root, normalise="none")
    assert [len(rows.rows(split)) for split in ("train", "val", "test")] == [15, 5, 4]
    for row in (0, 7, 23):
        image, mask = field(number_of(rows, row))
        sample = found.read(row, None)
        np.testing.assert_array_equal(sample["image"], image)
        np.testing.assert_array_equal(sample["mask"], mask)
        assert (sample["image"].dtype, sample["mask"].dtype) == (np.float32, np.uint8)
        assert sample["label"] == 0 and (sample["height"], sample["width"]) == (24, 36)


@pytest.mark.parametrize("kind", ["minmax", "meanstd", "auto"])
@pytest.mark.parametrize("stats", [True, False])
def test_channels_are_normalised_by_the_file_of_statistics_or_by_some_fields(kind, stats, tmp_path):
    root = folder_of_fields(tmp_path / "f", stats=stats)
    found, rows = opened(root, normalise=kind)
    assert bool(rows.statistics["notes"]) != stats
    everything = np.stack([field(number)[0] for number in range(24)]).astype(np.float64)
    if not stats:  # the first sixteen it trains on
        train = rows.rows("train")
        everything = np.stack([field(number_of(rows, row))[0] for row in train[:16]]).astype(np.float64)
    low, high, mean, std = (
        f(axis=(0, 1, 2)) for f in (everything.min, everything.max, everything.mean, everything.std)
    )
    by_range = kind == "minmax" or (kind == "auto" and stats)
    image = field(number_of(rows, 3))[0]
    expected = (image - low) / (high - low) if by_range else (image - mean) / std
    np.testing.assert_array_equal(found.read(3, None)["image"], image)  # the network's first step normalises
    seen = pixels(torch.from_numpy(image[None]), rows.statistics["offset"], rows.statistics["scale"])
    np.testing.assert_allclose(seen[0].permute(1, 2, 0), expected, rtol=1e-4, atol=1e-5)


def test_channels_are_chosen_by_number_and_by_name(tmp_path):
    root = folder_of_fields(tmp_path / "f")
    every, _ = opened(root)
    names = ("TMQ", "U850", "V850", "PSL")
    by_number, _ = opened(root, channels=(3, 1))
    by_name, named = opened(root, channels=("PSL", "U850"), names=names)
    assert named.statistics["channels"] == 2
    expected = every.read(5, None)["image"][..., [3, 1]]
    for one in (by_number, by_name):
        np.testing.assert_array_equal(one.read(5, None)["image"], expected)
    with pytest.raises(DataError, match="did you mean 'U850'"):
        opened(root, channels=("U85",), names=names)
    with pytest.raises(DataError, match="there is no channel 9: it has 4, from 0 to 3"):
        opened(root, channels=(9,))


def test_arrays_of_one_channel_each_and_channels_first_are_put_together(tmp_path):
    for number in range(6):
        image, mask = field(number)
        with h5py.File(tmp_path / f"data-{number}.hdf5", "w") as file:
            for channel, name in enumerate(("red", "nir", "x y")):
                file[name] = image[..., channel]
            file["stack"], file["cover"] = np.moveaxis(image, 2, 0), mask.astype(np.uint8)
    more = {"labels": "cover", "normalise": "none"}
    one, rows = opened(tmp_path, data=("red", "x y"), **more)
    first, _ = opened(tmp_path, data="stack", **more)
    image = field(int(rows.ids[2][5]))[0]
    np.testing.assert_array_equal(one.read(2, None)["image"], image[..., [0, 2]])
    np.testing.assert_array_equal(first.read(2, None)["image"], image)
    with pytest.raises(
        DataError, match=r"unknown array 'stak': did you mean 'stack'.*holds cover, nir, red, stack, x y"
    ):
        opened(tmp_path, data="stak", **more)


def test_rows_that_cannot_be_used_are_named_and_left_out(tmp_path):
    root = folder_of_fields(tmp_path / "f")
    files = sorted((root / "train").glob("*.h5"))
    files[0].write_bytes(files[0].read_bytes()[:3000])
    files[1].write_bytes(b"")
    with h5py.File(files[2], "a") as file:
        del file["climate/labels_0"]
        file["climate/labels_0"] = np.zeros((24, 35), np.int64)
    with h5py.File(files[3], "a") as file:
        del file["climate/labels_0"]
        file["climate/labels_0"] = np.zeros((24, 36), np.float32)
    _, rows = opened(root, max_bad=0.5)
    reasons = {name.rpartition("/")[2]: reason for name, reason in rows.skipped}
    assert "not a whole HDF5 file" in reasons[files[0].name]
    assert reasons[files[1].name] == "empty file, 0 bytes"
    assert "its data has the shape (24, 36, 4), its labels (24, 35)" in reasons[files[2].name]
    assert "its labels are float32" in reasons[files[3].name]
    assert len(rows) == 20 and rows.statistics["broken"] == 4
    with pytest.raises(DataError, match="4 of 24 files cannot be used"):
        opened(root, max_bad=0.1)


def test_numbers_that_are_none_and_labels_that_are_no_classes_are_bad_when_they_are_read(tmp_path):
    root = folder_of_fields(tmp_path / "f")
    found, rows = opened(root, names=("a", "b", "c", "d"), classes=("x", "y", "z"))
    with h5py.File(rows.path(0), "a") as file:
        file["climate/data"][3, 4, 2] = np.nan
        file["climate/data"][5, 4, 2] = np.inf
    with h5py.File(rows.path(1), "a") as file:
        file["climate/labels_0"][2, 2] = 7
    with h5py.File(rows.path(2), "a") as file:
        file["climate/labels_0"][2, 2] = IGNORE
    with pytest.raises(BadImage, match="2 of its numbers are NaN or infinite, most of them in channel c"):
        found.read(0, None)
    with pytest.raises(BadImage, match=r"holds 7 \(1 pixels\), but the classes are 0, 1, 2"):
        found.read(1, None)
    assert found.read(2, None)["mask"][2, 2] == IGNORE


def test_large_numbers_whose_sum_is_too_large_are_no_mistake(tmp_path):
    for number in range(6):
        image, mask = field(number)
        np.save(tmp_path / f"data-{number}.npy", image * np.float32(1e35))
        np.save(tmp_path / f"label-{number}.npy", mask)
    found, _ = opened(tmp_path)
    assert np.isfinite(found.read(0, None)["image"]).all()


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    for number in range(4):
        np.save(tmp_path / f"data-{number}.npy", np.array([{"run": "me"}], object), allow_pickle=True)
        np.save(tmp_path / f"label-{number}.npy", np.zeros((2, 2), np.int64))
    with pytest.raises(DataError, match="not a whole NumPy file"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("change", "given", "text"),
    [
        (lambda file: file.unlink(), {"stats": "stats.h5"}, "there is no such file of statistics"),
        (lambda file: file.write_bytes(b"x"), {}, "neither HDF5 nor NetCDF nor .npy"),
        (lambda file: shorten(file), {}, r"minval has the shape \(3,\), but the fields have 4 channels"),
        (lambda file: only(file, "minval"), {"normalise": "minmax"}, "holds no minval and maxval"),
        (lambda file: only(file, "minval"), {"normalise": "meanstd"}, "holds no mean, and std or sqmean"),
    ],
)
def test_statistics_that_are_missing_or_wrong_are_said(change, given, text, tmp_path):
    root = folder_of_fields(tmp_path / "f")
    change(root / "stats.h5")
    with pytest.raises(DataError, match=text):
        opened(root, **given)


def shorten(file):
    with h5py.File(file, "a") as opened_file:
        for name in ("minval", "maxval"):
            values = opened_file[f"climate/{name}"][:3]
            del opened_file[f"climate/{name}"]
            opened_file[f"climate/{name}"] = values


def only(file, kept):
    with h5py.File(file, "a") as opened_file:
        for name in ("minval", "maxval", "mean", "sqmean"):
            if name != kept:
                del opened_file[f"climate/{name}"]


def test_files_without_labels_or_of_other_names_are_asked_for(tmp_path):
    image, _ = field(0)
    np.save(tmp_path / "cube-1.npy", image)
    with pytest.raises(DataError, match=r"no file called data-\*.*'cube-1.npy'.*data\.reader\.files"):
        opened(tmp_path)
    np.save(tmp_path / "data-1.npy", image)
    with pytest.raises(DataError, match="no file called"):
        opened(tmp_path)


def test_field_and_classes_move_together_and_come_around_the_globe(tmp_path):
    for number in range(6):
        _, mask = field(number)
        np.save(
            tmp_path / f"data-{number}.npy", np.stack([mask * 10.0, np.full(mask.shape, number)], 2).astype(np.float32)
        )
        np.save(tmp_path / f"label-{number}.npy", mask)
    found, rows = opened(tmp_path, normalise="none")
    seen = set()
    for epoch in range(10):
        sample = found.read(2, keyed(0, epoch, 2))
        np.testing.assert_array_equal(sample["image"][..., 0], sample["mask"] * 10.0)
        assert np.bincount(sample["mask"].ravel()).tolist() == np.bincount(found.read(2, None)["mask"].ravel()).tolist()
        seen.add(sample["mask"].tobytes())
    assert len(seen) > 5  # rolled and mirrored, and nothing lost
    turning = Augment(crop="window", size=16, rotation=20.0, zoom=(0.7, 1.4), hflip=0.5)
    turned = reader.open(data_of(tmp_path, normalise="none").reader, rows, turning)
    right = known = 0
    for epoch in range(20):
        sample = turned.read(2, keyed(0, epoch, 2))
        sure = sample["mask"] != IGNORE
        right += (np.rint(sample["image"][..., 0] / 10) == sample["mask"])[sure].sum()
        known += sure.sum()
    assert right / known > 0.9


def test_a_field_has_no_colours_and_stays_whole_only_at_one_size(tmp_path):
    root = folder_of_fields(tmp_path / "f")
    with pytest.raises(ConfigError, match=r"augment\.brightness is for pictures"):
        opened(root, augment=Augment(kind="field", brightness=0.2))
    image, mask = field(0, height=30)
    np.save(root / "train" / "data-99.npy", image)
    np.save(root / "train" / "label-99.npy", mask)
    with pytest.raises(DataError, match=r"crop=whole needs fields of one size.*augment\.crop=window"):
        opened(root)
    assert opened(root, augment=Augment(crop="window", size=16))[1].statistics["images"] == 25
