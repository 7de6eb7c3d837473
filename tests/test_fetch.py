"""Weights are fetched once where there is network, locked, and then only read."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import timm
from safetensors.torch import save

from instar import cli, fetch, lock, weights
from instar import experiment as experiments
from instar.errors import ConfigError, WeightsError
from instar.run import Run
from tests.fakes import hub as fake
from tests.fakes.images import folder_of_images
from tests.fakes.training import train

ROOT = Path(__file__).parent.parent
REPOSITORY = "timm/test_resnet.r160_in1k"
MODEL = {"kind": "timm", "name": "test_resnet", "pretrained": True}


@pytest.fixture(scope="module")
def tensors():
    """The bytes of a weights file that fits timm's smallest network."""
    return save(timm.create_model("test_resnet").state_dict())


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, and caches that are empty."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "SLURM_JOB_ID", "PBS_JOBID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "it's hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "it's torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with fake.running() as server:
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "my recipe.yaml"
    file.write_text(f"data: {{root: {tmp_path}/images}}\nmodel: {json.dumps(MODEL)}\naugment: {{size: 32}}\n")
    return file


@pytest.fixture
def locked(hub, recipe, tensors):
    """A recipe whose weights were fetched; its lock."""
    hub.put(REPOSITORY, "model.safetensors", tensors)
    fetch.fetch(experiments.load(recipe), lock.beside(recipe))
    return lock.beside(recipe)


# --- fetch ----


def test_weights_go_into_the_librarys_cache_and_into_a_lock(hub, recipe, tensors, tmp_path, capsys):
    hub.put(REPOSITORY, "model.safetensors", tensors)
    assert cli.main(["fetch", str(recipe)]) == 0
    out = capsys.readouterr().out
    cached = huggingface_hub.try_to_load_from_cache(REPOSITORY, "model.safetensors", cache_dir=tmp_path / "it's hf/hub")
    assert Path(cached).read_bytes() == tensors
    assert out.startswith(f"get      {REPOSITORY} (model.safetensors) …\ngot      {cached}")
    assert out.splitlines()[-1] == f"next     instar train '{recipe}'"
    (one,) = lock.read(tmp_path / "my recipe.lock.yaml").weights
    assert one.model_dump() == {
        "model": {**MODEL, "size": 32},
        "source": REPOSITORY,
        "revision": fake.COMMIT,
        "file": "model.safetensors",
        "bytes": len(tensors),
        "sha256": hashlib.sha256(tensors).hexdigest(),
    }


def test_what_is_here_is_not_asked_for_again_and_the_lock_keeps_its_bytes(hub, recipe, locked, capsys):
    before, stamp = locked.read_bytes(), locked.stat().st_mtime_ns
    hub.asked.clear()
    assert cli.main(["fetch", str(recipe), "--json"]) == 0
    ((one,),) = [told["weights"] for told in json.loads(capsys.readouterr().out)]
    assert one["new"] is False and not hub.asked
    assert (locked.read_bytes(), locked.stat().st_mtime_ns) == (before, stamp)


def test_the_second_name_of_a_file_will_do(hub, recipe, tensors):
    hub.put(REPOSITORY, "pytorch_model.bin", tensors)
    (one,) = fetch.fetch(experiments.load(recipe), None)
    assert one.path.name == "pytorch_model.bin"


def test_an_address_is_fetched_and_verified_by_the_digits_in_its_name(hub, tmp_path, tensors):
    digits = hashlib.sha256(tensors).hexdigest()[:8]
    hub.files[f"/models/net-{digits}.pth"] = tensors
    hub.files["/models/net-00000000.pth"] = tensors
    good, bad = (weights.at(f"{hub.address}/models/net-{name}.pth") for name in (digits, "00000000"))
    assert fetch._here(good, lambda download: None).path.read_bytes() == tensors
    assert weights.located(good) == tmp_path / "it's torch/hub/checkpoints" / f"net-{digits}.pth"
    with pytest.raises(WeightsError, match="not what its name promises"):
        fetch._here(bad, lambda download: None)
    assert weights.located(bad) is None


@pytest.mark.parametrize(
    ("kind", "settings", "name", "source"),
    [
        ("torchvision", {"name": "resnet18", "pretrained": True}, "resnet18-f37072fd.pth", "https://"),
        ("torchvision", {"name": "resnet50", "pretrained": "IMAGENET1K_V1"}, "resnet50-0676ba61.pth", "https://"),
        ("timm", {"name": "timm/resnet18.a1_in1k", "pretrained": True}, "model.safetensors", "timm/resnet18.a1_in1k"),
    ],
)
def test_the_libraries_say_which_files(kind, settings, name, source):
    loaded = experiments.load({"data": {"root": "."}, "model": {"kind": kind, **settings}})
    (one,) = lock.downloads(loaded)
    assert one.files[0] == name and one.source.startswith(source)


