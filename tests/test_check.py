"""What is wrong with a data set is found, named and counted; nothing of it is changed; no file is read twice."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.fftpack import dct

from instar import check, cli, manifest, prepare
from instar.engine.scan import inspection, likeness, look
from instar.engine.scan.listing import of_folder
from instar.experiment import Data

NAMES = ["a b", "it's", '"q"', "new\nline", "<script>alert(1)", "$(x);", "-rf", "é", "‮left"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "a cache"))
    return tmp_path / "a cache"


def scene(number: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A picture with a pattern of its own."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def folder(root: Path, counts: dict[str, int]) -> Path:
    """A folder of class folders with so many different scenes each."""
    number = 0
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for one in range(count):
            scene(number := number + 1).save(root / label / f"{one:03d}.png")
    return root


def checked(root: Path, *, workers: int | None = 1, **settings) -> check.Findings:
    data = Data.model_validate({"root": root, **settings})
    found, rare = prepare.listed(data, 0)
    whatever = data.model_copy(update={"max_bad": 1.0})
    return check.check(found, lambda heads: prepare.of_listing(found, heads, whatever, 0, rare=rare), workers=workers)


def names(findings: check.Findings, same: check.Same) -> list[str]:
    return [findings.name(row) for row in same.rows]


# --- copies, look-alikes, leaks --------------------------------------------------------------------------------------


def test_copies_are_found_under_other_names_labels_and_splits(tmp_path):
    for split, counts in (("train", {"a": 6, "b": 6}), ("test", {"a": 2, "b": 2})):
        folder(tmp_path / split, counts)
    for source, target in (
        ("train/a/000", "train/a/copy"),
        ("train/a/001", "train/b/copy"),
        ("train/a/005", "test/a/x"),
    ):
        (tmp_path / f"{target}.png").write_bytes((tmp_path / f"{source}.png").read_bytes())
    for path in (tmp_path / "test").rglob("00*.png"):
        scene(10**6 + zlib.crc32(str(path.relative_to(tmp_path)).encode())).save(path)
    found = checked(tmp_path, split={"val": 0.0})
    assert [names(found, same) for same in found.copies] == [
        ["train/a/001.png", "train/b/copy.png"],
        ["test/a/x.png", "train/a/005.png"],
        ["train/a/000.png", "train/a/copy.png"],
    ]
    assert [(same.labels, same.splits) for same in found.copies] == [
        (("a", "b"), ("train",)),
        (("a",), ("train", "test")),
        (("a",), ("train",)),
    ]
    assert found.alike == ()
    assert dict(check.quarantine(found)) == {
        "train/a/001.png": "the same picture under 2 labels: a, b",
        "train/b/copy.png": "the same picture under 2 labels: a, b",
        "train/a/005.png": "a copy of test/a/x.png",
        "train/a/copy.png": "a copy of train/a/000.png",
    }


def test_pictures_saved_again_scaled_brightened_or_turned_by_a_tag_look_alike_and_others_do_not(tmp_path):
    root = folder(tmp_path / "data", {"a": 40, "b": 40})
    original = Image.open(root / "a" / "003.png")
    original.save(root / "a" / "again.jpg", quality=60)
    original.resize((200, 130)).save(root / "b" / "scaled.png")
    original.point(lambda level: min(255, int(level * 1.1) + 5)).save(root / "b" / "brighter.png")
    turned = original.transpose(Image.Transpose.ROTATE_90)
    tag = Image.Exif()
    tag[0x0112] = 6
    turned.save(root / "a" / "turned.jpg", quality=95, exif=tag)
    found = checked(root)
    alike = {name for same in found.alike for name in names(found, same)}
    assert alike == {"a/003.png", "a/again.jpg", "b/scaled.png", "b/brighter.png", "a/turned.jpg"}
    assert found.alike[0].labels == ("a", "b")
    assert all(same.leaks == (len(same.labels) > 1 or len(same.splits) > 1) for same in found.alike)


def test_empty_pictures_are_like_nothing(tmp_path):
    for number in range(8):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (20, 20), 30 * number).save(path)
    assert checked(tmp_path).alike == ()


@pytest.mark.parametrize("seed", range(5))
def test_the_likeness_is_the_dct_hash_as_scipy_gives_it(seed):
    grey = scene(seed).convert("L")
    value_HW = np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS), float)
    low_KK = dct(dct(value_HW, axis=0), axis=1)[:8, :8]
    theirs = "".join("01"[int(bit)] for bit in (low_KK > np.median(low_KK)).ravel())
    assert f"{likeness.likeness(grey):064b}" == theirs


@pytest.mark.parametrize("most", [0, 2, 3, 4, 6, 7])
def test_the_banded_look_up_finds_what_comparing_every_pair_finds(most):
    random = np.random.default_rng(most)
    hash_N = random.integers(1, 2**64, 300, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in random.choice(64, count, replace=False)) for count in range(1, 10)]
    near = [int(hash_N[place]) ^ flip for place, flip in enumerate(flips)]
    hash_N = np.concatenate([hash_N, np.array([*near, near[0], near[0], 0, 0], np.uint64)])
    first, second, differ, whole = likeness.pairs(hash_N, most)
    plain = [int(value) for value in hash_N]
    expected = [
        (a, b, (plain[a] ^ plain[b]).bit_count())
        for a in range(len(plain))
        for b in range(a + 1, len(plain))
        if plain[a] and plain[b] and (plain[a] ^ plain[b]).bit_count() <= most
    ]
    assert list(zip(first.tolist(), second.tolist(), differ.tolist(), strict=True)) == expected
    assert whole


def test_a_film_of_one_scene_does_not_take_for_ever():
    begun = time.monotonic()
    first, _, _, whole = likeness.pairs(np.full(100_000, 12345, np.uint64), 6)
    assert time.monotonic() - begun < 5
    assert len(first) > 1000
    assert not whole


def test_a_group_in_two_splits_is_named(tmp_path):
    folder(tmp_path / "photos", {"a": 4, "b": 4})
    lines = [f"{'ab'[n // 4]}/{n % 4:03d}.png,{'ab'[n // 4]},g{n % 4},{('train', 'test')[n > 4]}" for n in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,group,split", *lines]))
    found = checked(tmp_path / "photos", table=tmp_path / "t.csv", split={"val": 0.0})
    assert found.torn == (("g1", ("train", "test")), ("g2", ("train", "test")), ("g3", ("train", "test")))


def test_a_manifest_is_checked_in_its_own_splits_and_of_pairs_both_files_are_looked_at(tmp_path):
    root = folder(tmp_path / "data", {"a": 12, "b": 12})
    prepare.prepare(Data(root=root, split={"method": "keyed"}), 0, tmp_path / "m.parquet")
    kept = dict(
        zip(*(manifest.read(tmp_path / "m.parquet").table[name].to_pylist() for name in ("id", "split")), strict=True)
    )
    scene(77).save(root / "a" / "more.png")
    found = checked(root, manifest=tmp_path / "m.parquet")
    assert dict(zip(found.found.files, found.split_N, strict=True)) == kept
    for number in range(6):
        (root / "pairs" / "n").mkdir(parents=True, exist_ok=True)
        (root / "pairs" / "n" / f"{number}.txt").write_text(f"00{number}.png\n{number}.csv")
        (root / "b" / f"{number}.csv").write_text("" if number == 2 else f"{number}")
    found = checked(root, pairs={"first": "a", "second": "b"})
    assert [tuple(one) for one in found.broken] == [("a/002.png", "its second file: empty file, 0 bytes")]
    assert check.quarantine(found) == [("pairs/n/2", "its second file: empty file, 0 bytes")]


# --- values ----------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_all_pixels_together_with_any_number_of_processes(tmp_path, monkeypatch):
    root = folder(tmp_path / "data", {"a": 9, "b": 8})
    for number in range(3):
        scene(number, (31, 77)).convert("L").save(root / "a" / f"grey {number}.png")
    monkeypatch.setattr(inspection, "_ALONE", 1)
    monkeypatch.setattr(inspection, "_AT_ONCE", 3)
    files = of_folder(root).files
    many = inspection.inspect(root, files, workers=2)
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "another"))
    one = inspection.inspect(root, files[::-1], workers=1)
    assert inspection.channels(many.table) == inspection.channels(one.table)
    pixels_MC = np.concatenate(
        [np.asarray(Image.open(root / file)).reshape(-1, 3) for file in files if "grey" not in file]
    ).astype(float)
    for at, channel in enumerate(inspection.channels(many.table)[:3]):
        assert (channel.kind, channel.images, channel.values) == ("RGB", 17, len(pixels_MC))
        assert channel.mean == pytest.approx(pixels_MC[:, at].mean(), rel=1e-13)
        assert channel.std == pytest.approx(pixels_MC[:, at].std(), rel=1e-12)
        assert (channel.low, channel.high) == (pixels_MC[:, at].min(), pixels_MC[:, at].max())
    assert [one.kind for one in inspection.channels(many.table)] == ["RGB"] * 3 + ["L"]


def test_values_that_are_no_number_are_counted_and_left_out(tmp_path):
    random = np.random.default_rng(0)
    values_NHW = random.normal(300, 2, (4, 12, 10)).astype(np.float32)
    values_NHW[0, :3] = np.nan
    values_NHW[1, 0, 0] = np.inf
    values_NHW[3] = np.nan
    for number, value_HW in enumerate(values_NHW):
        Image.fromarray(value_HW).save(tmp_path / f"{number}.tif")
    found = inspection.channels(inspection.inspect(tmp_path, [f"{n}.tif" for n in range(4)]).table)[0]
    finite = values_NHW[np.isfinite(values_NHW)].astype(float)
    assert (found.kind, found.images, found.values, found.none) == ("F", 4, len(finite), 151)
    assert found.mean == pytest.approx(finite.mean(), rel=1e-12)
    assert found.std == pytest.approx(finite.std(), rel=1e-9)
    assert (found.low, found.high) == (finite.min(), finite.max())


def test_sixteen_bits_are_kept(tmp_path):
    value_HW = np.random.default_rng(0).integers(0, 65536, (30, 40)).astype(np.uint16)
    Image.fromarray(value_HW).save(tmp_path / "deep.png")
    (found,) = inspection.channels(inspection.inspect(tmp_path, ["deep.png"]).table)
    assert (found.kind, found.low, found.high) == ("I;16", value_HW.min(), value_HW.max())
    assert found.mean == pytest.approx(value_HW.mean(), rel=1e-13)
    assert found.std == pytest.approx(value_HW.std(), rel=1e-12)


# --- what cannot be read ---------------------------------------------------------------------------------------------


def test_what_is_broken_or_gone_is_named_and_the_rest_is_looked_at(tmp_path):
    root = folder(tmp_path / "data", {"a": 12, "b": 12})
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(root / "a" / "torn.png")
    whole = (root / "a" / "torn.png").read_bytes()
    (root / "a" / "torn.png").write_bytes(whole[:5000] + bytes(2000) + whole[7000:])  # its ends are as they should be
    (root / "a" / "empty.jpg").touch()
    (root / "a" / "text.png").write_text("no picture")
    (root / "b" / "gone.png").symlink_to("nowhere")
    (root / "b" / "itself.png").symlink_to("itself.png")
    os.mkfifo(root / "b" / "pipe.png")
    (root / "b" / "round").symlink_to(root)
    found = checked(root)
    reasons = dict(found.broken)
    assert reasons["a/empty.jpg"] == "empty file, 0 bytes"
    assert "not an image" in reasons["a/text.png"]
    assert "cannot be decoded" in reasons["a/torn.png"]
    assert reasons["b/gone.png"] == "no such file"
    assert reasons["b/itself.png"] == "a symbolic link that leads to itself"
    assert reasons["b/pipe.png"] == "not a regular file"
    assert "symbolic link" in reasons["b/round"]
    assert check.facts(found)["images"] == 24
    assert found.count == len(found.broken) == 7


def test_data_that_training_would_refuse_are_looked_at_all_the_same(tmp_path):
    found = checked(folder(tmp_path / "data", {"only": 4}))
    assert "only one class, 'only'" in found.refusal
    assert found.manifest is None
    facts = check.facts(found)
    assert (facts["images"], facts["splits"], facts["findings"]) == (4, {}, 1)


def deadly(root: str, files: list[str], *, patience: float) -> inspection.Rows:
    if "a/003.png" in files:
        os.kill(os.getpid(), signal.SIGKILL)
    return [look.look(root, file) for file in files]


def test_a_file_that_ends_the_process_that_reads_it_is_named(tmp_path, monkeypatch):
    root = folder(tmp_path / "data", {"a": 6, "b": 6})
    monkeypatch.setattr(inspection, "look_at", deadly)
    monkeypatch.setattr(inspection, "_ALONE", 1)
    monkeypatch.setattr(inspection, "_AT_ONCE", 6)
    found = inspection.inspect(root, of_folder(root).files, workers=2)
    assert [reason for reason in found.table["reason"].to_pylist() if reason] == [inspection.ENDED]
    assert found.table["file"][3].as_py() == "a/003.png"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_does_not_come_is_named_and_the_others_are_looked_at(tmp_path, monkeypatch, workers):
    root = folder(tmp_path / "data", {"a": 6, "b": 6})
    monkeypatch.setattr(inspection, "_ALONE", 1)
    monkeypatch.setattr(inspection, "_AT_ONCE", 6)
    monkeypatch.setattr(inspection, "look_at", stuck)
    began = time.monotonic()
    found = inspection.inspect(root, of_folder(root).files, workers=workers, patience=0.4)
    assert time.monotonic() - began < 60
    reason = "reading it takes more than 0.4 s"
    assert found.table["reason"].to_pylist() == [reason if row in (3, 4, 11) else "" for row in range(12)]
    monkeypatch.undo()
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    again = inspection.inspect(root, of_folder(root).files, workers=1)
    assert again.table["reason"].to_pylist() == [""] * 12


def stuck(root: str, files: list[str], *, patience: float) -> inspection.Rows:
    """Three files are on a mount that hangs; those who look at them wait for ever."""
    real = look.look

    def hangs(folder: str, file: str) -> dict:
        if file in ("a/003.png", "a/004.png", "b/005.png"):
            threading.Event().wait()
        return real(folder, file)

    with pytest.MonkeyPatch.context() as only:
        only.setattr(look, "look", hangs)
        return LOOK_AT(root, files, patience=patience)


LOOK_AT = inspection.look_at


def test_a_slow_folder_is_no_hanging_file(tmp_path, monkeypatch):
    root = folder(tmp_path / "data", {"a": 4, "b": 4})
    real = look.look
    monkeypatch.setattr(look, "look", lambda *one: time.sleep(0.15) or real(*one))
    found = inspection.inspect(root, of_folder(root).files, workers=1, patience=0.6)
    assert set(found.table["reason"].to_pylist()) == {""}


def test_the_command_names_what_does_not_come(tmp_path, monkeypatch, capsys):
    root = folder(tmp_path / "it's data", {"a": 6, "b": 6})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inspection, "look_at", stuck)
    assert cli.main(["check", str(root), "timeout=0.4 s"]) == 0
    told = capsys.readouterr().out
    assert "broken   3 files\n         a/003.png: reading it takes more than 0.4 s\n" in told


# --- no file is read twice -------------------------------------------------------------------------------------------


def test_a_second_check_opens_only_what_changed(tmp_path, monkeypatch):
    root = folder(tmp_path / "data", {"a": 6, "b": 6})
    first = checked(root)
    assert first.looked.new == 12
    opened = []
    real = look.look
    monkeypatch.setattr(look, "look", lambda folder, file: opened.append(file) or real(folder, file))
    again = checked(root)
    assert opened == []
    assert again.looked.table.equals(first.looked.table)
    os.utime(root / "a" / "003.png", (1, 1))
    scene(99).save(root / "b" / "new.png")
    (root / "b" / "001.png").unlink()
    assert checked(root).looked.new == 2
    assert opened == ["a/003.png", "b/new.png"]


def test_a_check_that_was_killed_carries_on_where_its_last_piece_ends(tmp_path):
    root = folder(tmp_path / "data", {"a": 30, "b": 30})
    script = f"""
        from pathlib import Path
        from instar.engine import faults
        from instar.engine.scan import inspection, listing, remembered
        faults.arm("check.chunk:5:kill")
        inspection._AT_ONCE = remembered._KEEP_FILES = 10
        root = Path({str(root)!r})
        inspection.inspect(root, listing.of_folder(root).files, workers=1)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert ended.returncode == -signal.SIGKILL
    found = checked(root)
    assert found.looked.new == 20  # the fifth piece was not written yet
    assert check.facts(found)["images"] == 60


