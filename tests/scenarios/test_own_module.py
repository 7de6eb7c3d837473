"""A baseline as people write it, ResNet-18 with loaders of its own: killed in real processes, and submitted as a job."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from instar.run import Run

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.scenario


def recipe(folder, definition, module="baseline", **trainer):
    file = folder / "a baseline's recipe.yaml"
    task = {"kind": "lightning_module", "module": f"tests.fakes.own.{module}", "definition": definition}
    trainer = {"max_epochs": 2, "log_every_n_steps": 2, **trainer}
    train = {"monitor": "val_acc", "monitor_mode": "max", "every": "4 steps"}
    file.write_text(json.dumps({"task": task, "trainer": trainer, "train": train}), encoding="utf-8")
    return file


def instar(folder, *words, fault=""):
    return subprocess.run(
        [sys.executable, "-m", "instar", *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "INSTAR_FAULT": fault},
        capture_output=True,
        text=True,
        timeout=400,
    )


def weights(run):
    newest = run.checkpoints / (run.checkpoints / "latest").read_text().strip()
    return torch.load(newest / "lightning.ckpt", weights_only=True)["state_dict"]


def same(one, other):
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def codes(folder, *words, faults):
    return [instar(folder, *words, fault=fault).returncode for fault in faults]


def test_a_resnet_is_killed_and_told_to_stop_and_ends_in_the_same_bits(tmp_path):
    train = ("train", recipe(tmp_path, "Baseline"), "device=cpu")
    assert instar(tmp_path, *train, "run=whole").returncode == 0
    assert codes(tmp_path, *train, "run=cut", faults=["step.end:5:kill", "step.end:3:term", ""]) == [-9, 75, 0]
    whole, cut = Run(tmp_path / "runs" / "whole"), Run(tmp_path / "runs" / "cut")
    assert same(whole, cut)
    assert cut.scores("test")["test_acc"] == whole.scores("test")["test_acc"]


def test_two_ranks_end_in_the_same_bits(tmp_path):
    train = ("train", recipe(tmp_path, "Small"), "device=cpu", "devices=2")
    assert instar(tmp_path, *train, "run=whole").returncode == 0
    ended = codes(tmp_path, *train, "run=cut", faults=["step.end@1:3:term", "step.end@1:3:kill", ""])
    assert ended == [75, 75, 0]
    assert same(Run(tmp_path / "runs" / "whole"), Run(tmp_path / "runs" / "cut"))


def test_two_ranks_that_hold_parts_of_the_weights_end_in_the_same_bits(tmp_path):
    """FSDP2, by Lightning's ModelParallelStrategy; FSDP by its own name needs GPUs, and both torch and Lightning say so."""
    train = ("train", recipe(tmp_path, "Divided", "divided", strategy="divided"), "device=cpu", "devices=2")
    assert instar(tmp_path, *train, "run=whole").returncode == 0
    assert codes(tmp_path, *train, "run=cut", faults=["step.end@1:5:term", "step.end@1:2:kill", ""]) == [75, 75, 0]
    whole, cut = (Run(tmp_path / "runs" / name) for name in ("whole", "cut"))
    assert [event["samples"] for event in cut.events() if event["event"] == "resumed"] == [160, 160]
    assert parts(whole) == parts(cut) and len(parts(cut)) == 3
    assert cut.scores("test")["test_acc"] == whole.scores("test")["test_acc"]


def parts(run):
    """The files of the newest save of parts."""
    newest = run.checkpoints / (run.checkpoints / "latest").read_text().strip()
    files = sorted((newest / "lightning.ckpt").iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.name != ".metadata"}


def test_it_is_a_job_like_any_other(tmp_path):
    words = ("submit", "train", recipe(tmp_path, "Small"), "--on", "laptop", "run=job", "time=10min")
    done = instar(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(tmp_path / "runs" / "job")
    end = time.monotonic() + 240
    while not any(event["event"] == "job_ended" for event in run.events()):
        assert time.monotonic() < end, (run.jobs / "0001" / "log.txt").read_text()
        time.sleep(0.5)
    assert run.status()["state"] == "done"
    assert [event["state"] for event in run.events() if event["event"] == "job_ended"] == ["done"]