def test_where_nothing_answers_it_says_so_at_once(hub, recipe, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    begun = time.monotonic()
    with pytest.raises(WeightsError, match=r"cannot be downloaded into .*it's hf.*refused.*login node"):
        fetch.fetch(experiments.load(recipe), None)
    assert time.monotonic() - begun < 5


def test_a_repository_or_a_file_that_is_not_there_is_named(hub, recipe):
    with pytest.raises(WeightsError, match=f"{REPOSITORY} is not on the hub"):
        fetch.fetch(experiments.load(recipe), None)
    hub.put(REPOSITORY, "README.md", b"nothing here")
    with pytest.raises(WeightsError, match=r"none of the files model\.safetensors, pytorch_model\.bin"):
        fetch.fetch(experiments.load(recipe), None)


def test_a_file_that_changed_at_its_source_is_not_taken_silently(hub, recipe, locked, tensors, tmp_path):
    before = locked.read_bytes()
    for file in (tmp_path / "it's hf/hub").rglob("*safetensors"):
        file.resolve().unlink()
    hub.put(REPOSITORY, "model.safetensors", tensors + b" ")
    with pytest.raises(WeightsError, match=rf"expected sha256 {hashlib.sha256(tensors).hexdigest()}.*\n.*--renew"):
        fetch.fetch(experiments.load(recipe), locked)
    assert locked.read_bytes() == before
    fetch.fetch(experiments.load(recipe), locked, renew=True)
    assert lock.read(locked).weights[0].sha256 == hashlib.sha256(tensors + b" ").hexdigest()


def test_caches_go_where_one_says(hub, tensors, tmp_path, monkeypatch):
    hub.put(REPOSITORY, "model.safetensors", tensors)
    for name in ("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, os.environ[name])  # put back afterwards
    assert cli.main(["fetch", "timm/test_resnet", f"caches={tmp_path / 'else where'}", "--quiet"]) == 0
    assert list((tmp_path / "else where/huggingface/hub").rglob("model.safetensors"))


def test_caches_go_where_the_jobs_of_a_site_look(hub, tensors, tmp_path, monkeypatch, capsys):
    hub.put(REPOSITORY, "model.safetensors", tensors)
    site = tmp_path / "it's mine.yaml"
    site.write_text("scheduler: slurm\ncaches: $MY_SCRATCH/caches\n")
    for name in ("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    assert cli.main(["fetch", "timm/test_resnet", "--on", str(site)]) == 65
    assert "'$MY_SCRATCH/caches', which this shell does not know" in capsys.readouterr().err
    monkeypatch.setenv("MY_SCRATCH", str(tmp_path))
    assert cli.main(["fetch", "timm/test_resnet", "--on", str(site)]) == 0
    assert list((tmp_path / "caches/huggingface/hub").rglob("model.safetensors"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tmm/resnet18"], "did you mean 'timm'"),
        (["test_resnt"], "did you mean 'test_resnet'"),
        (["gone.yaml"], "gone.yaml does not exist"),
        (["test_resnet", "--check"], "only recipes have a lock"),
    ],
)
def test_what_cannot_be_fetched_says_why(words, message, hub, capsys):
    assert cli.main(["fetch", *words]) == 65
    assert message in capsys.readouterr().err


def test_a_model_without_weights_needs_none(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("data: {root: .}\nmodel: resnet9\n")
    assert cli.main(["fetch", str(tmp_path / "r.yaml")]) == 0
    assert "no weights that must be downloaded" in capsys.readouterr().out
    assert not (tmp_path / "r.lock.yaml").exists()


# --- check ----


def test_check_reads_every_byte_and_names_expected_and_found(recipe, locked, tensors, capsys):
    assert cli.main(["fetch", str(recipe), "--check"]) == 0
    assert capsys.readouterr().out.startswith(f"whole    {REPOSITORY} (model.safetensors)")
    path = weights.located(lock.download_of(lock.read(locked).weights[0]))
    state = path.stat()
    flipped = bytearray(tensors)
    flipped[-1] ^= 1
    path.resolve().write_bytes(flipped)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a failing disk would
    assert cli.main(["fetch", str(recipe), "--check"]) == 65
    told = capsys.readouterr().err
    assert str(path) in told
    assert f"expected sha256 {hashlib.sha256(tensors).hexdigest()}" in told
    assert f"found {hashlib.sha256(flipped).hexdigest()}. Remove {path.resolve()} and fetch it again." in told
    path.resolve().unlink()
    assert cli.main(["fetch", str(recipe), "--check"]) == 65
    assert f"{REPOSITORY} (model.safetensors) is not in" in capsys.readouterr().err
    assert cli.main(["fetch", str(recipe)]) == cli.main(["fetch", str(recipe), "--check"]) == 0


def test_a_lock_that_is_none_is_named_with_its_line(recipe, locked, capsys):
    locked.write_text("weights:\n- {model: {}, source: x, file: y, bytes: 1, sha256: no}\n")
    assert cli.main(["fetch", str(recipe), "--check"]) == 65
    assert "my recipe.lock.yaml:2: weights.0.sha256 is 'no'" in capsys.readouterr().err


# --- missing ----


@pytest.mark.parametrize(
    ("source", "expected"),
    [("a/r.yaml", "a/r.lock.yaml"), ("r.yml", "r.lock.yaml"), ("a.b/", "a.b.lock.yaml"), ("x y", "x y.lock.yaml")],
)
def test_a_lock_stands_beside_what_it_locks(source, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lock.beside(Path(source)) == Path(expected)


def test_what_is_missing_is_told_with_the_command(recipe, locked, tmp_path):
    wanted = experiments.load(recipe)
    assert lock.missing(wanted, locked, command="C") == []
    other = experiments.load(recipe, ["model.name=resnet18", f"model.weights={tmp_path}/gone.safetensors"])
    own, unknown = map(str, lock.missing(other, locked, command="instar fetch R model.name=resnet18"))
    assert own.startswith(f"model.weights: {tmp_path}/gone.safetensors does not exist. ")
    assert "does not say which weights resnet18 (timm) starts from" in unknown
    assert unknown.endswith("Where there is network: instar fetch R model.name=resnet18")
    assert lock.missing(experiments.load(recipe, ["model.dropout=0.2"]), locked, command="C") == []
    weights.located(lock.download_of(lock.read(locked).weights[0])).unlink()
    (gone,) = lock.missing(wanted, locked, command="C")
    assert f"{REPOSITORY} (model.safetensors) is not in {tmp_path}/it's hf/hub/models--timm--" in gone.what
    assert "is not there to say" in lock.missing(wanted, tmp_path / "none.lock.yaml", command="C")[0].what


@pytest.mark.parametrize("state", ["no lock, nothing cached", "lock, file gone"])
def test_training_names_what_is_missing_before_torch_is_imported(state, recipe, locked):
    weights.located(lock.download_of(lock.read(locked).weights[0])).unlink()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7"}
    if state.startswith("no lock"):
        locked.unlink()
        environment |= {"HF_HOME": f"{recipe.parent}/empty hf"}
    program = (
        "import sys, time; begun = time.process_time()\n"
        "from instar.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, 'torch' in sys.modules, 'timm' in sys.modules, time.process_time() - begun < 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "train", str(recipe), "workers=3", "model.dropout=0.1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "65 False False True\n", done.stderr
    assert "test_resnet" in done.stderr
    assert f"instar fetch '{recipe}' model.dropout=0.1\n" in done.stderr
    assert "Where there is network: HF_HOME='" in done.stderr  # in a job, the caches of the job


def test_a_model_names_the_missing_file_itself(hub):
    loaded = experiments.load({"data": {"root": "."}, "model": {"kind": "torchvision", "pretrained": True}})
    from instar import plugins

    with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth is not in .*instar fetch torchvision/resnet18"):
        plugins.load("models", "torchvision").build(loaded.model, channels=3, classes=2, size=64)


# --- used ----


def test_a_run_records_what_it_started_from_and_refuses_other_bytes(locked, tensors, tmp_path, hub):
    options = {"lock": locked, "fetch": "instar fetch R"}
    changes = {"model": MODEL, "augment": {"kind": "none", "size": 32}, "train__epochs": 0.5}
    images = folder_of_images(tmp_path / "images", classes=2, each=10)
    hub.asked.clear()
    outcome = train(tmp_path, root=images, options=options, **changes)
    (start,) = json.loads(outcome.run.provenance_file.read_text())
    (one,) = start["weights"]
    assert one["sha256"] == hashlib.sha256(tensors).hexdigest() and one["revision"] == fake.COMMIT
    assert outcome.run.lock_file.read_bytes() == locked.read_bytes()
    assert not hub.asked
    path = Path(one["path"])
    path.resolve().write_bytes(tensors + b" ")
    with pytest.raises(WeightsError, match=f"{path.name}: expected sha256 {one['sha256']}"):
        train(tmp_path, run="other", root=images, options=options, **changes)
    assert not Run(tmp_path / "runs/other").manifest_file.exists()  # before the images were looked at
    path.resolve().unlink()
    train(tmp_path, root=images, options=options, **changes)  # what is saved needs no other weights


def test_a_hash_is_remembered_until_the_file_changes(hub, tmp_path, monkeypatch):
    file = tmp_path / "w"
    file.write_bytes(b"one")
    first = weights.digest(file)
    assert first == hashlib.sha256(b"one").hexdigest()
    read = []
    monkeypatch.setattr(weights, "_sha256", lambda path: read.append(path) or "read")
    assert weights.digest(file) == first and not read
    assert weights.digest(file, again=True) == "read"
    file.write_bytes(b"other")
    assert weights.digest(file) == "read" and len(read) == 2
    weights._memory_file().write_text("[not json")
    assert weights.digest(file) == "read"


def test_experiments_without_a_setting_for_it_are_left_alone(tmp_path):
    loaded = experiments.load({"data": {"root": "."}, "model": {"kind": "tests.fakes.tiny_cnn"}})
    assert lock.asked(loaded) is None and lock.downloads(loaded) == []
    lock.check(loaded, tmp_path / "none", command="C")
    loaded = experiments.load({"data": {"root": "."}, "model": {**MODEL, "name": "botnet50ts_256"}})
    with pytest.raises(ConfigError, match="no weights for 'botnet50ts_256'"):
        lock.downloads(loaded)
