"""What every reader on the shelf promises."""

import numpy as np
import pytest
from PIL import Image

from instar import plugins, prepare, testing
from instar.augment import Augment
from instar.engine.loading.loaders import keyed
from instar.errors import ConfigError, DataError
from instar.experiment import Data, load
from tests.fakes.masks import folder_of_fields, folder_of_masks
from tests.fakes.sky import folder_of_pairs

OF_PIXELS = ["field", "image_mask"]
OF_PAIRS = ["image_pair"]
AUGMENT = {
    "image_label": Augment(kind="food_v3", size=24),
    "image_mask": Augment(crop="window", size=16, hflip=0.5, rotation=20.0, zoom=(0.7, 1.5)),
    "image_pair": Augment(kind="imagenet", size=24),
    "field": Augment(crop="window", size=16, roll=True, hflip=0.5, vflip=0.5, rotation=20.0, zoom=(0.7, 1.5)),
}


@pytest.fixture(params=plugins.kinds("readers"))
def opened(request, tmp_path, monkeypatch):
    """A reader of a kind, and the manifest of a folder of class folders it was opened on."""
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    if request.param in OF_PIXELS:
        root = tmp_path / "it's data"
        root = folder_of_fields(root) if request.param == "field" else folder_of_masks(root)
        data = Data.model_validate({"root": root, "reader": request.param})
        rows = prepare.manifest(data, 0)
        return plugins.load("readers", request.param).open(data.reader, rows, AUGMENT[request.param]), rows
    if request.param in OF_PAIRS:
        data = Data.model_validate({"root": folder_of_pairs(tmp_path / "it's data"), "reader": request.param})
        rows = prepare.manifest(data, 0)
        return plugins.load("readers", request.param).open(data.reader, rows, AUGMENT[request.param]), rows
    for number in range(20):
        path = tmp_path / "it's data" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    data = Data.model_validate({"root": tmp_path / "it's data", "reader": request.param})
    rows = prepare.manifest(data, 0)
    return plugins.load("readers", request.param).open(data.reader, rows, AUGMENT[request.param]), rows


@pytest.mark.parametrize("kind", plugins.kinds("readers"))
def test_a_reader_says_what_it_gives_and_how_it_is_set(kind):
    module = plugins.load("readers", kind)
    assert module.gives
    assert module.__doc__
    assert module.Settings().kind == kind


def test_samples_keep_the_contract_that_outsiders_test_theirs_by(opened, request):
    reader, rows = opened
    kind = request.node.callspec.params["opened"]
    testing.check_samples(reader, rows, gives=plugins.load("readers", kind).gives)


@pytest.mark.parametrize("kind", plugins.kinds("readers"))
def test_a_reader_says_which_crops_it_takes_and_others_are_refused(kind):
    every = {"area", "centre", "squash", "pad", "window", "whole"}
    crops = plugins.load("readers", kind).crops
    assert crops and crops <= every
    for crop in every - crops:
        with pytest.raises(ConfigError, match=f"{crop}.*does not go with reader {kind}"):
            load({"data": {"root": "x", "reader": kind}, "augment": {"kind": "food_v1", "crop": crop}})


def test_a_sample_is_a_function_of_the_row_and_its_generator(opened):
    reader, _ = opened
    once, again, otherwise = (reader.read(3, keyed(0, epoch, 3)) for epoch in (0, 0, 1))
    assert np.array_equal(once["image"], again["image"])
    assert not np.array_equal(once["image"], otherwise["image"])
    assert np.array_equal(reader.read(3, None)["image"], reader.read(3, None)["image"])


def test_a_row_that_is_gone_is_a_data_error_and_has_a_name(opened):
    reader, rows = opened
    rows.path(4).unlink()
    with pytest.raises(DataError):
        reader.read(4, None)
    assert rows.path(4).name in reader.name(4)
