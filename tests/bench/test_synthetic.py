"""Synthetic fields in the benchmark's own layout."""

import h5py
import numpy as np
import pytest

from instar import prepare
from instar.bench import synthetic, weather
from instar.errors import DataError
from instar.experiment import load

SMALL = {"samples": 20, "height": 16, "width": 24}


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made up") / "it's $(a) place"
    synthetic.write(folder, **SMALL)
    return folder


def test_files_lie_and_are_called_as_the_benchmarks_are(fields):
    counts = {
        part: len(list((fields / part).glob("data-????-??-??-?????-0.h5"))) for part in ("train", "validation", "test")
    }
    assert counts == {"train": 16, "validation": 2, "test": 2}
    with h5py.File(next((fields / "train").iterdir())) as file:
        assert file["climate/data"].shape == (16, 24, 16) and file["climate/data"].dtype == np.float32
        assert file["climate/labels_0"].shape == (16, 24)
    assert synthetic.is_synthetic(fields)


def test_statistics_are_those_of_the_training_fields(fields):
    data = np.stack([h5py.File(file)["climate/data"][()] for file in sorted((fields / "train").iterdir())]).astype(
        float
    )
    with h5py.File(fields / "stats.h5") as stats:
        found = {name: stats[f"climate/{name}"][()] for name in ("count", "mean", "sqmean", "minval", "maxval")}
    assert found["count"] == 16 * 16 * 24
    assert found["mean"] == pytest.approx(data.mean((0, 1, 2)), rel=1e-6)
    assert found["sqmean"] == pytest.approx((data**2).mean((0, 1, 2)), rel=1e-6)
    assert np.array_equal(found["minval"], data.min((0, 1, 2)).astype(np.float32))
    assert np.array_equal(found["maxval"], data.max((0, 1, 2)).astype(np.float32))


def test_doing_it_again_changes_nothing_and_brings_back_what_went(fields):
    before = {file: file.stat().st_mtime_ns for file in fields.rglob("data-*.h5")}
    gone = sorted(before)[3]
    content = h5py.File(gone)["climate/data"][()]
    gone.unlink()
    synthetic.write(fields, **SMALL)
    assert np.array_equal(h5py.File(gone)["climate/data"][()], content)
    after = {file: file.stat().st_mtime_ns for file in fields.rglob("data-*.h5")}
    assert {file for file in before if before[file] != after[file]} == {gone}


def test_other_fields_are_not_mixed_into_them(fields, tmp_path):
    with pytest.raises(DataError, match="height 16 instead of 32"):
        synthetic.write(fields, **(SMALL | {"height": 32}))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="something else than synthetic"):
        synthetic.write(tmp_path, **SMALL)


def test_the_reader_of_fields_reads_them_in_their_division(fields):
    names = list(weather.CHANNELS)
    reader = {
        "kind": "field",
        "classes": list(weather.CLASSES),
        "names": names,
        "channels": ["TMQ", "PSL"],
        "stats": "stats.h5",
    }
    experiment = load({"data": {"root": str(fields), "reader": reader}, "augment": {"kind": "field"}})
    rows = prepare.manifest(experiment.data, 0)
    assert [len(rows.rows(split)) for split in ("train", "val", "test")] == [16, 2, 2]
    assert rows.statistics["channels"] == 2
