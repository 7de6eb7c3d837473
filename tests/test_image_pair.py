"""Pairs: Sage's files, two folders, two arrays of a file; what is no pair; and views that move together."""

import csv
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from instar import pack, packed, plugins, prepare
from instar.augment import Augment, Crops
from instar.engine.loading.loaders import keyed
from instar.errors import ConfigError, DataError
from instar.experiment import Data, load
from instar.readers import _crops, _halves, _thermal
from instar.readers._images import BadImage
from tests.fakes.sky import celsius, folder_of_pairs, table

reader = plugins.load("readers", "image_pair")
PLAIN = Augment(kind="none", size=28, resize=28)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sky(tmp_path):
    return folder_of_pairs(tmp_path / "it's $(a) sky")


def data_of(root, max_bad=0.05, **given):
    return Data.model_validate({"root": root, "reader": {"kind": "image_pair", **given}, "max_bad": max_bad})


def opened(root, augment=PLAIN, crops=None, **given):
    data = data_of(root, **given)
    rows = prepare.manifest(data, 0)
    return reader.open(data.reader, rows, augment, crops), rows


def reasons(rows):
    return {one.file: one.reason for one in rows.skipped}


# --- tables of temperatures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{:.2f}", "{:.0f}", "{:.1f}", "{:.3f}", "{:g}", "{:.2e}", " {:.2f} "])
@pytest.mark.parametrize("ends", [(10, 99), (-9.99, 9.99), (-99, 99), (-5, 400), (-0.5, 0.5)])
def test_temperatures_are_the_numbers_of_numpy_to_the_last_bit(form, ends, tmp_path):
    data = table(celsius(height=50, width=33, low=ends[0], high=ends[1]), form)
    (tmp_path / "t.csv").write_bytes(data)
    theirs = np.loadtxt(tmp_path / "t.csv", skiprows=8, delimiter=";").astype(np.float32)
    assert np.array_equal(_thermal.read(data), theirs)
    assert np.array_equal(_thermal.read(data.replace(b"\n", b"\r\n").rstrip()), theirs)
    assert _thermal.size(data) == (33, 50)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.replace(b"sensor;right", b"sensor,right"), "line 1 is 'sensor,right', not 'sensor;…'"),
        (lambda data: data.replace(b"width;9", b"width;nine"), "its header says nine x 6 values"),
        (lambda data: data.replace(b"degrees Celsius", b"kelvin"), "its unit is 'kelvin'"),
        (lambda data: data.replace(b"\n\n", b"\n"), "line 8 is not empty"),
        (lambda data: data.rpartition(b";")[0], "line 14 has 8 values, but its header says 9"),
        (lambda data: b"\n".join(data.split(b"\n")[:-3]), "it has 4 rows of values, but its header says 6"),
        (lambda data: _body(data, b";", b","), "line 9 has 1 values, .*the delimiter must be ;"),
        (lambda data: _first(data, b"nan"), "1 of its values are no numbers, the first 'nan' in line 9"),
        (lambda data: _first(data, b"1.2.3"), "the first '1.2.3' in line 9"),
        (lambda data: _first(data, b""), "the first '' in line 9"),
        (lambda data: _first(data, b"--1.23"), "the first '--1.23'"),
        (lambda data: _first(data, b"1 2.34"), "the first '1 2.34'"),
        (lambda data: _first(data, b"1e30"), "the first '1e30'"),
        (lambda data: b"\x00\xff" * 100, "no thermal table"),
        (lambda data: b"", "no thermal table"),
    ],
)
def test_a_table_that_is_wrong_is_named_with_the_line(change, said):
    with pytest.raises(BadImage, match=said):
        _thermal.read(change(table(celsius())))


def _body(data, old, new):
    head, body = data.split(b"\n\n")
    return head + b"\n\n" + body.replace(old, new)


def _first(data, value):
    head, body = data.split(b"\n\n")
    return head + b"\n\n" + value + body[body.index(b";") :]


