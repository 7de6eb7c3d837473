"""Contract tests for plug-ins of your own: what Instar tests on its own shelves, to run on yours.

    from instar import testing

    def test_my_model():
        testing.check_model({"kind": "mylab.models.two_layers", "width": 4})

    def test_my_reader():
        testing.check_reader({"kind": "mylab.readers.squares"}, root=IMAGES)

    def test_a_training_with_all_of_it(tmp_path):
        testing.check_training({"data": {...}, "model": ..., "task": ...}, tmp_path)

Each raises AssertionError with one sentence on what is promised and was not kept. They need no test framework.
"""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from instar import plugins
from instar.errors import DataError
from instar.run import Run, write_atomically
from instar.settings import Settings, Shelf

_HEAVY = ("torch", "torchvision", "timm", "numpy", "pyarrow", "PIL", "h5py")


def check_kind(shelf: str, kind: str) -> ModuleType:
    """A plug-in that recipes set is found and described, and its settings load nothing heavy; returns its module."""
    module = plugins.load(shelf, kind)
    settings = getattr(module, "Settings", None)
    assert module.__doc__, f"{kind} has a docstring, which is its page in the manual"
    assert isinstance(settings, type) and issubclass(settings, Settings), f"{kind} has a class Settings"
    undescribed = [name for name, field in settings.model_fields.items() if not field.description]
    assert not undescribed, f"every setting of {kind} has a docstring below it; {', '.join(undescribed)} has none"
    allowed = settings.model_json_schema()["properties"]["kind"].get("const")
    assert allowed == kind, f"the setting `kind` of {kind} is Literal[{kind!r}], not {allowed!r}"
    heavy = _loaded_by(module.__name__)
    assert not heavy, f"importing {kind} loads {', '.join(heavy)}: import them inside the functions that use them"
    return module


def check_model(model: "str | Mapping[str, Any]", *, size: int = 32, classes: int = 5) -> None:
    """A model of images reads any channels, gives a logit a class, learns in all its parts, and follows the seed."""
    import torch

    settings = _settings("models", model)
    module = check_kind("models", settings.kind)
    for channels in (1, 3, 4):
        encoder = _built(module, settings, channels=channels, classes=classes, size=size)
        image_BCHW = torch.rand(2, channels, size, size)
        logits_BK = encoder.network.eval()(image_BCHW)
        assert tuple(logits_BK.shape) == (2, classes), (
            f"{settings.kind} gives a logit a class: (2, {classes}) for two images of {channels} channels, "
            f"not {tuple(logits_BK.shape)}"
        )
        assert torch.isfinite(logits_BK).all(), f"logits of {settings.kind} are finite"
        assert len(encoder.mean) == len(encoder.std) == channels, "mean and std are one number a channel"
    encoder.network.train()(torch.rand(4, 4, size, size)).square().sum().backward()
    without = [
        name for name, weight in encoder.network.named_parameters() if weight.requires_grad and weight.grad is None
    ]
    assert not without, f"every weight that is trained has a gradient; {', '.join(without[:5])} has none"
    again = _built(module, settings, channels=4, classes=classes, size=size)
    for name, weight in encoder.network.named_parameters():
        same = torch.equal(weight, dict(again.network.named_parameters())[name])
        assert same, f"the same seed gives the same weights; {name} differs"
    features = _built(module, settings, channels=3, classes=None, size=size)
    feature_BD = features.network.eval()(torch.rand(2, 3, size, size))
    assert tuple(feature_BD.shape) == (2, features.num_features), (
        f"built without classes, {settings.kind} gives features: (2, {features.num_features}), "
        f"not {tuple(feature_BD.shape)}"
    )


def check_reader(reader: "str | Mapping[str, Any]", *, root: Path, augment: Mapping[str, Any] | None = None) -> None:
    """A reader gives what it says, in one shape, as a function of row and generator, in any process.

    root      data it can read, of at least six rows
    augment   how training images are varied; by default crops of 24 pixels
    """
    from instar import prepare
    from instar.augment import Augment
    from instar.experiment import Data

    settings = _settings("readers", reader)
    module = check_kind("readers", settings.kind)
    assert module.gives, f"{settings.kind} says what it gives: gives = frozenset({{'image', 'label'}})"
    rows = prepare.manifest(Data.model_validate({"root": root, "reader": settings.model_dump(mode="json")}), 0)
    opened = module.open(settings, rows, Augment.model_validate(augment or {"size": 24}))
    check_samples(opened, rows, gives=module.gives)


