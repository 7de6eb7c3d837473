import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from instar import predictions
from instar.errors import DataError, RunError
from instar.predictions import Predictions

HOSTILE = (
    "a b",
    'it\'s "quoted"',
    "line\nbreak",
    "<script>alert(1)</script>",
    "../up",
    "ключ",
    "日本",
    "$(x);",
    "n\udcffon",
    "",
)


def made(rows=4, classes=HOSTILE, **changed):
    generator = np.random.default_rng(0)
    parts = {
        "ids": [f"{row}.png" for row in range(rows)],
        "paths": [f'/data/it\'s a "folder"/{row}.png' for row in range(rows)],
        "label_N": generator.integers(-1, len(classes), rows),
        "probability_NK": generator.dirichlet(np.ones(len(classes)), rows),
        "classes": classes,
        "meta": {"run": "flowers", "split": "test"},
    }
    return Predictions(**(parts | changed))


def test_what_was_written_is_read_back_with_any_class_name(tmp_path):
    path = tmp_path / "it's here" / "test.parquet"
    first = made()
    predictions.write(first, path)
    again = predictions.read(path)
    assert again.classes == HOSTILE and again.meta == first.meta
    assert list(again.ids) == first.ids and list(again.paths) == first.paths
    np.testing.assert_array_equal(again.label_N, first.label_N)
    np.testing.assert_array_equal(again.probability_NK, first.probability_NK)
    assert again.probability_NK.dtype == np.float32 and again.label_N.dtype == np.int32


def test_the_file_has_the_columns_that_other_tools_are_told_of(tmp_path):
    predictions.write(made(), tmp_path / "test.parquet")
    table = pq.read_table(tmp_path / "test.parquet")
    assert tuple(table.column_names) == predictions.COLUMNS
    assert table.schema.field("probability").type.list_size == len(HOSTILE)
    assert table["prediction"].to_pylist() == made().prediction_N.tolist()
    assert json.loads(table.schema.metadata[b"instar.classes"]) == list(HOSTILE)


def test_an_empty_split_is_written_and_read(tmp_path):
    empty = made(rows=0, probability_NK=np.zeros((0, len(HOSTILE))))
    predictions.write(empty, tmp_path / "test.parquet")
    assert len(predictions.read(tmp_path / "test.parquet")) == 0


def test_a_path_that_is_not_unicode_is_written_in_a_readable_form(tmp_path):
    predictions.write(made(rows=1, paths=["/data/caf\udce9.png"]), tmp_path / "test.parquet")
    assert predictions.read(tmp_path / "test.parquet").paths == ["/data/caf\\udce9.png"]


def test_of_two_equally_probable_classes_the_first_is_predicted():
    equal = made(rows=1, classes=("a", "b", "c"), label_N=[1], probability_NK=[[0.2, 0.4, 0.4]])
    assert equal.prediction_N.tolist() == [1] and equal.correct_N.tolist() == [True]
    assert equal.confidence_N.tolist() == pytest.approx([0.4])


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"probability_NK": np.full((4, 3), 0.3)}, "shape"),
        ({"label_N": [0, 1, 2]}, "3 labels"),
        ({"label_N": [0, 1, 2, 10]}, "labels go from 0 to 10"),
        ({"label_N": [0, 1, 2, -2]}, "-1 for unknown"),
        ({"probability_NK": np.full((4, 10), np.nan)}, "0.png"),
        ({"probability_NK": np.full((4, 10), 1.5)}, "between 0 and 1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed, words):
    with pytest.raises(DataError, match=words):
        made(**changed)


def test_a_missing_or_torn_file_is_named(tmp_path):
    path = tmp_path / "flowers" / "predictions" / "test.parquet"
    with pytest.raises(RunError, match="instar evaluate flowers"):
        predictions.read(path)
    predictions.write(made(), path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match=r"test\.parquet"):
        predictions.read(path)


def test_a_parquet_file_of_somebody_else_is_refused(tmp_path):
    path = tmp_path / "test.parquet"
    predictions.write(made(), path)
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    with pytest.raises(RunError, match="not a whole predictions file"):
        predictions.read(path)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "test.parquet"
    predictions.write(made(), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        predictions.write(made(rows=9), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_reading_predictions_loads_no_torch():
    code = (
        "import instar.predictions, instar.metrics.classification, sys; print({'torch', 'sklearn'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
