"""Whatever lies in a folder of climate fields, training goes on with the rest, or ends with the name of what is wrong."""

import json

import h5py
import numpy as np
import pytest

from instar import manifest
from instar.bench import synthetic, weather
from instar.errors import DataError
from tests.fakes.training import train

SIZE = (16, 24)


@pytest.fixture
def fields(tmp_path):
    """Forty good synthetic fields."""
    folder = tmp_path / "some 'fields'"
    synthetic.write(folder, samples=40, height=SIZE[0], width=SIZE[1])
    return folder


def training(tmp_path, fields, **changes):
    reader = {"kind": "field", "classes": list(weather.CLASSES), "stats": "stats.h5", "normalise": "minmax"}
    return train(
        tmp_path,
        root=fields,
        data={"root": str(fields), "reader": reader, "max_bad": 0.2},
        model={"kind": "tests.fakes.tiny_fcn"},
        task={"kind": "segmentation"},
        augment={"kind": "field"},
        **({"train__epochs": 1, "train__max_bad": 0.2} | changes),
    )


def changed(file, *, data=None, labels=None):
    with h5py.File(file, "a") as made:
        for name, value in (("climate/data", data), ("climate/labels_0", labels)):
            if value is not None:
                del made[name]
                made[name] = value


def good():
    return weather.sample(0, 0, height=SIZE[0], width=SIZE[1])


def test_good_fields_train(tmp_path, fields):
    assert training(tmp_path, fields).state == "finished"


def test_missing_statistics_are_said_before_anything_is_trained(tmp_path, fields):
    (fields / "stats.h5").unlink()
    with pytest.raises(DataError, match=r"stats\.h5: there is no such file of statistics"):
        training(tmp_path, fields)


def test_statistics_of_other_channels_are_said(tmp_path, fields):
    with h5py.File(fields / "stats.h5", "w") as stats:
        stats["climate/minval"], stats["climate/maxval"] = np.zeros(4), np.ones(4)
    with pytest.raises(DataError, match=r"stats\.h5"):
        training(tmp_path, fields)


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("truncated", lambda file: file.write_bytes(file.read_bytes()[:900]), "HDF5"),
        ("empty", lambda file: file.write_bytes(b""), "empty file"),
        ("text", lambda file: file.write_text("not here"), "HDF5"),
        ("shape", lambda file: changed(file, data=np.zeros((5, 7, 16), np.float32)), "shape"),
        ("no labels", lambda file: h5py.File(file, "w").close(), "climate"),
    ],
)
def test_a_file_that_is_none_is_named_counted_and_left_out(tmp_path, fields, name, spoil, reason):
    bad = sorted((fields / "train").iterdir())[2]
    spoil(bad)
    outcome = training(tmp_path, fields)
    assert outcome.state == "finished" and outcome.plan.train_rows == 31
    [left_out] = manifest.read(outcome.run.manifest_file).skipped
    assert bad.name in left_out.file and reason in left_out.reason


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: changed(file, data=np.where(np.arange(16) == 3, np.nan, good()[0]).astype(np.float32)), "NaN"),
        (lambda file: changed(file, labels=np.full(SIZE, 9, np.int32)), "9"),
    ],
)
def test_numbers_that_are_none_and_labels_that_are_no_class_are_named_in_the_events(tmp_path, fields, spoil, reason):
    bad = sorted((fields / "train").iterdir())[2]
    spoil(bad)
    outcome = training(tmp_path, fields)
    assert outcome.state == "finished"
    events = [event for event in outcome.run.events() if bad.name in json.dumps(event)]
    assert events and reason in json.dumps(events)