def test_no_wrong_byte_makes_another_number_of_one():
    """Tables with one byte changed at random: the numbers of float(), or one that is none is named."""
    data, draw, named = table(celsius(low=-99, high=199)), np.random.default_rng(0), 0
    begin = data.index(b"\n\n") + 2
    for _ in range(400):
        changed = bytearray(data)
        changed[draw.integers(begin, len(data))] = draw.choice(list(b"0123456789.;-\n +e,x"))
        try:
            found = _thermal.read(bytes(changed))
        except BadImage:
            named += 1
            continue
        theirs = [float(text) for text in bytes(changed[begin:]).replace(b"\n", b";").split(b";") if text.strip()]
        assert np.array_equal(found.reshape(-1), np.array(theirs).astype(np.float32))
    assert 50 < named < 350


@pytest.mark.parametrize(("low", "times"), [(10, 12), (-99, 5)])
def test_numbers_are_read_many_times_as_fast_as_by_loadtxt(low, times, tmp_path):
    data = table(celsius(height=252, width=336, low=low, high=99))
    (tmp_path / "t.csv").write_bytes(data)

    def fastest(read, rounds):
        spent = []
        for _ in range(rounds):
            begun = time.process_time()
            read()
            spent.append(time.process_time() - begun)
        return min(spent)

    theirs = fastest(lambda: np.loadtxt(tmp_path / "t.csv", skiprows=8, delimiter=";"), 3)
    # 30 where all have one width and 9 where not, when nobody else works
    assert theirs / fastest(lambda: _thermal.read((tmp_path / "t.csv").read_bytes()), 20) > times


# --- which pairs there are -------------------------------------------------------------------------------------------


def test_the_files_of_a_sage_camera_become_pairs(sky):
    open_reader, rows = opened(sky, image={"part": "left"}, other={"size": 20})
    assert len(rows) == 24
    assert rows.classes == tuple(str(digit) for digit in range(10))
    sample = open_reader.read(3, None)
    assert sample["image"].shape == (28, 28, 3) and sample["image"].dtype == np.uint8
    assert sample["other"].shape == (20, 20, 1) and sample["other"].dtype == np.float32
    every = np.stack([open_reader.read(row, None)["other"] for row in range(len(rows))])
    assert abs(every.mean()) < 0.3 and 0.6 < every.std() < 1.4  # normalised by what was measured


def test_what_is_no_pair_is_listed_with_the_reason_and_not_moved(sky, tmp_path):
    names = sorted(path.name for path in (sky / "thermal").iterdir())
    texts = {path.relative_to(sky).as_posix(): path for path in sorted(sky.glob("pairs/*/*.txt"))}
    files = {name: path.read_text().split() for name, path in texts.items()}
    one, two, three, four, five, six = list(texts)[:6]
    texts[one].write_text(f"{files[one][0]}\n{files[one][1].replace('position', 'position9')}\n")
    texts[two].write_text(f"{files[two][0]}\n29990101-000000{files[two][1][15:]}\n")
    texts[three].write_text(f"{files[four][0]}\n{files[four][1]}\n")
    (sky / "thermal" / files[five][1]).write_text("sensor;left")
    (sky / "rgb" / files[six][0]).unlink()
    before = sorted(path.name for path in (sky / "thermal").iterdir())
    to = tmp_path / "rows.parquet"
    rows = prepare.prepare(data_of(sky, max_bad=0.1), 0, to).manifest
    said = reasons(rows)
    assert "the names of the two files disagree: position" in said[one]
    assert "the names of the two files disagree: " in said[two] and "29990101-000000" in said[two]
    assert any("the same two files as" in reason for reason in said.values())
    assert any("line 2 is '', not 'bit depth;…'" in reason for reason in said.values())
    assert any("no such file" in reason for reason in said.values())
    assert len(rows) == 19
    assert sorted(path.name for path in (sky / "thermal").iterdir()) == before == names
    with open(prepare.left_out_file(to), newline="") as file:
        listed = list(csv.reader(file))
    assert listed[0] == ["path", "reason"] and len(listed) == 1 + len(rows.skipped)


