"""Manifests that trainings share: a split stays, a change of the data is named, and lists take the place of moving."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instar import cli, manifest, prepare
from instar.engine.scan import contents, pairs, split
from instar.errors import ConfigError, DataError
from instar.experiment import Data, load
from instar.manifest import Manifest
from tests.fakes.training import train

SHARES = (0.72, 0.18, 0.1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "a cache"))


def image(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade % 256, shade // 256, 9)).save(path)
    return path


def folder(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    for label, count in counts.items():
        for one in range(count):
            image(root / label / f"{one:03d}.png", start := start + 1)
    return root


def prepared(root: Path, to: Path, *, accept: bool = False, checksum: bool = False, seed: int = 0, **settings):
    return prepare.prepare(Data.model_validate({"root": root, **settings}), seed, to, accept=accept, checksum=checksum)


def splits(rows: Manifest) -> dict[str, str]:
    return dict(zip(rows.ids, rows.table["split"].to_pylist(), strict=True))


# --- keyed splits ----------------------------------------------------------------------------------------------------


def keyed(target_N, key_N, **options):
    return split.keyed(np.asarray(target_N), np.asarray(key_N, np.uint64), SHARES, seed=3, **options)


def made(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return (30 * random.random(num) ** 3).astype(np.int64), random.integers(1, 2**64, num, dtype=np.uint64)


def test_a_keyed_split_has_its_shares_in_every_class():
    target_N, key_N = made(20_000)
    split_N = keyed(target_N, key_N)
    counts_K = np.bincount(target_N)
    for number, share in ((split.TEST, 0.1), (split.VAL, 0.18), (split.TRAIN, 0.72)):
        assert np.abs(np.bincount(target_N[split_N == number], minlength=30) - share * counts_K).max() <= 1


def test_added_files_move_only_rows_at_the_boundaries_of_their_class():
    target_N, key_N = made(20_000)
    before_N = keyed(target_N, key_N)
    more_target, more_key = np.full(50, 4), made(50, seed=1)[1]
    place = np.random.default_rng(2).permutation(20_050)
    after_N = keyed(np.concatenate([target_N, more_target])[place], np.concatenate([key_N, more_key])[place])
    moved = np.flatnonzero(after_N[np.argsort(place)][:20_000] != before_N)
    assert set(target_N[moved]) <= {4}
    assert len(moved) <= 2 * 50
    one_N = keyed(np.append(target_N, 4), np.append(key_N, more_key[0]))
    assert (one_N[:-1] != before_N).sum() <= 2  # one at each boundary


def test_removed_files_move_only_rows_at_the_boundaries_of_their_class():
    target_N, key_N = made(20_000)
    kept = np.delete(np.arange(20_000), np.flatnonzero(target_N == 7)[:20])
    moved = np.flatnonzero(keyed(target_N[kept], key_N[kept]) != keyed(target_N, key_N)[kept])
    assert set(target_N[kept][moved]) <= {7}
    assert len(moved) <= 40


def test_copies_are_never_divided_and_seeds_divide_differently():
    target_N, key_N = made(4000)
    key_N[::2] = key_N[1::2]
    target_N[::2] = target_N[1::2]
    split_N = keyed(target_N, key_N)
    assert np.array_equal(split_N[::2], split_N[1::2])
    assert (split.keyed(target_N, key_N, SHARES, seed=4) != split_N).mean() > 0.2


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_small_classes_are_trained_on_first_and_then_in_every_split(count):
    split_N = keyed(
        [0] * count + [1] * 200, np.random.default_rng(count).integers(1, 2**64, count + 200, dtype=np.uint64)
    )
    names = {1: {split.TRAIN}, 2: {split.TRAIN, split.TEST}}.get(count, {split.TRAIN, split.VAL, split.TEST})
    assert set(split_N[:count].tolist()) == names
    assert set(keyed([0] * 5 + [1] * 5, [7] * 5 + list(range(5)))[:5].tolist()) == {
        split.TRAIN
    }  # one picture, five times


def test_keyed_groups_stay_whole_and_new_groups_move_few_others():
    random = np.random.default_rng(0)
    group_N = random.integers(0, 300, 6000)
    target_N = (group_N % 3 + (random.random(6000) < 0.1)).astype(np.int64)
    key_G = random.integers(1, 2**64, 310, dtype=np.uint64)
    split_N = split.keyed_by_group(target_N, group_N, key_G[:300], SHARES, seed=1)
    assert all(len(set(split_N[group_N == group])) == 1 for group in range(300))
    assert np.bincount(split_N) / 6000 == pytest.approx(SHARES, abs=0.03)
    more_group = np.concatenate([group_N, np.repeat(np.arange(300, 310), 20)])
    after_N = split.keyed_by_group(np.append(target_N, [0] * 200), more_group, key_G, SHARES, seed=1)
    moved = set(group_N[after_N[:6000] != split_N])
    assert len(moved) <= 12
    assert {group % 3 for group in moved} <= {0}


def test_a_recipe_can_ask_for_a_keyed_split_by_content_or_by_name(tmp_path):
    root = folder(tmp_path / "data", {"a": 40, "b": 40})
    by_content = splits(prepare.manifest(Data(root=root, split={"method": "keyed"}), 0))
    by_name = splits(prepare.manifest(Data(root=root, split={"method": "keyed", "key": "id"}), 0))
    (root / "a" / "000.png").rename(root / "a" / "new name.png")
    renamed = splits(prepare.manifest(Data(root=root, split={"method": "keyed"}), 0))
    assert renamed.pop("a/new name.png") == by_content.pop("a/000.png")
    assert renamed == by_content
    assert by_name != by_content


# --- frozen ----------------------------------------------------------------------------------------------------------


def test_a_manifest_is_written_once_and_then_found_the_same(tmp_path):
    root, to = folder(tmp_path / "it's data", {"a": 20, "b": 20}), tmp_path / "m.parquet"
    first = prepared(root, to)
    assert (first.state, prepared(root, to).state) == ("new", "same")
    assert manifest.read(to).hash == first.manifest.hash


@pytest.mark.parametrize("method", ["shuffle", "keyed"])
def test_a_change_of_the_data_is_refused_by_name_and_accepted_without_moving_anybody(tmp_path, method):
    root, to = folder(tmp_path / "data", {"a": 20, "b": 20}), tmp_path / "m.parquet"
    before = splits(prepared(root, to, split={"method": method}).manifest)
    folder(root, {"new class": 10}, start=1000)
    (root / "a" / "003.png").rename(root / "a" / "other $(name).png")
    (root / "b" / "004.png").unlink()
    image(root / "b" / "005.png", 5000)
    with pytest.raises(DataError) as refused:
        prepared(root, to, split={"method": method})
    for line in (
        "10 new: 'new class/000.png'",
        "1 gone: 'b/004.png'",
        "1 under another name: 'a/other $(name).png'",
        "'b/005.png'",
    ):
        assert line in str(refused.value)
    assert splits(manifest.read(to)) == before
    grown = prepared(root, to, accept=True, split={"method": method})
    after = splits(grown.manifest)
    assert after.pop("a/other $(name).png") == before.pop("a/003.png")
    assert before.pop("b/004.png")
    assert {name: after[name] for name in before} == before
    assert grown.manifest.statistics["splits"] == {name: list(splits(grown.manifest).values()).count(name) for name in
                                                   ("train", "val", "test")}  # fmt: skip
    assert prepared(root, to, split={"method": method}).state == "same"


def test_other_shares_or_seeds_move_nobody_who_has_a_split(tmp_path):
    root, to = folder(tmp_path / "data", {"a": 20, "b": 20}), tmp_path / "m.parquet"
    before = splits(prepared(root, to).manifest)
    assert splits(prepared(root, to, seed=5, split={"test": 0.3}).manifest) == before
    image(root / "a" / "x.png", 999)
    with pytest.raises(DataError, match=r"divides differently \(seed 0 -> 5, test 0.1 -> 0.3\)"):
        prepared(root, to, seed=5, split={"test": 0.3})


def test_a_new_row_of_a_known_group_goes_to_its_split(tmp_path):
    root, to = folder(tmp_path / "data", {"a": 20, "b": 20}), tmp_path / "m.parquet"
    lines = [f"{label}/{n:03d}.png,{label},{label}{n // 2}" for label in "ab" for n in range(18)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,label,group", *lines]))
    before = prepared(root, to, table=table).manifest
    table.write_text("\n".join(["path,label,group", *lines, "a/018.png,a,a3", "b/018.png,b,b5"]))
    after = splits(prepared(root, to, table=table, accept=True).manifest)
    assert after["a/018.png"] == splits(before)["a/006.png"]
    assert after["b/018.png"] == splits(before)["b/010.png"]


def test_checksums_are_those_of_the_files_and_are_kept_from_then_on(tmp_path):
    import xxhash

    root, to = folder(tmp_path / "data", {"a": 5, "b": 5}), tmp_path / "m.parquet"
    rows = prepared(root, to, checksum=True).manifest
    assert rows.table["checksum"].to_pylist() == [
        xxhash.xxh3_128_hexdigest(rows.path(row).read_bytes()) for row in range(10)
    ]
    assert prepared(root, to).state == "same"
    os.utime(root / "a" / "001.png", (1, 1))
    assert contents.checksums(root, list(rows.ids)) == rows.table["checksum"].to_pylist()
    (root / "a" / "001.png").unlink()
    with pytest.raises(DataError, match=r"a/001\.png: cannot be read"):
        contents.checksums(root, list(rows.ids))


# --- lists of what is left out ---------------------------------------------------------------------------------------


def test_lists_leave_out_ids_paths_and_hashes_and_say_what_named_nothing(tmp_path):
    root = folder(tmp_path / "data", {"a": 20, "b": 20})
    image(root / "b" / "new\nline.png", 777)
    hashed = contents.checksums(root, ["a/002.png"])[0]
    text = tmp_path / "list.txt"
    text.write_text(f"# a remark\na/001.png\n{root}/b/003.png\n./b/004.png\n{hashed}\nnot/there.png\n")
    rows = prepare.manifest(Data(root=root, exclude=text), 0)
    gone = {"a/001.png", "a/002.png", "b/003.png", "b/004.png"}
    assert len(rows) == 37
    assert gone.isdisjoint(rows.ids)
    assert rows.statistics["excluded"] == 4
    assert "1 lines of list.txt name nothing here: 'not/there.png'" in rows.statistics["notes"]
    table = tmp_path / "list.csv"
    table.write_text('reason,id\nx,"b/new\nline.png"\nx,a/001.png\n')
    assert len(prepare.manifest(Data(root=root, exclude=table), 0)) == 39
    table.write_text("why,what\n1,2\n")
    with pytest.raises(DataError, match="none of its columns is called id, path, hash; it has 'why', 'what'"):
        prepare.manifest(Data(root=root, exclude=table), 0)
    with pytest.raises(DataError, match="this list cannot be read"):
        prepare.manifest(Data(root=root, exclude=tmp_path / "gone"), 0)


def test_small_classes_are_counted_after_what_is_left_out(tmp_path):
    root = folder(tmp_path / "data", {"a": 10, "b": 10, "c": 5})
    (tmp_path / "l").write_text("c/000.png\n")
    rows = prepare.manifest(Data(root=root, exclude=tmp_path / "l", min_per_class=5), 0)
    assert rows.statistics["left_out"] == {"c": 4}


# --- tables and pairs ------------------------------------------------------------------------------------------------


def test_a_column_of_any_name_says_the_split(tmp_path):
    root = folder(tmp_path / "data", {"a": 4, "b": 4})
    lines = [
        f"{label}/{n:03d}.png,{label},{'Train test valid train'.split()[n]},later" for label in "ab" for n in range(4)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,fold,split", *lines]))
    rows = prepare.manifest(Data(root=root, table=tmp_path / "t.csv", columns={"split": "fold"}), 0)
    assert splits(rows)["a/001.png"] == "test"
    assert rows.statistics["splits"] == {"train": 4, "val": 2, "test": 2}
    with pytest.raises(DataError, match="the column 'split' holds 'later'"):
        prepare.manifest(Data(root=root, table=tmp_path / "t.csv"), 0)


@pytest.fixture
def camera(tmp_path) -> Path:
    """A folder as Sage cameras leave it: rgb/, thermal/, and pairs/NODE/*.txt of two names each."""
    root = tmp_path / "it's sky"
    (root / "thermal").mkdir(parents=True)
    for number in range(24):
        image(root / "rgb" / f"rgb_{number:02d}_position{number % 8}.jpg", number)
        (root / "thermal" / f"{number:02d}_position{number % 8}.csv").write_text(f"sensor;right\n{number}")
        pair = root / "pairs" / f"W{number % 2}" / f"pair {number:02d}.txt"
        pair.parent.mkdir(parents=True, exist_ok=True)
        pair.write_text(f"rgb_{number:02d}_position{number % 8}.jpg\n{number:02d}_position{number % 8}.csv\n")
    return root


def test_pair_files_become_rows_of_two_files(camera):
    rows = prepare.manifest(Data(root=camera, pairs={}), 0)
    assert len(rows) == 24
    assert rows.classes == ("W0", "W1")
    assert rows.ids[0] == "pairs/W0/pair 00"
    assert rows.paths(0) == (camera / "rgb/rgb_00_position0.jpg", camera / "thermal/00_position0.csv")
    again = prepare.manifest(Data(root=camera, pairs={}), 0)
    assert again.hash == rows.hash
    (camera / "thermal" / "04_position4.csv").write_text("another value")
    assert prepare.manifest(Data(root=camera, pairs={}), 0).hash != rows.hash


def test_pairs_that_are_none_are_named_and_left_out(camera):
    wrong = {
        "W0/pair 00": ("rgb_00_position0.jpg\n01_position1.csv", pairs.APART),
        "W0/pair 02": ("rgb_02_position2.jpg", pairs.NO_PAIR),
        "W0/pair 04": ("../../etc/passwd\n04_position4.csv", "leads out of"),
        "W0/pair 06": ("rgb_06_position6.jpg\nnot there.csv", "its second file: no such file"),
        "W1/pair 01": ("not there.jpg\n01_position1.csv", "no such file"),
    }
    for name, (text, _) in wrong.items():
        (camera / "pairs" / f"{name}.txt").write_text(text)
    rows = prepare.manifest(Data(root=camera, pairs={}, max_bad=0.5), 0)
    assert len(rows) == 19
    reasons = [one.reason for one in rows.skipped]
    assert all(any(reason in found for found in reasons) for _, reason in wrong.values())
    assert any("in no pair" in note for note in rows.statistics["notes"])
    assert len(prepare.manifest(Data(root=camera, pairs={"agree": None}, max_bad=0.5), 0)) == 20


def test_folders_and_patterns_of_pairs_that_cannot_be_are_refused(camera):
    with pytest.raises(DataError, match=r"data\.pairs\.first: .*RGB is no folder"):
        prepare.manifest(Data(root=camera, pairs={"first": "RGB"}), 0)
    with pytest.raises(ConfigError, match="regular expression"):
        load({"data": {"root": str(camera), "pairs": {"agree": "("}}})
    with pytest.raises(ConfigError, match=r"pair files list the rows, so they cannot go with data\.table"):
        load({"data": {"root": str(camera), "pairs": {}, "table": "t.csv"}})


# --- training from a manifest ----------------------------------------------------------------------------------------


def test_a_training_takes_rows_and_splits_from_a_manifest(tmp_path):
    root, to = folder(tmp_path / "data", {"a": 20, "b": 20}), tmp_path / "m.parquet"
    rows = prepared(root, to, seed=9, split={"method": "keyed"}).manifest
    experiment = load(to)
    assert (experiment.data.root, experiment.data.manifest) == (root, to)
    assert prepare.manifest(experiment.data, 0).hash == rows.hash
    outcome = train(tmp_path, root=root, data__manifest=str(to), train__epochs=1)
    assert outcome.plan.manifest_hash == rows.hash
    image(root / "a" / "more.png", 99)  # what the manifest does not name is not there
    assert prepare.manifest(experiment.data, 0).hash == rows.hash


def test_files_that_are_not_what_the_manifest_says_are_named(tmp_path):
    root, to = folder(tmp_path / "data", {"a": 20, "b": 20}), tmp_path / "m.parquet"
    prepared(root, to)
    data = load(to).data
    (root / "a" / "001.png").unlink()
    assert prepare.manifest(data, 0).statistics["notes"] == ["1 files of m.parquet cannot be used: 'a/001.png'"]
    image(root / "b" / "002.png", 12345)
    with pytest.raises(DataError, match=r"1 of 40 files are not what they were: 'b/002.png'.*instar prepare"):
        prepare.manifest(data, 0)
    with pytest.raises(ConfigError, match="the manifest says which rows there are"):
        load(to, ["data.min_per_class=5"])
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x.parquet: is no manifest"):
        load(tmp_path / "x.parquet")


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_says_and_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = folder(tmp_path / "data", {"a": 20, "b": 20})
    assert cli.main(["prepare", str(root), "data.split.method=keyed"]) == 0
    told = capsys.readouterr().out
    assert "manifest manifest.parquet: written" in told
    assert "next     instar train manifest.parquet" in told
    cli.main(["prepare", str(root), "data.split.method=keyed"])
    assert "is there, and nothing changed" in capsys.readouterr().out
    image(root / "a" / "x y.png", 77)
    assert cli.main(["prepare", str(root), "data.split.method=keyed"]) == 65
    assert "1 new: 'a/x y.png'" in capsys.readouterr().err
    assert cli.main(["prepare", str(root), "data.split.method=keyed", "accept=true", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["state"], facts["images"], facts["changes"]["new"]) == ("grown", 41, ["a/x y.png"])
    for wrong in (["accept=yes"], ["to=x.csv"], ["data.split.methud=keyed"]):
        assert cli.main(["prepare", str(root), *wrong]) == 65
    assert "did you mean 'data.split.method'" in capsys.readouterr().err
