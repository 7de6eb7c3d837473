"""Folders, tables and index files become the right rows, classes and splits, or one clear error."""

import csv
import os
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from instar import prepare, remote
from instar.engine.scan import headers, listing, split
from instar.errors import DataError
from instar.experiment import Data
from instar.manifest import Manifest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchvision.datasets import ImageFolder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "a cache"))
    return tmp_path / "a cache"


def image(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade % 256, shade // 256, 9)).save(path)
    return path


def folder(root: Path, counts: dict[str, int], suffix: str = "png") -> Path:
    """A folder of class folders with so many different images each."""
    number = 0
    for label, count in counts.items():
        for one in range(count):
            image(root / label / f"{one:03d}.{suffix}", number := number + 1)
    return root


def prepared(root: Path, seed: int = 0, **settings) -> Manifest:
    return prepare.manifest(Data.model_validate({"root": root, **settings}), seed)


def sizes(rows: Manifest) -> tuple[int, int, int]:
    return tuple(len(rows.rows(name)) for name in ("train", "val", "test"))


def targets_of(rows: Manifest, name: str) -> Counter[str]:
    return Counter(rows.classes[number] for number in rows.targets[rows.rows(name)])


# --- folders -------------------------------------------------------------------------------------------------------


def test_class_folders_are_listed_and_divided_80_10_10(tmp_path):
    rows = prepared(folder(tmp_path / "it's here", {"wren": 40, "Robin": 40, "10": 20}))
    assert rows.classes == ("10", "Robin", "wren")
    assert rows.ids[0] == "10/000.png"
    assert sizes(rows) == (80, 10, 10)
    assert targets_of(rows, "test") == {"10": 2, "Robin": 4, "wren": 4}
    assert rows.statistics["imbalance"] == 2.0
    assert (rows.statistics["median_width"], rows.statistics["median_height"]) == (6, 4)
    assert rows.statistics["splits"] == {"train": 80, "val": 10, "test": 10}
    assert rows.statistics["notes"] == []
    assert rows.path(0).exists()


def test_the_same_folder_and_seed_give_the_same_manifest_and_another_seed_another_split(tmp_path):
    root = folder(tmp_path, {"a": 20, "b": 20})
    assert prepared(root).hash == prepared(root).hash
    assert prepared(root).hash != prepared(root, seed=1).hash
    assert sizes(prepared(root, seed=2**40)) == sizes(prepared(root))


def test_files_are_listed_as_torchvision_lists_them(tmp_path):
    for name in ("b/x.jpg", "b/z/1.png", "b/z-/0.png", "b/z/a/2.PNG", "b/y.JPEG", "a/10.bmp", "a/9.bmp", "B/q.webp"):
        image(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "link to a").symlink_to(tmp_path / "a")
    theirs = [(os.path.relpath(path, tmp_path), target) for path, target in ImageFolder(tmp_path).samples]
    for strictly in (True, False):
        ours = listing.of_folder(tmp_path, as_torchvision=strictly)
        assert ours.files == [path for path, _ in theirs]
        assert ours.ignored == 1
    assert [sorted(set(ours.labels)).index(label) for label in ours.labels] == [target for _, target in theirs]


def test_hidden_files_are_left_out_and_other_files_counted(tmp_path):
    root = folder(tmp_path, {"a": 5, "b": 5, ".thumbnails": 5})
    image(root / "a" / "._000.png")
    for name in ("a/Thumbs.db", "b/README"):
        (root / name).write_text("x")
    rows = prepared(root)
    assert (len(rows), rows.statistics["ignored"], rows.classes) == (10, 2, ("a", "b"))


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "validation", "Testing"), ("train", "dev", "test")]
)
def test_train_val_and_test_folders_stay_as_they_are(tmp_path, names):
    for name, count in zip(names, (6, 2, 3), strict=True):
        folder(tmp_path / name, {"a": count, "b": count})
    rows = prepared(tmp_path)
    assert sizes(rows) == (12, 4, 6)
    assert all(rows.ids[row].startswith(names[1]) for row in rows.rows("val"))


