"""Masks on disk: written whole, read equal, and nothing of them executed."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from instar import masks
from instar.errors import DataError, RunError
from instar.masks import Masks

NAMES = ("back ground", "it's $(x)", "new\nline")


def made(rows=4, seed=0):
    random = np.random.default_rng(seed)
    sizes = [(int(h), int(w)) for h, w in random.integers(1, 40, (rows, 2))]
    predicted = [random.integers(0, 3, size).astype(np.uint8) for size in sizes]
    true = [random.integers(0, 3, size).astype(np.uint8) for size in sizes]
    cells = []
    for one, other in zip(true, predicted, strict=True):
        cell, count = np.unique(one.astype(np.int64) * 3 + other, return_counts=True)
        cells.append(np.stack([cell, count], 1).astype(np.int64).tobytes())
    found = Masks(
        ids=[f"a 'b'/{row}.png" for row in range(rows)],
        paths=[f"/x/{row}.png" for row in range(rows)],
        known_N=np.ones(rows, bool),
        truth_N=random.integers(0, 2**63, rows).astype(np.uint64),
        loss_N=random.random(rows).astype(np.float32),
        confusion=cells,
        boundary_N4K=random.integers(0, 9, (rows, 4, 3)),
        mask=[masks.encoded(one) for one in predicted],
        image_preview=[b"jpeg"] * rows,
        truth_preview=[masks.encoded(one) for one in true],
        classes=NAMES,
        meta={"run": "x"},
    )
    return found, true, predicted


def test_what_is_written_is_read_equal(tmp_path):
    found, _, predicted = made()
    file = tmp_path / "it's $(a) run" / "test.parquet"
    masks.write(found, file)
    again = masks.read(file)
    assert (again.classes, again.meta, list(again.ids), list(again.confusion)) == (
        NAMES,
        {"run": "x"},
        found.ids,
        found.confusion,
    )
    np.testing.assert_array_equal(again.boundary_N4K, found.boundary_N4K)
    for row, one in enumerate(predicted):
        np.testing.assert_array_equal(again.predicted(row), one)
    assert masks.truths(again) == masks.truths(found) and not list(tmp_path.rglob("*.part"))


def test_counts_follow_from_the_confusions():
    found, true, predicted = made(rows=7)
    total = np.zeros((3, 3), np.int64)
    for row, (one, other) in enumerate(zip(true, predicted, strict=True)):
        np.add.at(total, (one.ravel(), other.ravel()), 1)
        expected = [[((one == k) & (other == k)).sum() for k in range(3)], [(one == k).sum() for k in range(3)],
                    [(other == k).sum() for k in range(3)]]  # fmt: skip
        assert found.counts_N3K[row].tolist() == expected
    np.testing.assert_array_equal(found.confusion_KK, total)


def test_the_file_is_compact():
    class_HW = np.zeros((768, 1152), np.uint8)
    class_HW[200:400, 300:700] = 1
    assert len(masks.encoded(class_HW)) < class_HW.size / 100
    np.testing.assert_array_equal(masks.decoded(masks.encoded(class_HW)), class_HW)


def test_parts_that_do_not_fit_and_files_that_are_none_are_said(tmp_path):
    found, _, _ = made()
    with pytest.raises(DataError, match="4 rows of 3 classes"):
        Masks(**{**{name: getattr(found, name) for name in found.__dataclass_fields__}, "mask": found.mask[:2]})
    with pytest.raises(RunError, match="instar evaluate"):
        masks.read(tmp_path / "run" / "predictions" / "test.parquet")
    masks.write(found, tmp_path / "m.parquet")
    for name, change in {"torn": lambda data: data[: len(data) // 2], "other": lambda data: b"hello"}.items():
        (tmp_path / name).write_bytes(change((tmp_path / "m.parquet").read_bytes()))
        with pytest.raises(RunError, match="not a whole file of masks"):
            masks.read(tmp_path / name)
    table = pq.read_table(tmp_path / "m.parquet")
    pq.write_table(table.replace_schema_metadata({"instar.meta": json.dumps({})}), tmp_path / "bare")
    with pytest.raises(RunError, match="not a whole file of masks"):
        masks.read(tmp_path / "bare")
