"""A LightningModule of one's own in a real Slurm: carried over its limit to the bits it would have had without one."""

import json

import pytest
import torch

from tests.slurm.conftest import happened, until

pytestmark = pytest.mark.slurm
RECIPE = {
    "task": {"kind": "lightning_module", "module": "tests.fakes.own.baseline", "definition": "Small"},
    "trainer": {"max_epochs": 400, "log_every_n_steps": 10},
    "train": {"monitor": "val_acc", "monitor_mode": "max", "every": "200 steps"},
}


def weights(run):
    newest = run.checkpoints / (run.checkpoints / "latest").read_text().strip()
    return torch.load(newest / "lightning.ckpt", weights_only=True)["state_dict"]


def test_it_outlives_its_time_limit_and_loses_nothing(home):
    (home.folder / "own.yaml").write_text(json.dumps(RECIPE), encoding="utf-8")
    words = ("nodes=2", "cores=1", "time=10min", "longest=1min", "device=cpu", "--on", "./here.yaml")
    home.instar("submit", "train", "own.yaml", "run=long", *words)
    run = home.run("long")
    until(lambda: run.status()["state"] == "done", 500, "it is done")
    assert happened(run, "job_started") >= 2 and happened(run, "resumed") >= 1
    home.instar("train", "own.yaml", "run=undisturbed", "device=cpu", "devices=2", "--quiet")
    expected = weights(home.run("undisturbed"))
    assert all(torch.equal(value, expected[name]) for name, value in weights(run).items())