def test_validation_is_cut_from_train_where_its_folder_is_missing(tmp_path):
    folder(tmp_path / "train", {"a": 18, "b": 18})
    folder(tmp_path / "test", {"a": 3, "b": 3})
    rows = prepared(tmp_path)
    assert sizes(rows) == (32, 4, 6)
    assert all(rows.ids[row].startswith("train") for row in rows.rows("val"))


def test_a_test_folder_without_labels_is_named_and_left_out(tmp_path):
    folder(tmp_path / "train", {"a": 9, "b": 9})
    image(tmp_path / "test" / "0.png")
    rows = prepared(tmp_path)
    assert [(one.file, one.reason) for one in rows.skipped] == [("test", listing.NO_CLASSES)]
    assert any("no test split" in note for note in rows.statistics["notes"])


def test_classes_may_be_called_train_and_test(tmp_path):
    rows = prepared(folder(tmp_path, {"train": 5, "bus": 5, "test": 5}))
    assert rows.classes == ("bus", "test", "train")


def test_a_class_that_is_tested_but_never_trained_is_an_error(tmp_path):
    folder(tmp_path / "train", {"cat": 9, "dog": 9})
    folder(tmp_path / "test", {"Cat": 3, "dog": 3})
    with pytest.raises(DataError, match=r"1 classes have images to validate or test on, and none to train on: 'Cat'"):
        prepared(tmp_path)


def test_two_folders_of_one_split_are_an_error(tmp_path):
    for name in ("train", "val", "valid"):
        folder(tmp_path / name, {"a": 2, "b": 2})
    with pytest.raises(DataError, match="'val', 'valid' both look like the val split"):
        prepared(tmp_path)


# --- division ------------------------------------------------------------------------------------------------------


def long_tail(seed: int, num: int = 4000, classes: int = 40) -> np.ndarray:
    random = np.random.default_rng(seed)
    target_N = (classes * random.random(num) ** 3).astype(np.int64)
    counts = np.bincount(target_N, minlength=classes)
    return np.concatenate([target_N, np.repeat(np.arange(classes), np.maximum(0, 3 - counts))])


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32 - 1])
@pytest.mark.parametrize("share", [0.1, 1 / 9, 0.2, 0.5])
def test_a_stratified_split_is_scikit_learns(seed, share):
    target_N = long_tail(seed % 1000)
    theirs = train_test_split(np.arange(len(target_N)), test_size=share, stratify=target_N, random_state=seed)
    ours = split.shuffled(target_N, share, seed=seed)
    assert np.array_equal(ours.kept, theirs[0])
    assert np.array_equal(ours.taken, theirs[1])


def test_a_plain_split_is_scikit_learns():
    theirs = train_test_split(np.arange(103), test_size=0.2, random_state=7)
    ours = split.shuffled(np.zeros(103, np.int64), 0.2, seed=7, stratify=False)
    assert np.array_equal(ours.kept, theirs[0])
    assert np.array_equal(ours.taken, theirs[1])


def test_90_10_then_80_20_is_what_two_calls_of_scikit_learn_give(tmp_path):
    root = folder(tmp_path, {"a": 60, "b": 25, "c": 11, "d": 4})
    rows = prepared(root, seed=42, split={"test": 0.1, "val": 0.2})
    train_val, test = train_test_split(np.arange(100), test_size=0.1, stratify=rows.targets, random_state=42)
    train, val = train_test_split(train_val, test_size=0.2, stratify=rows.targets[train_val], random_state=42)
    for name, theirs in {"train": train, "val": val, "test": test}.items():
        assert np.array_equal(rows.rows(name), np.sort(theirs))


