"""Convert: every value arrives, a kill costs nothing, and ranks need not talk to one another."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from instar import convert, packed
from instar.cli import main
from instar.engine.ranks.place import Place
from instar.errors import DataError
from instar.packed import Packed
from tests.fakes.masks import folder_of_fields

h5py = pytest.importorskip("h5py")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def source(tmp_path) -> Path:
    """Five files like those of a climate simulation, contiguous, chunked and compressed, in hostile folders."""
    folder = tmp_path / 'it\'s "a" $(x)\nb'
    random = np.random.default_rng(0)
    for number, how in enumerate([{}, {"chunks": (4, 8, 3)}, {"compression": "gzip"}, {}, {}]):
        file = folder / ("train" if number % 2 else "val") / f"data-{number}.h5"
        file.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(file, "w") as made:
            data = random.normal(3, 1, (12, 16, 3)).astype(np.float32)
            data[0, number, 1] = np.nan
            made.create_dataset("climate/data", data=data, **how)
            made.create_dataset("climate/labels_0", data=random.integers(0, 3, (12, 16), np.int32))
    return folder


def arrays_of(source: Path) -> dict[str, np.ndarray]:
    made = {}
    for file in source.rglob("*.h5"):
        with h5py.File(file) as data:
            for name in ("data", "labels_0"):
                output = f"{file.relative_to(source).with_suffix('')}.{name}.npy"
                made[output] = data[f"climate/{name}"][...]
    return made


def converted(source: Path, folder: Path, *, place: Place | None = None, **options) -> convert.Outcome:
    settings = convert.Options(**{"processes": 1} | options)
    return convert.convert(source, convert.tasks(source), folder, settings, place or Place())


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if (file.is_file() and file.suffix in (".npy", ".part")) or file.name == "stats.json"
    }


def test_every_array_is_the_one_h5py_reads(source, tmp_path):
    outcome = converted(source, tmp_path / "out", processes=2)
    assert (outcome.made, outcome.kept, outcome.broken, outcome.whole) == (10, 0, (), True)
    wanted = arrays_of(source)
    assert set(hashes(tmp_path / "out")) == set(wanted)
    for name, array in wanted.items():
        found = np.load(tmp_path / "out" / name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_the_recorded_xxh3_is_that_of_the_file(source, tmp_path):
    converted(source, tmp_path / "out")
    for line in (tmp_path / "out" / "converted-0000.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert packed.xxh3_of(tmp_path / "out" / record["output"]) == record["xxh3"]


def test_the_same_again_does_nothing_and_a_changed_source_is_made_anew(source, tmp_path):
    converted(source, tmp_path / "out")
    assert (converted(source, tmp_path / "out").made, converted(source, tmp_path / "out").kept) == (0, 10)
    with h5py.File(source / "val" / "data-0.h5", "r+") as file:
        file["climate/labels_0"][0, 0] = 7
    assert converted(source, tmp_path / "out").made == 2
    assert np.load(tmp_path / "out" / "val" / "data-0.labels_0.npy")[0, 0] == 7


def test_fix_finds_what_is_broken_and_makes_it_anew(source, tmp_path):
    converted(source, tmp_path / "out")
    before = hashes(tmp_path / "out")
    short = tmp_path / "out" / "train" / "data-1.data.npy"
    os.truncate(short, 300)
    (tmp_path / "out" / "val" / "data-2.data.npy").unlink()
    assert converted(source, tmp_path / "out").made == 2  # what is gone or short is seen without reading
    with open(short, "r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff")
    assert converted(source, tmp_path / "out").made == 0
    assert converted(source, tmp_path / "out", fix=True).made == 1
    assert hashes(tmp_path / "out") == before


@pytest.mark.parametrize("fault", ["convert.rename:3:kill", "convert.done:4:kill", "convert.done:1:kill"])
def test_a_kill_and_a_rerun_with_fix_give_the_undisturbed_files(source, tmp_path, fault):
    line = [sys.executable, "-m", "instar", "convert", str(source), "--stats", "--quiet"]
    line += ["workers=1", "--fix"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}

    def go(target: str, fault: str = "") -> int:
        return subprocess.run([*line, f"to={tmp_path / target}"], env={**environ, "INSTAR_FAULT": fault}).returncode

    assert go("killed", fault) == -9
    seen = [file for file in (tmp_path / "killed").rglob("*.npy") if not file.name.startswith(".")]
    for file in seen:
        np.load(file)  # whatever can be seen is whole
    assert go("killed") == 0
    converted(source, tmp_path / "whole", stats=True)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


@pytest.mark.parametrize("world", [1, 2, 3, 7, 16])
def test_any_number_of_ranks_in_any_order_gives_the_same_files_and_statistics(source, tmp_path, world):
    converted(source, tmp_path / "one", stats=True)
    outcomes = [
        converted(source, tmp_path / "many", stats=True, place=Place(rank, world)) for rank in reversed(range(world))
    ]
    assert sum(outcome.made for outcome in outcomes) == 10
    assert [outcome.whole for outcome in outcomes] == [False] * (world - 1) + [True] or world > 10
    assert hashes(tmp_path / "many") == hashes(tmp_path / "one")


def test_statistics_are_numpys(source, tmp_path):
    outcome = converted(source, tmp_path / "out", stats=True, processes=2)
    values = np.stack([array for name, array in arrays_of(source).items() if ".data." in name])
    found = outcome.statistics["climate/data"]
    np.testing.assert_allclose(found.mean, np.nanmean(values.astype(float), (0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, np.nanstd(values.astype(float), (0, 1, 2)), rtol=1e-12)
    assert found.missing == (0, 5, 0)
    said = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert said["climate/labels_0"]["most"] == [2.0] and len(said["climate/data"]["std"]) == 3


def test_real_mpi_ranks_divide_the_work(source, tmp_path):
    """Two processes that a launcher's variables call ranks 0 and 1, at the same time."""
    line = [sys.executable, "-m", "instar", "convert", str(source), f"to={tmp_path / 'out'}", "--stats", "--json"]
    started = [
        subprocess.Popen(
            [*line, "workers=1"],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMPI_COMM_WORLD_RANK": str(rank),
                "OMPI_COMM_WORLD_SIZE": "2",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [json.loads(process.communicate(timeout=60)[0]) for process in started]
    assert [one["made"] for one in said] == [5, 5]
    assert any(one["whole"] for one in said)
    converted(source, tmp_path / "one", stats=True)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "one")


@pytest.mark.parametrize("maps", [True, False])
def test_what_lies_in_one_piece_is_mapped_in_windows_or_read_where_nothing_can_be(source, tmp_path, monkeypatch, maps):
    def refused(*arguments, **more):
        raise OSError(19, "no such device")

    if not maps:
        monkeypatch.setattr(convert.mmap, "mmap", refused)
    monkeypatch.setattr(convert, "_WINDOW", 1000)
    monkeypatch.setattr(convert, "_BUFFER", 300)
    outcome = converted(source, tmp_path / "out")
    assert outcome.broken == ()
    monkeypatch.undo()
    for name, array in arrays_of(source).items():
        np.testing.assert_array_equal(np.load(tmp_path / "out" / name), array)
    for record in convert._records(tmp_path / "out").values():
        assert record["xxh3"] == packed.xxh3_of(tmp_path / "out" / record["output"])


@pytest.mark.scenario
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun here")
def test_mpirun_converts_deepcams_folder_through_a_kill_and_mends_it(tmp_path):
    """Slow: four starts of two ranks."""
    fields = folder_of_fields(tmp_path / "it's $(a) place")
    root = ["--allow-run-as-root"] if os.getuid() == 0 else []
    line = ["mpirun", *root, "--oversubscribe", "-np", "2", sys.executable, "-m", "instar", "convert", str(fields)]

    def run(name, *words, fault=""):
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "INSTAR_FAULT": fault}
        done = subprocess.run(
            [*line, f"to={tmp_path / name}", *words], env=environ, capture_output=True, timeout=120, check=False
        )
        return done.returncode

    assert run("whole") == 0
    assert run("killed", fault="convert.done:5:kill") != 0
    assert run("killed") == 0
    broken = sorted((tmp_path / "killed").rglob("*.data.npy"))[:2]
    os.truncate(broken[0], 100)
    broken[1].write_bytes(broken[1].read_bytes()[:-1] + b"x")
    assert run("killed", "--fix") == 0
    one, other = (
        {
            str(file.relative_to(folder)): file.read_bytes()
            for file in folder.rglob("*")
            if file.suffix in (".npy", ".h5")
        }
        for folder in (tmp_path / "whole", tmp_path / "killed")
    )
    assert one == other and len(one) == 49