def test_a_cache_that_cannot_be_used_is_a_note(tmp_path, monkeypatch, cache):
    root = folder(tmp_path / "data", {"a": 6, "b": 6})
    checked(root)
    next((cache / "inspections").rglob("*.parquet")).write_bytes(b"no parquet")
    assert "could not be read" in check.notes(checked(root))[0]
    (tmp_path / "file").touch()
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "file"))
    assert "INSTAR_CACHE" in check.notes(checked(root))[0]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = folder(tmp_path / "it's <b>data", {name: 3 for name in NAMES})
    (root / "it's" / "copy of $(x).png").write_bytes((root / "a b" / "001.png").read_bytes())
    (root / "-rf" / "bad.png").write_bytes(b"x")
    return root


def test_the_command_says_what_it_found_and_writes_a_page_and_a_list(hostile, capsys):
    assert cli.main(["check", str(hostile), "quarantine=leave out.csv", "data.max_bad=0"]) == 0
    told = capsys.readouterr().out
    assert "data     28 images, 9 classes, median 96x64, imbalance 1.33x" in told
    assert "broken   1 file\n         -rf/bad.png: not an image" in told
    assert "copies   1 set of identical files, 1 under two labels" in told
    assert "list     3 lines in leave out.csv" in told
    assert "next     instar prepare" in told
    page = Path("it's <b>data-data.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "new\\nline" in page
    assert cli.main(["prepare", str(hostile), "data.exclude=leave out.csv"]) == 0
    assert "26 images, 9 classes" in capsys.readouterr().out


def test_json_holds_everything_and_strict_leaves_with_65(hostile, capsys):
    assert cli.main(["check", str(hostile), "--json", "--strict", "page=p.html", "workers=1"]) == 65
    facts = json.loads(capsys.readouterr().out)
    assert facts["page"] == "p.html"
    assert facts["broken"][0]["file"] == "-rf/bad.png"
    assert {row["label"] for row in facts["copies"][0]["rows"]} == {"a b", "it's"}
    assert facts["channels"][0]["kind"] == "RGB"
    assert sum(facts["splits"].values()) == 28
    clean = folder(Path("clean"), {"a": 10, "b": 10})
    assert cli.main(["check", str(clean), "--strict", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_a_page_of_somebody_elses_is_not_written_over(hostile, capsys):
    Path("mine.html").write_text("<p>mine</p>")
    assert cli.main(["check", str(hostile), "page=mine.html"]) == 65
    assert "is there and is no page of Instar" in capsys.readouterr().err
    assert cli.main(["check", str(hostile), "page=no/where.html"]) == 65
    assert Path("mine.html").read_text() == "<p>mine</p>"


def test_nothing_of_the_data_is_changed_and_nothing_lies_beside_it(hostile):
    def state():
        return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in hostile.rglob("*")}

    before = state()
    cli.main(["check", str(hostile), "--quiet"])
    assert state() == before


@pytest.mark.scenario  # two processes that import everything, and the patience to see them end
def test_workers_end_with_the_process_they_work_for(tmp_path):
    root = folder(tmp_path / "data", {"a": 30, "b": 30})
    script = f"""
        import multiprocessing, os, signal, sys
        from pathlib import Path
        from instar.engine.scan import inspection, listing
        def stop(done):
            if done:
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        if __name__ == "__main__":
            inspection._ALONE, inspection._AT_ONCE = 1, 5
            root = Path({str(root)!r})
            inspection.inspect(root, listing.of_folder(root).files, workers=2, progress=stop)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True) as ended:
        told = ended.stdout.readline()
    children = [int(pid) for pid in told.split()]
    assert len(children) == 2
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() and "Z" not in state_of(pid) for pid in children):
            return
        time.sleep(0.1)
    raise AssertionError("they live on")


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