def test_a_class_with_one_image_is_trained_on_and_said_to_be_untested(tmp_path):
    rows = prepared(folder(tmp_path, {"common": 30, "usual": 30, "rare": 1}))
    assert targets_of(rows, "train")["rare"] == 1
    assert sizes(rows) == (49, 6, 6)
    notes = " ".join(rows.statistics["notes"])
    assert "1 classes have no image in the test split, so their score is unknown there: 'rare'" in notes


@pytest.mark.parametrize("counts", [{"a": 2, "b": 2, "c": 3}, {"a": 30, "b": 2}, {"a": 3, "b": 3}, {"a": 1, "b": 50}])
def test_tiny_classes_never_crash_and_are_always_trained_on(tmp_path, counts):
    rows = prepared(folder(tmp_path, counts))
    assert set(targets_of(rows, "train")) == set(counts)
    assert len(rows) == sum(counts.values())
    assert not set(rows.rows("train")) & set(rows.rows("test"))


def test_many_classes_get_one_test_image_each_at_least(tmp_path):
    rows = prepared(folder(tmp_path, {f"c{number:02d}": 4 for number in range(12)}))
    assert targets_of(rows, "test") == {name: 1 for name in rows.classes}
    assert "more than its share of 0.1" in rows.statistics["notes"][0]


def test_one_image_in_every_class_is_a_clear_error(tmp_path):
    root = folder(tmp_path, {"a": 1, "b": 1, "c": 1})
    with pytest.raises(DataError, match=r"no class has two images .*data\.split\.val=0"):
        prepared(root)
    assert sizes(prepared(root, split={"test": 0.0, "val": 0.0})) == (3, 0, 0)


def test_shares_that_leave_nothing_to_train_on_are_an_error(tmp_path):
    with pytest.raises(DataError, match=r"too few to take a share of 0\.9"):
        prepared(folder(tmp_path, {"a": 3, "b": 3}), split={"test": 0.9})


def test_small_classes_are_left_out_and_counted(tmp_path):
    rows = prepared(folder(tmp_path, {"a": 20, "b": 12, "c": 11, "d": 1}), min_per_class=12)
    assert rows.classes == ("a", "b")
    assert rows.statistics["left_out"] == {"c": 11, "d": 1}


def test_no_group_is_in_two_splits(tmp_path):
    random = np.random.default_rng(0)
    group_N = random.integers(0, 60, 900)
    target_N = (group_N % 3 + (random.random(900) < 0.1)).astype(int)
    for stratify in (False, True):
        shares = (0.72, 0.08, 0.2)
        split_N = split.by_group(target_N, group_N, shares, seed=3, stratify=stratify)
        assert all(len(np.unique(split_N[group_N == group])) == 1 for group in range(60))
        assert np.bincount(split_N) / 900 == pytest.approx(shares, abs=0.03)
        assert np.array_equal(split_N, split.by_group(target_N, group_N, shares, seed=3, stratify=stratify))
    test_share_K = np.bincount(target_N[split_N == split.TEST]) / np.bincount(target_N)
    assert test_share_K == pytest.approx(0.2, abs=0.12)


def test_few_groups_fill_every_split_and_train_on_every_class():
    target_N, group_N = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 2, 2])
    for seed in range(20):
        split_N = split.by_group(target_N, group_N, (0.8, 0.1, 0.1), seed=seed)
        assert set(target_N[split_N == split.TRAIN]) == {0, 1}
    with pytest.raises(DataError, match="2 groups cannot be divided over 3 splits"):
        split.by_group(target_N, np.minimum(group_N, 1), (0.8, 0.1, 0.1), seed=0)


# --- index files ---------------------------------------------------------------------------------------------------


def index(tmp_path: Path, **positions) -> dict[str, Path]:
    (tmp_path / "idx").mkdir(exist_ok=True)
    for name, values in positions.items():
        np.save(tmp_path / "idx" / f"{name}_idx.npy", np.asarray(values))
    return {name: tmp_path / "idx" / f"{name}_idx.npy" for name in positions}


