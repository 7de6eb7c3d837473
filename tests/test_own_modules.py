"""The page on modules that share code is true: its modules are trained as written, on made-up images of CIFAR-10's form."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from instar import brought as brought_ones
from instar import fit as stage
from instar.machine import Machine
from tests.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "share-code-between-modules.md"
# Torch's and Lightning's own, about what the module's author may do better.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


def made_up(root, train, transform):
    return torchvision.datasets.FakeData(40 if train else 8, (3, 32, 32), 10, transform)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The files of the page as a user would lay them down, started from their folder."""
    names = re.findall(r"`(my/models/\w+\.py)`", PAGE.read_text(encoding="utf-8"))
    for name, text in zip(names, blocks(PAGE, "python"), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (recipe,) = blocks(PAGE, "yaml")
    (tmp_path / "cifar.yaml").write_text(recipe, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", made_up)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my"]:
        del sys.modules[name]


@pytest.mark.scenario  # three trainings of ResNets
def test_the_baseline_and_what_inherits_and_composes_it_are_trained_by_the_page_s_commands(project):
    commands = [line[2:] for block in blocks(PAGE, "console") for line in block.splitlines()]
    trained = {}
    for command in commands:
        _, verb, file, *words = shlex.split(command)
        if verb == "train":
            name = words.pop(0).partition("=")[2]
            small = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "task.args.mbatch_size=8"]
            brought = brought_ones.load(file, [*words, *small, "task.args.num_workers=0"])
            brought_ones.look(brought)
            trained[name] = stage.fit(brought, machine=Machine(device="cpu"), run_name=name)
    assert {name: outcome.state for name, outcome in trained.items()} == dict.fromkeys(
        ("baseline", "smoothed", "distilled"), "finished"
    )
    weights = {name: saved(outcome.run) for name, outcome in trained.items()}
    assert weights["baseline"].keys() == weights["smoothed"].keys()
    assert all(0 <= outcome.scores["test"]["test_acc"] <= 1 for outcome in trained.values())
    for name, value in weights["baseline"].items():  # the teacher is the best baseline, and stays it
        assert torch.equal(weights["distilled"][f"teacher.{name}"], value), name


def saved(run):
    best = (run.checkpoints / "best").read_text().strip()
    return torch.load(Path(run.checkpoints) / best / "lightning.ckpt", weights_only=True)["state_dict"]
