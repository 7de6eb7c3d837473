"""A manifest is what it was after a round trip through its file, whatever the names in it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from instar import manifest
from instar.errors import DataError
from instar.manifest import SCHEMA, Manifest, Skipped

HOSTILE = ["plain/a.jpg", 'it\'s "q"/b.jpg', "new\nline/c.jpg", "<script>alert(1)</script>/$(x);.jpg", "-é/e\u0301.jpg"]


def made(ids=HOSTILE, *, root="/data/it's here", content=7, chunks=1) -> Manifest:
    num = len(ids)
    columns = {
        "id": ids,
        "file": ids,
        "target": np.arange(num) % 2,
        "group": [None] * num,
        "split": ["train", "val", "test"] * num,
        "width": [5] * num,
        "height": [4] * num,
        "content": [content] * num,
    }
    table = pa.table({name: values[:num] for name, values in columns.items()}, schema=SCHEMA)
    pieces = [table.slice(at, -(-num // chunks)) for at in range(0, num, -(-num // chunks))]
    skipped = (Skipped("caf\\xe9.jpg", "its name is not UTF-8"),)
    return Manifest(Path(root), pa.concat_tables(pieces), ("a", "<b>\n"), skipped, {"notes": ["é"], "images": num})


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    before, path = made(), tmp_path / "it's a manifest.parquet"
    manifest.write(before, path)
    after = manifest.read(path)
    assert after.table.equals(before.table)
    assert list(after.ids) == HOSTILE
    assert (after.root, after.classes, after.skipped) == (before.root, before.classes, before.skipped)
    assert after.statistics == before.statistics
    assert after.hash == before.hash
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_rows_and_paths_follow_the_table():
    rows = made()
    assert rows.rows("train").tolist() == [0, 3]
    assert rows.rows("test").dtype == np.int64
    assert rows.rows("nothing").tolist() == []
    assert rows.path(2) == Path("/data/it's here/new\nline/c.jpg")
    assert rows.ids[3] == HOSTILE[3]
    assert rows.ids[1:3] == HOSTILE[1:3]
    assert rows.targets.tolist() == [0, 1, 0, 1, 0]
    assert rows.targets.dtype == np.int32


def test_the_hash_knows_names_contents_classes_and_splits_but_not_the_folder_nor_the_chunks():
    same = {made().hash, made(root="/elsewhere").hash, made(chunks=3).hash}
    assert len(same) == 1
    renamed = made([*HOSTILE[:-1], "x/y.jpg"])
    cut_elsewhere = made([HOSTILE[0] + "p", *HOSTILE[1:]])
    other_classes = Manifest(Path("/"), made().table, ("a", "b"))
    other_split = Manifest(Path("/"), made().table.set_column(4, "split", [["test"] * 5]), made().classes)
    changed = [renamed, cut_elsewhere, other_classes, other_split, made(content=8)]
    assert len({one.hash for one in changed} | same) == 6


def test_names_are_read_one_at_a_time_and_not_copied():
    ids = made(chunks=2).ids
    assert len(ids) == 5
    assert ids[np.int64(4)] == HOSTILE[4]
    assert set(ids) == set(HOSTILE)


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", b"x" * 100])
def test_a_broken_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "manifest.parquet"
    with pytest.raises(DataError, match="no manifest is there"):
        manifest.read(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a whole manifest"):
        manifest.read(path)