def test_index_files_are_positions_among_the_classes_that_are_large_enough(tmp_path):
    root = folder(tmp_path / "data", {"a": 6, "b": 2, "c": 6})
    image(root / "c" / "animated.gif")  # neither ImageFolder nor the index counts it
    files = index(tmp_path, train=[11, 0, 1, 2, 6, 7], val=[3, 8], test=[4, 9])
    rows = prepared(root, index=files, min_per_class=3)
    assert rows.classes == ("a", "c")
    assert [rows.ids[row] for row in rows.rows("val")] == ["a/003.png", "c/002.png"]
    assert "c/005.png" in [rows.ids[row] for row in rows.rows("train")]
    assert len(rows) == 10
    assert rows.statistics["left_out"] == {"b": 2}
    assert rows.statistics["notes"] == ["2 images are in no index file and are not used"]


def test_validation_is_cut_from_an_index_in_the_order_of_its_file(tmp_path):
    root = folder(tmp_path / "data", {"a": 40, "b": 20})
    train_val, test = train_test_split(
        np.arange(60), test_size=0.1, stratify=np.repeat([0, 1], [40, 20]), random_state=5
    )
    rows = prepared(root, seed=42, index=index(tmp_path, train=train_val, test=test), split={"val": 0.2})
    targets = np.repeat([0, 1], [40, 20])[train_val]
    train, val = train_test_split(train_val, test_size=0.2, stratify=targets, random_state=42)
    assert np.array_equal(rows.rows("train"), np.sort(train))
    assert np.array_equal(rows.rows("val"), np.sort(val))


def test_a_broken_file_does_not_move_the_positions_behind_it(tmp_path):
    root = folder(tmp_path / "data", {"a": 15, "b": 15})
    (root / "a" / "000.png").write_bytes(b"")
    files = index(tmp_path, train=range(28), val=[28], test=[29])
    rows = prepared(root, index=files)
    assert [rows.ids[row] for row in rows.rows("test")] == ["b/014.png"]
    assert [one.file for one in rows.skipped] == ["a/000.png"]


@pytest.mark.parametrize(
    "train, test, says",
    [
        ([0, 1, 12], [2], r"names position 12 \(1 such\), but there are 12 positions"),
        ([0, -1], [2], "names position -1"),
        ([0, 1, 1], [2], "names position 1 more than once"),
        ([0, 1, 2], [2, 3], "names position 2 .*which is in the train split too"),
        ([0.0, 1.0], [2], "no one-dimensional array of whole numbers"),
        ([[0, 1]], [2], "no one-dimensional array of whole numbers"),
        (np.array([0, "x"], object), [2], "cannot be read as an index file"),
    ],
)
def test_an_index_that_cannot_be_right_is_refused(tmp_path, train, test, says):
    root = folder(tmp_path / "data", {"a": 6, "b": 6})
    with pytest.raises(DataError, match=says):
        prepared(root, index=index(tmp_path, train=train, test=test))