def test_broken_sources_are_named_and_the_others_converted(source, tmp_path, capsys):
    (source / "train" / "data-1.h5").write_bytes(b"no hdf5")
    os.truncate(source / "val" / "data-4.h5", 2500)
    assert main(["convert", str(source), f"to={tmp_path / 'out'}", "workers=2"]) == 65
    told = capsys.readouterr().out
    assert "broken   train/data-1.h5: climate/data: " in told and "neither HDF5 nor NetCDF" in told
    assert "broken   val/data-4.h5" in told
    assert "convert  6 arrays" in told
    assert not [file for file in (tmp_path / "out").rglob("*.part")]


def test_as_packed_is_one_sample_a_file_that_webdataset_understands(source, tmp_path, capsys):
    assert main(["convert", str(source), f"to={tmp_path / 'p'}", "as=packed", "workers=2"]) == 0
    made: Packed = packed.read(tmp_path / "p")
    rows = made.index.to_pylist()
    assert [row["part"] for row in rows[:2]] == ["data", "labels_0"] and rows[0]["key"] == rows[1]["key"]
    wanted = arrays_of(source)
    for number, row in enumerate(rows):
        output = row["source"].rpartition(":")[0].removesuffix(".h5") + f".{row['part']}.npy"
        np.testing.assert_array_equal(made.array(number), wanted[output])
    import tarfile

    with tarfile.open(tmp_path / "p" / "shard-000000.tar") as shard:
        assert shard.getnames()[:2] == ["000000000.data.npy", "000000000.labels_0.npy"]
    assert main(["convert", str(source), f"to={tmp_path / 'p'}", "as=packed"]) == 0
    assert "was packed before" in capsys.readouterr().out


def test_chosen_arrays_and_single_files(source, tmp_path):
    one = convert.tasks(source / "val" / "data-0.h5", ["climate/data"])
    assert [task.output for task in one] == ["data-0.npy"]
    convert.convert(source / "val" / "data-0.h5", one, tmp_path / "out", convert.Options(processes=1), Place())
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "data-0.npy"), arrays_of(source)["val/data-0.data.npy"])


def test_what_cannot_be_converted_is_told(source, tmp_path):
    with pytest.raises(DataError, match="there is no such file or folder"):
        convert.tasks(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.h5, "):
        convert.tasks(tmp_path / "empty")
    np.save(source / "val" / "data-0.npy", np.zeros(3))
    with pytest.raises(DataError, match="would both become"):
        convert.tasks(source, ["climate/data"])


def test_a_misspelt_array_is_told_for_each_file(source, tmp_path):
    todo = convert.tasks(source, ["climate/dta"])
    outcome = convert.convert(source, todo, tmp_path / "out", convert.Options(processes=1), Place())
    assert len(outcome.broken) == 5 and "did you mean 'climate/data'" in outcome.broken[0][1]