def test_two_folders_are_paired_by_what_their_names_say_alike(tmp_path):
    for number in range(12):
        for folder, name in (
            ("day", f"d_{number:04d}_nodeA{number % 2}.png"),
            ("night", f"n-{number:04d}-A{number % 2}.npy"),
        ):
            path = tmp_path / folder / name
            path.parent.mkdir(exist_ok=True)
            if name.endswith("png"):
                Image.new("L", (30, 20), number * 9).save(path)
            else:
                np.save(path, np.full((20, 30), float(number)))
    (tmp_path / "day" / "d_0050_nodeA0.png").write_bytes((tmp_path / "day" / "d_0000_nodeA0.png").read_bytes())
    (tmp_path / "day" / "d_0001_again_nodeA1.png").write_bytes((tmp_path / "day" / "d_0001_nodeA1.png").read_bytes())
    folders = {"image": {"folder": "day", "channels": 1}, "other": {"folder": "night"}}
    _, rows = opened(tmp_path, match=r"(\d{4}).*(?P<label>A\d)", **folders)
    assert len(rows) == 12 and rows.classes == ("A0", "A1")
    assert rows.paths(3) == (tmp_path / "day/d_0003_nodeA1.png", tmp_path / "night/n-0003-A1.npy")
    said = reasons(rows)
    assert "it has no partner in night/ that says 0050" in said["day/d_0050_nodeA0.png"]
    assert "another file says the same" in said["day/d_0001_nodeA1.png"]
    with pytest.raises(DataError, match="not one file of day/ has a partner in night/"):
        opened(tmp_path, **folders)
    with pytest.raises(DataError, match=r"no folder 'dusk' for data\.reader\.image\.folder\. Folders here: day, night"):
        opened(tmp_path, image={"folder": "dusk"}, other={"folder": "night"})