def test_a_pickle_in_an_index_file_is_not_executed(tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (canary.touch, ())

    files = index(tmp_path, train=np.array([Evil()], object))
    with pytest.raises(DataError, match="cannot be read as an index file"):
        prepared(folder(tmp_path / "data", {"a": 3, "b": 3}), index=files)
    assert not canary.exists()


# --- tables --------------------------------------------------------------------------------------------------------


def table(root: Path, text: str, name: str = "la bels.csv") -> Path:
    (root / name).write_text(text, encoding="utf-8")
    return root / name


@pytest.fixture
def photos(tmp_path) -> Path:
    for number in range(12):
        image(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


def rows_of(photos: Path, header: str, line: str) -> str:
    return "\n".join([header, *(line.format(n=n, label="ab"[n % 2], group=n // 2) for n in range(12))])


@pytest.mark.parametrize(
    "header, line",
    [
        ("path,label", "{n}.png,{label}"),
        ("\ufeffid;label;path", "{n};{label};{n}.png"),
        ("label\tpath", "{label}\t./{n}.png"),
        ("path, label", "x/../{n}.png, {label} "),
        ('"label","path"', '"{label}","{n}.png"'),
    ],
)
def test_tables_of_every_delimiter_give_rows(photos, header, line):
    rows = prepared(photos, table=table(photos.parent, rows_of(photos, header, line)))
    assert rows.classes == ("a", "b")
    assert list(rows.ids) == [f"{n}.png" for n in range(12)]
    assert rows.targets.tolist() == [0, 1] * 6


def test_every_value_of_a_table_is_text(photos):
    lines = "\n".join(f"{n}.png,{['007', 'NA', 'true'][n % 3]}" for n in range(12))
    assert prepared(photos, table=table(photos, f"path,label\n{lines}")).classes == ("007", "NA", "true")


def test_groups_and_splits_of_a_table_are_kept(photos):
    path = table(photos, rows_of(photos, "path,label,group", "{n}.png,{label},{group}"))
    rows = prepared(photos, table=path, split={"test": 0.2, "val": 0.25})
    groups = rows.table["group"].to_pylist()
    assert sizes(rows) == (8, 2, 2)
    assert len({(group, name) for group, name in zip(groups, rows.table["split"].to_pylist(), strict=True)}) == 6
    path = table(
        photos,
        "path,label,split\n"
        + "\n".join(f"{n}.png,{'ab'[n % 2]},{('Train', 'valid', 'test')[n // 4]}" for n in range(12)),
    )
    assert sizes(prepared(photos, table=path)) == (4, 4, 4)


def test_a_parquet_table_and_named_columns(photos):
    columns = {
        "file": [f"{n}.png" for n in range(12)],
        "species": [n % 2 for n in range(12)],
        "animal": [n // 3 for n in range(12)],
    }
    pq.write_table(pa.table(columns), photos / "a.parquet")
    names = {"path": "file", "label": "species", "group": "animal"}
    rows = prepared(photos, table=photos / "a.parquet", columns=names)
    assert rows.classes == ("0", "1")
    assert rows.table["group"].to_pylist()[:4] == ["0", "0", "0", "1"]


def test_paths_are_relative_to_the_table_where_the_root_does_not_have_them(photos):
    path = table(photos, rows_of(photos, "path,label", "{n}.png,{label}"))
    assert prepared(photos.parent, table=path).root == photos
    absolute = table(photos, rows_of(photos, "path,label", f"{photos}/{{n}}.png,{{label}}"))
    assert prepared(photos, table=absolute).ids[0] == "0.png"


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "an empty file"),
        ("path,label\n", "a header, but no rows"),
        ("path,lable\n0.png,a\n", "unknown column 'label': did you mean 'lable'"),
        ("path,label\n0.png,a\n1.png,\n2.png, \n", "2 rows have no 'label': row 3, 4"),
        ("path,label\n0.png,a\n../../etc/passwd,b\n", r"1 paths lead out of .*row 3: '../../etc/passwd'.* data.root"),
        ("path,label\n0.png,a\n/etc/passwd,b\n", "1 paths lead out of"),
        ("path,label\n0.png,a\n0.png,b\n", "rows 2 and 3 are the same file, '0.png', with another label"),
        ("path,label,split\n0.png,a,train\n1.png,b,later\n", "the column 'split' holds 'later'"),
        ("path,label\n0.png,a\n1.png\n", "cannot be read as a table"),
        ("path,label\n0.png,a\n1.png,a\n", "only one class, 'a', with 2 images"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(photos, text, says):
    with pytest.raises(DataError, match=says):
        prepared(photos, table=table(photos, text))


def test_a_table_that_is_not_utf8_or_not_there_is_refused(photos):
    (photos / "latin.csv").write_bytes("path,label\n0.png,größe\n".encode("latin-1"))
    for name in ("latin.csv", "gone.csv"):
        with pytest.raises(DataError, match="cannot be read as a table"):
            prepared(photos, table=photos / name)


def test_a_file_named_twice_alike_is_used_once_and_a_missing_one_is_named(photos):
    text = rows_of(photos, "path,label", "{n}.png,{label}") + "\n0.png,a\ngone\nfile.png,b"
    text = text.replace("gone\nfile", '"gone\nfile').replace("file.png,b", 'file.png",b')
    rows = prepared(photos, table=table(photos, text))
    assert len(rows) == 12
    assert {(one.file, one.reason) for one in rows.skipped} == {
        ("0.png", "the table names it twice"),
        ("gone\nfile.png", "no such file"),
    }


# --- errors a folder can be ----------------------------------------------------------------------------------------


def test_every_unusable_folder_is_one_clear_error(tmp_path):
    folder(tmp_path / "flowers", {"only": 3})
    folder(tmp_path / "nested" / "images", {"a": 3, "b": 3})
    image(tmp_path / "flat" / "1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no images" / "a").mkdir(parents=True)
    (tmp_path / "no images" / "a" / "x.txt").write_text("")
    (tmp_path / "labels.csv").write_text("")
    for name, says in {
        "flower": r"there is no such folder\. Did you mean .*/flowers\?",
        "elsewhere/x": r"there is no such folder\. Write the folder",
        "labels.csv": "this is a file, not a folder of images.*data.table",
        "empty": "an empty folder",
        "no images": "1 folders and 1 other files but not one image",
        "flat": "1 images, but no class folders around them",
        "flowers": "only one class, 'only', with 3 images. It takes two",
        "nested": r"only one class, 'images', with 6 .*the folders in it .*\('a', 'b'\).*data\.root=.*/nested/images",
    }.items():
        with pytest.raises(DataError, match=says):
            prepared(tmp_path / name)


def test_leaving_out_every_class_says_how_large_the_largest_is(tmp_path):
    with pytest.raises(DataError, match=r"no usable image, once 2 classes .* \(the largest has 4\)"):
        prepared(folder(tmp_path, {"a": 4, "b": 3}), min_per_class=50)


# --- names and links -----------------------------------------------------------------------------------------------

NAMES = ["a b", "it's", '"q"', "new\nline", "<script>alert(1)", "$(x);", "-rf", "~", "é", "x" * 255]


def test_hostile_class_names_are_labels_like_any_other(tmp_path):
    rows = prepared(folder(tmp_path, {name: 3 for name in NAMES}))
    assert rows.classes == tuple(sorted(NAMES))
    assert all(rows.path(row).exists() for row in range(len(rows)))


def test_hostile_labels_of_a_table_are_labels_like_any_other(photos):
    labels = ["../../up", "<script>alert(1)</script>", 'a,"b"\nc', "="]
    lines = [[f"{n}.png", labels[n % 4]] for n in range(12)]
    with open(photos / "hostile.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *lines])
    rows = prepared(photos, table=photos / "hostile.csv")
    assert rows.classes == tuple(sorted(labels))
    assert [rows.classes[target] for target in rows.targets] == [label for _, label in lines]


def test_names_that_look_alike_stay_different_and_are_said_to(tmp_path):
    names = [unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD")]
    rows = prepared(folder(tmp_path, {name: 3 for name in [*names, "other"]}))
    assert set(names) < set(rows.classes)
    assert "different classes, though their names look alike" in rows.statistics["notes"][0]


def test_names_that_are_not_utf8_are_skipped_and_named(tmp_path):
    root = folder(tmp_path, {"a": 30, "b": 30})
    (root / "a" / "000.png").rename(os.fsdecode(os.fsencode(root / "a") + b"/caf\xe9.png"))
    rows = prepared(root)
    assert len(rows) == 59
    assert [tuple(one) for one in rows.skipped] == [("a/caf\\xe9.png", "its name is not UTF-8; rename it")]
    assert rows.statistics["broken"] == 1


def test_links_to_classes_are_followed_and_circles_are_not(tmp_path):
    folder(tmp_path / "real", {"a": 4, "b": 4})
    root = tmp_path / "links"
    root.mkdir()
    for name in ("a", "b"):
        (root / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "a" / "up").symlink_to(root)
    (tmp_path / "real" / "a" / "again").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "real" / "a" / "itself").symlink_to("itself")
    (root / "me").symlink_to(root)
    rows = prepared(root)
    assert len(rows) == 8
    assert {one.reason for one in rows.skipped} == {listing.CIRCLE}
    assert {one.file for one in rows.skipped} >= {"me", "a/up", "a/again"}


def test_a_fan_of_links_is_read_once(tmp_path):
    folder(tmp_path / "data", {"a": 3, "b": 3})
    for depth in range(12):
        here = tmp_path / "data" / "a" / f"d{depth}"
        here.mkdir()
        for name in ("left", "right"):
            (here / name).symlink_to(tmp_path / "data" / "a" / f"d{depth + 1}")
    (tmp_path / "data" / "a" / "d12").mkdir()
    assert len(prepared(tmp_path / "data")) == 6


# --- headers are remembered ----------------------------------------------------------------------------------------


def test_headers_are_looked_at_once_and_again_when_a_file_changes(tmp_path, cache, monkeypatch):
    root = folder(tmp_path / "data", {"a": 10, "b": 10})
    monkeypatch.setattr(headers, "_WORTH_KEEPING", 1)
    before = prepared(root)
    looked = []
    real = headers._look
    monkeypatch.setattr(headers, "_look", lambda path: looked.append(path) or real(path))
    assert prepared(root).hash == before.hash
    assert looked == []
    image(root / "a" / "003.png", 999)
    os.utime(root / "a" / "003.png", (1, 1))
    image(root / "b" / "new.png")
    after = prepared(root)
    assert sorted(Path(path).name for path in looked) == ["003.png", "new.png"]
    assert after.hash != before.hash
    assert len(list((cache / "headers").iterdir())) == 1


def test_a_cache_that_cannot_be_used_is_a_note_and_no_error(tmp_path, monkeypatch):
    root = folder(tmp_path / "data", {"a": 10, "b": 10})
    monkeypatch.setattr(headers, "_WORTH_KEEPING", 1)
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "a file"))
    notes = prepared(root).statistics["notes"]
    assert "the cache of file headers cannot be written" in notes[0]
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "good"))
    prepared(root)
    next((tmp_path / "good" / "headers").iterdir()).write_bytes(b"no parquet")
    assert "could not be read" in prepared(root).statistics["notes"][0]


def test_the_cache_lies_in_the_users_cache_folder_unless_named_or_read_only(tmp_path, monkeypatch):
    monkeypatch.delenv("INSTAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "some where"))
    assert headers.cache_folder() == tmp_path / "some where" / "instar"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "it's me"))
    assert headers.cache_folder() == tmp_path / "it's me" / ".cache" / "instar"
    monkeypatch.setenv("HOME", "/proc/1")  # where nobody may write, not even root
    monkeypatch.setattr(headers.os, "access", lambda path, mode: not str(path).startswith("/proc"))
    assert headers.cache_folder() == Path(remote.tempfile.gettempdir()) / f"instar-{os.getuid()}"


def test_progress_is_told_up_to_the_end(tmp_path):
    told = []
    prepare.manifest(Data(root=folder(tmp_path, {"a": 3, "b": 3})), 0, progress=lambda *counts: told.append(counts))
    assert told[-1] == (6, 6)


def test_the_same_picture_in_two_splits_is_counted(tmp_path):
    for name in ("train", "test"):
        folder(tmp_path / name, {"a": 4, "b": 4})
    assert prepared(tmp_path, split={"val": 0.0}).statistics["duplicates"] == 16