def check_samples(opened: Any, rows: Any, *, gives: frozenset[str]) -> None:
    """What an opened reader promises of its samples.

    rows    the manifest that it was opened on
    gives   the names its module says a sample has
    """
    import numpy as np

    from instar.engine.loading.loaders import keyed

    samples = [opened.read(row, keyed(0, 0, row)) for row in range(len(rows))]
    for sample in samples:
        assert set(sample) == set(gives) | {"label"}, f"a sample holds {sorted(gives)}, not {sorted(sample)}"
    for name in gives:
        shapes = {(np.shape(sample[name]), str(np.asarray(sample[name]).dtype)) for sample in samples}
        assert len(shapes) == 1, f"{name} has one shape and type in all rows, not {sorted(map(str, shapes))}"
    assert [int(sample["label"]) for sample in samples] == rows.targets.tolist(), "labels are those of the manifest"
    last = len(rows) - 1
    for name in gives:
        once, again = (np.asarray(opened.read(last, keyed(0, 0, last))[name]) for _ in range(2))
        assert np.array_equal(once, again), f"{name} is the same for the same row and generator"
        sure, still = (np.asarray(opened.read(last, None)[name]) for _ in range(2))
        assert np.array_equal(sure, still), f"{name} is the same at every evaluation"
        sent = pickle.loads(pickle.dumps(opened))  # noqa: S301 - what we pickled ourselves
        assert np.array_equal(np.asarray(sent.read(last, None)[name]), sure), f"{name} is the same in another process"
    for row, sample in enumerate(samples[:8]):
        check_places(opened, row, keyed(0, 0, row), sample)
    named = {str(rows.ids[last]), rows.path(last).name}
    assert any(name in opened.name(last) for name in named), f"name(row) says which sample it is: {' or '.join(named)}"


def check_places(opened: Any, row: int, draw: Any, sample: Mapping[str, Any]) -> None:
    """A reader that puts arrays into their places puts there what `read` gives.

    draw     a generator as the one that the sample was read with
    sample   what `read` gave
    """
    import numpy as np

    places = {name: np.zeros_like(value) for name, value in sample.items() if np.ndim(value)}
    state = draw.bit_generator.state
    for name in ("read_into", "begin"):
        draw.bit_generator.state = state
        does = getattr(opened, name, None)
        if name == "begin" and does is not None:
            does = does(row, draw)
        if does is None:
            continue
        rest = does(places) if name == "begin" else does(row, draw, places)
        assert {*places, *rest} == set(sample), f"{name} gives {sorted(sample)}, not {sorted({*places, *rest})}"
        for column, value in {**places, **rest}.items():
            assert np.array_equal(value, sample[column]), f"{name} gives the {column} that read gives"


def check_gone(opened: Any, rows: Any, row: int) -> None:
    """A file that is gone is a DataError. Removes the file."""
    rows.path(row).unlink()
    try:
        opened.read(row, None)
    except DataError:
        return
    raise AssertionError("a file that is gone is a DataError")


def check_training(recipe: Mapping[str, Any], folder: Path) -> Run:
    """A training of this recipe, killed with -9 and resumed, ends with the same weights as one that nobody disturbed.

    recipe   small: a few epochs of a few steps on the CPU; it is told to save every few steps
    folder   where two runs may be written
    Returns the run that was disturbed.
    """
    document = json.loads(json.dumps(recipe, default=str))
    document.setdefault("train", {})["every"] = f"{2 * int(document['train'].get('batch', 64))} samples"
    file = folder / "recipe.yaml"
    write_atomically(file, json.dumps(document))  # JSON is YAML
    runs = {name: Run(folder / name) for name in ("undisturbed", "killed")}
    for name, fault in (("undisturbed", ""), ("killed", "step.end:4:kill"), ("killed", "")):
        ended = _train(file, runs[name], fault)
        wanted = -9 if fault else 0
        assert ended.returncode == wanted, f"the training ended with {ended.returncode}, not {wanted}: {ended.stdout}"
    first, second = (_weights(run) for run in runs.values())
    assert first == second, "killed and resumed it ends with the weights of a training that nobody disturbed"
    return runs["killed"]


def _train(recipe: Path, run: Run, fault: str) -> "subprocess.CompletedProcess[str]":
    words = ["train", str(recipe), f"run={run.path}", "device=cpu", "devices=1", "workers=0"]
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-m", "instar", *words],
        env=os.environ | {"PYTHONPATH": paths, "INSTAR_FAULT": fault},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _weights(run: Run) -> str:
    newest = (run.checkpoints / "latest").read_text(encoding="utf-8").strip()
    return hashlib.sha256((run.checkpoints / newest / "model.safetensors").read_bytes()).hexdigest()


def _settings(shelf: str, given: "str | Mapping[str, Any]") -> Any:
    spelled = Shelf(shelf, default="").spelled_out(given if isinstance(given, str) else dict(given))
    return Shelf(shelf, default="").settings(spelled["kind"]).model_validate(spelled)


def _built(module: ModuleType, settings: Any, *, channels: int, classes: int | None, size: int) -> Any:
    import torch

    torch.manual_seed(0)
    return module.build(settings, channels=channels, classes=classes, size=size, load=False)


def _loaded_by(name: str) -> list[str]:
    """Which heavy libraries importing a module loads, asked of a new process."""
    code = (
        f"import importlib, sys; importlib.import_module({name!r}); print(*[n for n in {_HEAVY!r} if n in sys.modules])"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    environ = os.environ | {"PYTHONPATH": paths}
    ended = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{name} can be imported: {ended.stderr}"
    return ended.stdout.split()
