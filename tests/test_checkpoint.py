"""Checkpoints come back bit for bit, only whole ones are read, and pruning never takes the last."""

import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from instar.engine.checkpoint import entries, exact_json, snapshot
from instar.engine.checkpoint import store as checkpoint
from instar.errors import Again, CheckpointError, RunError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'a run\'s "folder"' / "checkpoints"


def tensors(value=1.0):
    return {"model": {"weight": torch.full((3, 4), value), "steps": torch.tensor(7)}, "ema": {"w": torch.ones(2)}}


def saved(folder, *samples, best=(), keep=2):
    """Save at each position and return what `poll` said."""
    with checkpoint.Checkpoints(folder, keep=keep) as checkpoints:
        for position in samples:
            checkpoints.save(tensors(float(position)), {"at": position}, samples=position, best=position in best)
        checkpoints.wait()
        return checkpoints.poll()


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_what_was_saved_is_loaded(folder):
    results = saved(folder, 640)
    found = checkpoint.load(folder)
    assert [(r.name, r.samples, r.problem, r.error) for r in results] == [("samples-000000000640", 640, "", "")]
    assert results[0].bytes == sum(
        path.stat().st_size for path in (folder / results[0].name).iterdir() if path.name != entries.MANIFEST
    )
    assert (found.name, found.samples, found.number, found.best) == ("samples-000000000640", 640, 1, False)
    assert found.state == {"at": 640}
    assert found.rejected == ()
    assert torch.equal(found.files["model"]["weight"], torch.full((3, 4), 640.0))
    assert (folder / "latest").read_text() == "samples-000000000640\n"


def test_a_fresh_folder_has_no_checkpoint(folder):
    assert checkpoint.load(folder) is None
    assert checkpoint.load_best(folder) is None
    assert checkpoint.names(folder) == []


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def test_every_type_and_shape_comes_back_bit_for_bit(folder):
    random = torch.randint(0, 2, (5, 3), generator=torch.Generator().manual_seed(0))
    model = {f"{dtype} {shape}": random[:a, :b].to(dtype) for dtype in DTYPES for shape in [(5, 3)] for a, b in [shape]}
    model |= {f"{dtype} scalar": torch.tensor(1, dtype=dtype) for dtype in DTYPES}
    model |= {f"{dtype} empty": torch.empty(0, 4, dtype=dtype) for dtype in DTYPES}
    model["nan"] = torch.tensor([float("nan"), float("-inf"), -0.0])
    with checkpoint.Checkpoints(folder) as checkpoints:
        checkpoints.save({"model": model, "none": {}}, {}, samples=1)
    found = checkpoint.load(folder)
    assert found.files["none"] == {}
    assert found.files["model"].keys() == model.keys()
    for name, tensor in model.items():
        read = found.files["model"][name]
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(bits(read), bits(tensor)), name


def test_memory_order_and_sharing_do_not_matter(folder):
    image_BCHW = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    tied = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    model = {
        "last": image_BCHW.to(memory_format=torch.channels_last),
        "turned": image_BCHW.permute(3, 0, 2, 1),
        "strided": image_BCHW[:, ::2, 1:, ::3],
        "expanded": torch.ones(1, 1).expand(4, 5),
        "tied.a": tied,
        "tied.b": tied,
        "overlap": tied.T,
        "conjugate": torch.tensor([1 + 2j, 3 - 4j]).conj(),
        "negative": torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    }
    with checkpoint.Checkpoints(folder) as checkpoints:
        checkpoints.save({"model": model}, {}, samples=1)
    read = checkpoint.load(folder).files["model"]
    assert all(torch.equal(read[name], tensor) for name, tensor in model.items())
    assert not any(tensor.requires_grad for tensor in read.values())


def test_any_safetensors_reader_opens_the_files(folder):
    saved(folder, 1)
    path = folder / "samples-000000000001" / "model.safetensors"
    by_others = safetensors.torch.load(path.read_bytes())
    assert torch.equal(by_others["weight"], torch.ones(3, 4))
    assert safetensors.safe_open(path, "pt").metadata() == {"format": "pt"}