def test_two_arrays_of_a_file_are_a_pair_for_each_square(tmp_path):
    h5py = pytest.importorskip("h5py")
    made = np.random.default_rng(0).normal(5, 2, (2, 1, 40, 56)).astype(np.float32)
    with h5py.File(tmp_path / "it's a day.nc", "w") as file:
        file["IWV"], file["IVT"] = made
    halves = {"image": {"data": "IWV", "size": 16}, "other": {"data": "IVT", "size": 16}}
    open_reader, rows = opened(tmp_path, Augment(kind="none", size=16, resize=16), tile=16, **halves)
    assert len(rows) == 2 * 3
    row = list(rows.ids).index("it's a day.nc@16,32")
    sample = open_reader.read(row, None)
    assert sample["image"].shape == sample["other"].shape == (16, 16, 1)
    back = sample["image"][..., 0] * (sample["image"].std() ** -1) * made[0, 0, 16:32, 32:48].std()
    assert np.corrcoef(back.ravel(), made[0, 0, 16:32, 32:48].ravel())[0, 1] > 0.999
    with pytest.raises(DataError, match=r"no file with arrays 'IWV' and 'IXT'.*did you mean 'IVT'"):
        opened(tmp_path, image={"data": "IWV"}, other={"data": "IXT"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"match": "("}, "must be a regular expression"),
        ({"match": "abc"}, "must have groups"),
        ({"other": {"bounds": [20, 10]}}, r"bounds is \[20, 10\], but the lower one comes first"),
        ({"tile": 16}, "tile cuts arrays"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        load({"data": {"root": "x", "reader": {"kind": "image_pair", **given}}})


def test_the_reader_of_pairs_brings_its_task_and_the_task_its_reader():
    assert load({"data": {"root": "x", "reader": "image_pair"}}).task.kind == "vicreg"
    assert load({"data": {"root": "x"}, "task": "vicreg"}).data.reader.kind == "image_pair"
    one = load({"data": {"root": "x", "reader": "image_label"}, "task": {"kind": "vicreg", "branches": "image"}})
    assert one.data.reader.kind == "image_label"


# --- what a sample holds ---------------------------------------------------------------------------------------------


def test_bounds_part_temperatures_into_three_channels_that_share_no_pixel(sky):
    open_reader, _ = opened(sky, other={"bounds": [-10, 5]})
    other_HWC = open_reader.read(0, None)["other"]
    assert other_HWC.shape == (28, 28, 3)
    assert ((other_HWC > 0).sum(-1) == 1).all() and other_HWC.max() <= 1
    with pytest.raises(DataError, match=r"bounds is \[50, 60\], but what was measured goes from"):
        opened(sky, other={"bounds": [50, 60]})


def test_a_side_and_a_narrower_view_are_cut_before_all_else(tmp_path):
    half = reader.Half(part="left", zoom=1.1, aspect=4 / 3)
    found = _halves.region(6144, 2048, half)
    assert (found.left, found.top) == pytest.approx(((3072 - 2048 / 1.1 * 4 / 3) / 2, 2048 * (1 - 1 / 1.1) / 2))
    assert (found.width, found.height) == pytest.approx((2048 / 1.1 * 4 / 3, 2048 / 1.1))
    assert _halves.region(100, 50, reader.Half(part="right")) == _halves.Region(50, 0, 50, 50)


def test_both_halves_show_the_same_part_of_the_scene_whatever_their_sizes(tmp_path):
    """Where both hold the same picture at two sizes, their views are the same picture at two sizes."""
    across, down = np.meshgrid(np.arange(96), np.arange(96))
    scene = (across * 1.7 + 30 * np.sin(down / 13)).astype(np.float32)
    for number in range(10):
        for folder, side in (("a", 96), ("b", 48)):
            small = Image.fromarray(scene + number).resize((side, side), Image.Resampling.BOX)
            (tmp_path / folder).mkdir(exist_ok=True)
            np.save(tmp_path / folder / f"{number}.npy", np.asarray(small))
    augment = Augment(size=32, resize=32, scale=(0.3, 0.6), hflip=0.5, vflip=0.5, rotation=30, shift=0.1,
                      interpolation="bilinear")  # fmt: skip
    given = {"image": {"folder": "a", "span": [0, 256]}, "other": {"folder": "b", "size": 64, "span": [0, 256]}}
    open_reader, _ = opened(tmp_path, augment, **given)
    seen = set()
    for epoch in range(12):
        sample = open_reader.read(0, keyed(0, epoch, 0))
        first, second = (
            sample["image"][8:24, 8:24, 0],
            sample["other"][16:48, 16:48, 0].reshape(16, 2, 16, 2).mean((1, 3)),
        )
        assert np.abs(first - second).mean() < 0.03
        seen.add(round(float(first.mean()), 4))
    assert len(seen) == 12


def test_every_view_is_a_function_of_its_own_number_alone(sky):
    augment = Augment(kind="imagenet", size=32)
    few, many = (
        opened(sky, augment, Crops(branches=("image",), views=2, local=local, local_size=16, together=False))[0]
        for local in (2, 5)
    )
    one, two, other = few.read(4, keyed(0, 3, 4)), many.read(4, keyed(0, 3, 4)), few.read(4, keyed(0, 4, 4))
    assert one["image"].shape == (2, 32, 32, 3) and two["image_local"].shape == (5, 16, 16, 3)
    assert np.array_equal(one["image"], two["image"])
    assert np.array_equal(one["image_local"], two["image_local"][:2])
    assert not np.array_equal(one["image"], other["image"])
    assert len({view.tobytes() for view in two["image_local"]}) == 5
    draws = [_crops.of_view(keyed(0, 0, 0), view).random() for view in range(3)]
    assert len(set(draws)) == 3 and keyed(0, 0, 1).random() not in draws


# --- packed ----------------------------------------------------------------------------------------------------------


def test_packed_pairs_hold_what_was_parsed_and_give_the_same_samples(sky, tmp_path):
    data = data_of(sky, image={"part": "left"})
    rows = prepare.manifest(data, 0)
    made = pack.pack(pack.of_manifest(rows, divided=False), tmp_path / "packed", pack.Options(processes=1))
    assert len(made.pack) == 2 * len(rows)
    parsed = {
        name: made.pack.array(row)
        for row, name in enumerate(made.pack.index["source"].to_pylist())
        if name.endswith("csv")
    }
    for name, array in parsed.items():
        assert np.array_equal(array, _thermal.read((sky / name).read_bytes()))
    again = data.model_copy(update={"root": tmp_path / "packed"})
    stored = prepare.manifest(again, 0)
    for column in ("id", "file", "other", "split", "target"):
        assert stored.table[column] == rows.table[column], column
    assert stored.hash == rows.hash
    augment = Augment(kind="imagenet", size=32)
    first, second = reader.open(data.reader, rows, augment), reader.open(again.reader, stored, augment)
    assert second.name(5) == f"{tmp_path}/packed/{stored.paths(5)[0].relative_to(stored.root)} + {stored.paths(5)[1]}"
    for draw in (None, keyed(0, 1, 5)):
        one, two = first.read(5, draw), second.read(5, draw and keyed(0, 1, 5))
        assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_picture_in_two_pairs_is_in_two_rows_by_their_names_packed_or_not(sky, tmp_path):
    one, two = sorted((sky / "pairs").rglob("*.txt"))[:2]
    first, second = (path.read_text().split() for path in (one, two))
    (sky / "thermal" / f"again {first[1]}").write_bytes((sky / "thermal" / second[1]).read_bytes())
    (one.parent / "it's both.txt").write_text(f"{first[0]}\nagain {first[1]}\n")
    rows = prepare.prepare(data_of(sky), 0, tmp_path / "m.parquet").manifest
    pack.pack(pack.of_manifest(rows, divided=False), tmp_path / "packed", pack.Options(processes=1))
    data = data_of(tmp_path / "packed")
    assert f"pairs/{one.parent.name}/it's both" in rows.ids
    for given in (data, data.model_copy(update={"manifest": tmp_path / "m.parquet"})):
        stored = prepare.manifest(given, 0)
        assert stored.hash == rows.hash
        assert stored.table.select(["id", "file", "other"]) == rows.table.select(["id", "file", "other"])


def test_an_index_without_ids_is_read_and_its_pairs_are_called_by_their_first_files(sky, tmp_path):
    rows = prepare.manifest(data_of(sky), 0)
    pack.pack(pack.of_manifest(rows, divided=False), tmp_path / "packed", pack.Options(processes=1))
    index = pq.read_table(tmp_path / "packed" / packed.INDEX)
    pq.write_table(index.drop_columns("id"), tmp_path / "packed" / packed.INDEX)
    stored = prepare.manifest(data_of(tmp_path / "packed"), 0)
    assert stored.table["id"] == stored.table["file"] == rows.table["file"]


def test_a_half_that_could_not_be_packed_takes_its_partner_with_it(sky, tmp_path):
    rows = prepare.manifest(data_of(sky), 0)
    broken = rows.table["other"][7].as_py()
    (sky / broken).write_bytes((sky / broken).read_bytes()[:-40])
    pack.pack(pack.of_manifest(rows, divided=False), tmp_path / "packed", pack.Options(processes=1))
    stored = prepare.manifest(data_of(tmp_path / "packed"), 0)
    assert len(stored) == len(rows) - 1
    assert packed.is_packed(stored.root)
    assert reasons(stored)[rows.table["file"][7].as_py()] == "it has no partner"