def test_state_comes_back_exactly_through_strict_json(folder):
    state = {"f": [0.1, 1e-300, float("inf"), -0.0], "t": (1, (2.5, None)), "big": 2**70, "text": "ü\n\"'", "b": True}
    with checkpoint.Checkpoints(folder) as checkpoints:
        checkpoints.save({}, {**state, "nan": float("nan")}, samples=1)
    read = checkpoint.load(folder).state
    assert str(read.pop("nan")) == "nan"
    assert read == state
    assert str(read["f"][3]) == "-0.0"
    text = (folder / "samples-000000000001" / "state.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_what_cannot_be_saved_is_named(folder):
    with checkpoint.Checkpoints(folder) as checkpoints:
        with pytest.raises(CheckpointError, match=r"state\.a\[1\] is a set"):
            checkpoints.save({}, {"a": [1, {2}]}, samples=1)
        with pytest.raises(CheckpointError, match=r"the key 3"):
            checkpoints.save({}, {"a": {3: 4}}, samples=1)
        with pytest.raises(CheckpointError, match=r"model: extra is a dict, not a tensor"):
            checkpoints.save({"model": {"extra": {}}}, {}, samples=1)
        with pytest.raises(CheckpointError, match=r"model: z is torch.complex128"):
            checkpoints.save({"model": {"z": torch.zeros(1, dtype=torch.complex128)}}, {}, samples=1)
        checkpoints.save(tensors(), {}, samples=2)
    assert checkpoint.names(folder) == ["samples-000000000002"]


def test_the_state_of_the_moment_is_saved_although_training_goes_on(folder, monkeypatch):
    monkeypatch.setenv("INSTAR_FAULT", "writer.begin:1:sleep0.2")
    weight = torch.zeros(1000)
    with checkpoint.Checkpoints(folder) as checkpoints:
        checkpoints.save({"model": {"w": weight}}, {}, samples=1)
        assert checkpoints.in_flight
        assert checkpoints.poll() == []
        weight.fill_(9)
    assert torch.equal(checkpoint.load(folder).files["model"]["w"], torch.zeros(1000))


def test_a_second_save_waits_for_the_first(folder, monkeypatch):
    monkeypatch.setenv("INSTAR_FAULT", "writer.bytes:1:sleep0.2")
    results = saved(folder, 1, 2, 3)
    assert [(r.samples, r.problem) for r in results] == [(1, ""), (2, ""), (3, "")]
    assert results[0].seconds > 0.2 > results[0].stall
    assert torch.equal(checkpoint.load(folder).files["model"]["weight"], torch.full((3, 4), 3.0))


def test_tensors_may_change_their_names_and_grow(folder):
    with checkpoint.Checkpoints(folder) as checkpoints:
        for size in (1, 3_000_000, 10):
            checkpoints.save({"model": {f"w{size}": torch.full((size,), 2.0)}}, {}, samples=size)
            checkpoints.wait()
            read = checkpoint.load(folder).files["model"]
            assert read.keys() == {f"w{size}"}
            assert torch.equal(read[f"w{size}"], torch.full((size,), 2.0))


def test_memory_can_be_reserved_beforehand(folder):
    with checkpoint.Checkpoints(folder) as checkpoints:
        checkpoints.reserve(5_000_000)
        before = checkpoints._memory._mapped
        checkpoints.save({"model": {"w": torch.ones(1_000_000)}}, {}, samples=1)
        assert checkpoints._memory._mapped is before
    assert checkpoint.load(folder).files["model"]["w"].sum() == 1_000_000


def test_the_newest_and_the_best_are_kept(folder):
    saved(folder, 10, 20, 30, 40, 50, best=(10, 20))
    assert checkpoint.names(folder) == [f"samples-{n:012d}" for n in (50, 40, 20)]
    assert checkpoint.load_best(folder).samples == 20
    assert (folder / "best").read_text() == "samples-000000000020\n"
    saved(folder, 60, best=(60,))
    assert checkpoint.names(folder) == [f"samples-{n:012d}" for n in (60, 50)]
    assert sorted(path.name for path in folder.iterdir()) == [
        "best",
        "latest",
        "samples-000000000050",
        "samples-000000000060",
    ]


def test_a_second_save_of_a_position_gets_a_name_of_its_own(folder):
    saved(folder, 10, 10, keep=3)
    assert checkpoint.names(folder) == ["samples-000000000010-2", "samples-000000000010"]
    found = checkpoint.load(folder)
    assert (found.name, found.samples, found.number) == ("samples-000000000010-2", 10, 2)
    assert checkpoint.load_number(folder, 1).name == "samples-000000000010"
    with pytest.raises(CheckpointError, match="no checkpoint number 3"):
        checkpoint.load_number(folder, 3)


def test_the_newest_save_counts_not_the_highest_position(folder):
    saved(folder, 100, 200)
    saved(folder, 150)
    assert checkpoint.load(folder).samples == 150


# --- damage --------------------------------------------------------------------------------------------------------


def flip(position):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[int(position * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def garble(path):
    path.write_bytes(b'{"files": [[[' * 50)


def empty(path):
    for file in path.parent.iterdir():
        file.unlink()


FILES = ["model.safetensors", "ema.safetensors", "state.json", "manifest.json"]
DAMAGES = {"first": flip(0), "middle": flip(0.5), "last": flip(1), "cut": cut, "gone": Path.unlink, "garbled": garble}


@pytest.fixture(scope="module")
def two_saves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    saved(folder, 1, 2)
    return folder


@pytest.fixture
def copied(two_saves, tmp_path):
    for path in two_saves.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(two_saves)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_rejected_and_the_one_before_is_loaded(copied, file, kind):
    path = copied / "samples-000000000002" / file
    DAMAGES[kind](path)
    found = checkpoint.load(copied)
    assert found.samples == 1
    assert [name for name, _ in found.rejected] == ["samples-000000000002"]
    assert file in found.rejected[0][1]


def test_an_empty_folder_and_a_dangling_pointer_are_told(copied):
    empty(copied / "samples-000000000002" / "manifest.json")
    (copied / "latest").write_text("samples-000000000003\n")
    found = checkpoint.load(copied)
    assert found.samples == 1
    assert found.rejected == (
        ("latest", "points to samples-000000000003, which is not there"),
        ("samples-000000000002", "manifest.json is missing or damaged"),
    )


def test_pointers_are_not_needed(copied):
    (copied / "latest").unlink()
    assert checkpoint.load(copied).samples == 2
    (copied / "latest").write_bytes(b"\xff\x00")
    assert checkpoint.load(copied).samples == 2


def test_with_nothing_whole_left_it_says_so_for_each(copied):
    for number in (1, 2):
        cut(copied / f"samples-00000000000{number}" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)no whole checkpoint.*0002: model.*bytes, not.*0001: model"):
        checkpoint.load(copied)


def test_sizes_are_compared_even_without_hashing(copied):
    cut(copied / "samples-000000000002" / "ema.safetensors")
    assert checkpoint.load(copied, verify=False).samples == 1


def test_a_damaged_best_is_an_error_and_not_another_checkpoint(folder):
    saved(folder, 1, 2, best=(1,))
    flip(0.5)(folder / "samples-000000000001" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"samples-000000000001 is not whole: model\.safetensors has other"):
        checkpoint.load_best(folder)


def test_a_damaged_checkpoint_does_not_count_as_one_that_is_kept(folder):
    saved(folder, 1, 2)
    flip(0.5)(folder / "samples-000000000002" / "model.safetensors")
    saved(folder, 3)
    assert checkpoint.names(folder) == ["samples-000000000003", "samples-000000000001"]


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_never_opened(copied, tmp_path):
    canary = tmp_path / "canary"
    evil = pickle.dumps(Canary(str(canary)))
    newest = copied / "samples-000000000002"
    for name in ("model.pt", "optimizer.pkl", "data.pkl", "extra.safetensors"):
        (newest / name).write_bytes(evil)
    assert checkpoint.load(copied).files.keys() == {"model", "ema"}
    (newest / "model.safetensors").write_bytes(evil)
    assert checkpoint.load(copied).samples == 1
    manifest = json.loads((newest / "manifest.json").read_text())
    body = {key: value for key, value in manifest.items() if key != "seal"}
    body["files"]["model.safetensors"] = {"bytes": len(evil), "sha256": entries._sha256(newest / "model.safetensors")}
    (newest / "manifest.json").write_bytes(entries.seal(body))
    found = checkpoint.load(copied)
    assert (found.samples, found.rejected[0][1][:15]) == (1, "cannot be read:")
    assert not canary.exists()


# --- room and memory -----------------------------------------------------------------------------------------------


def test_room_names_what_is_needed_and_what_was_found(tmp_path):
    checkpoint.room(tmp_path, 1000, files=6, keep=2)
    with pytest.raises(CheckpointError, match=r"need 4,000,000,000,000\.1 MB and 28 files, found .* MB and .* inodes"):
        checkpoint.room(tmp_path, 10**18, files=6, keep=2)
    with pytest.raises(CheckpointError, match=r"free inodes\. Free that much, .* or keep fewer \(train\.keep\)"):
        checkpoint.room(tmp_path, 1, files=10**15, keep=2)


def test_what_a_run_has_saved_already_needs_no_room_again(folder, monkeypatch):
    saved(folder, 1, 2, 3, best=(1,))
    size, files = checkpoint.size(tensors()), 4
    two_saves = SimpleNamespace(f_bavail=2 * (1 + files), f_frsize=4096, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda path: two_saves)
    checkpoint.room(folder, size, files=files, keep=2)
    with pytest.raises(CheckpointError, match="the 6 checkpoints of this run need"):
        checkpoint.room(folder, size, files=files, keep=4)


def test_size_is_what_a_save_takes(folder):
    files = tensors()
    saved(folder, 1)
    on_disk = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
    assert checkpoint.size(files) == on_disk


def test_a_save_without_room_is_reported_and_costs_nothing(folder, monkeypatch):
    saved(folder, 1)

    monkeypatch.setattr(checkpoint, "_missing", lambda *sizes: "needs 5 MB, found 3 MB")
    (result,) = saved(folder, 2)
    assert result.problem == "full"
    with pytest.raises(Again, match=r"5 MB, found 3 MB.*newest one there is samples-000000000001"):
        result.check()
    assert checkpoint.names(folder) == ["samples-000000000001"]


def test_problems_end_a_training_with_the_right_code():
    ended = {"full": Again, "unwritable": Again, "fenced": RunError, "broken": CheckpointError}
    for problem, kind in ended.items():
        with pytest.raises(kind, match="why"):
            checkpoint.Saved("", 1, False, 1, 0.0, 0.0, problem, "why").check()
    checkpoint.Saved("x", 1, False, 1, 0.0, 0.0).check()


def test_without_shared_memory_a_file_on_disk_takes_its_place(folder, monkeypatch):
    grow, refused = snapshot._grow, []

    def no_memory(fd, size):
        if not refused:
            refused.append(size)
            return False
        return grow(fd, size)

    monkeypatch.setattr(snapshot, "_grow", no_memory)
    assert saved(folder, 1, 2)[-1].problem == ""
    assert refused
    assert checkpoint.load(folder).samples == 2


def test_without_memfd_other_places_serve(folder, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert saved(folder, 1)[0].problem == ""


def test_memory_nobody_has_is_an_error(monkeypatch):
    monkeypatch.setattr(snapshot, "_grow", lambda fd, size: size == 0)
    memory = snapshot.SharedMemory()
    with pytest.raises(CheckpointError, match="passes through 6 MB of shared memory"):
        memory.reserve(5_000_000)
    memory.close()


def test_encoding_twice_is_encoding_once():
    value = {"a": (1, float("inf"), [None, "x"])}
    assert exact_json.encode(exact_json.encode(value)) == exact_json.encode(value)
    assert exact_json.loads(exact_json.dumps(value)) == value
