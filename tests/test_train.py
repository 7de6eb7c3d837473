"""Training: one folder, one position, and the same numbers whatever comes in between."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from instar import evaluate
from instar import experiment as experiments
from instar.engine.checkpoint import store as checkpoint
from instar.engine.loop import is_better, stops_early
from instar.errors import Again, CheckpointError, ConfigError, LearningError, RunError
from instar.experiment import StopEarly
from instar.run import Run
from tests.fakes.images import folder_of_images
from tests.fakes.training import Notes, fingerprint, recipe, train


def events(run: Run, name: str) -> list[dict]:
    return [event for event in run.events() if event["event"] == name]


def test_a_training_leaves_a_folder_that_says_everything(tmp_path):
    outcome = train(tmp_path)
    run = outcome.run
    assert outcome.state == "finished"
    assert run.events()[0]["event"] == "started"
    assert run.events()[-1]["event"] == "finished"
    lines = run.metrics()
    assert [line["epoch"] for line in lines if line["kind"] == "val"] == pytest.approx([1, 2, 3, 4], abs=0.2)
    assert {"loss", "accuracy", "lr", "samples", "step"} <= set(lines[0])
    assert json.loads(run.provenance_file.read_text())[0]["packages"]["torch"]
    assert run.status()["state"] == "trained"
    assert run.status()["share"] == 1.0


def test_stopped_and_resumed_equals_never_stopped(tmp_path):
    whole = train(tmp_path, run="whole", train__ema=0.9, task__balance="oversample")
    for fault in ("step.end:5:term", "step.end:3:usr1", "loop.evaluate:1:term"):
        with pytest.raises(Again, match="SIG"):
            train(tmp_path, run="stopped", train__ema=0.9, task__balance="oversample", fault=fault)
    stopped = train(tmp_path, run="stopped", train__ema=0.9, task__balance="oversample")
    assert fingerprint(stopped.run) == fingerprint(whole.run)
    assert len(events(stopped.run, "resumed")) == 3


def test_told_to_stop_in_the_last_evaluation_it_is_made_up_for(tmp_path):
    whole = train(tmp_path, run="whole", train__epochs=2, train__evaluate="2 epochs")
    with pytest.raises(Again):
        train(tmp_path, run="stopped", train__epochs=2, train__evaluate="2 epochs", fault="loop.evaluate:1:term")
    stopped = train(tmp_path, run="stopped", train__epochs=2, train__evaluate="2 epochs")
    assert stopped.state == "finished"
    assert fingerprint(stopped.run) == fingerprint(whole.run)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adagrad", "adadelta", "asgd", "lamb", "lars"])
def test_every_optimizer_resumes_exactly(tmp_path, optimizer):
    changes = {"optim": {"kind": optimizer, "lr": 0.01}, "train__epochs": 2}
    whole = train(tmp_path, run="whole", **changes)
    with pytest.raises(Again):
        train(tmp_path, run="stopped", fault="step.end:4:term", **changes)
    assert fingerprint(train(tmp_path, run="stopped", **changes).run) == fingerprint(whole.run)


def test_worker_processes_change_nothing(tmp_path):
    alone = train(tmp_path, run="alone", train__epochs=2)
    helped = train(tmp_path, run="helped", train__epochs=2, machine={"workers": 2})
    assert fingerprint(alone.run) == fingerprint(helped.run)


def test_the_size_of_micro_batches_changes_nothing_but_rounding(tmp_path):
    whole = train(tmp_path, run="whole", train__epochs=2, model__dropout=0.0)
    parts = train(tmp_path, run="parts", train__epochs=2, model__dropout=0.0, train__micro=3)
    for one, other in zip(whole.run.metrics(), parts.run.metrics(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)


def test_the_same_command_after_the_end_says_so_and_does_nothing(tmp_path):
    train(tmp_path, train__epochs=1)
    before = fingerprint(Run(tmp_path / "runs" / "run"))
    assert train(tmp_path, train__epochs=1).state == "already"
    assert fingerprint(Run(tmp_path / "runs" / "run")) == before


def test_another_experiment_in_the_same_folder_is_an_error_that_lists_the_differences(tmp_path):
    train(tmp_path, train__epochs=1)
    with pytest.raises(RunError, match=r"optim\.lr: 0\.01 -> 0\.02"):
        train(tmp_path, train__epochs=1, optim__lr=0.02)


def test_without_a_name_the_experiment_names_its_folder_and_another_one_gets_another(tmp_path):
    one = train(tmp_path, run=None, train__epochs=1)
    again = train(tmp_path, run=None, train__epochs=1)
    other = train(tmp_path, run=None, train__epochs=1, optim__lr=0.02)
    assert one.run == again.run != other.run
    assert again.state == "already"


def test_a_dry_run_writes_nothing(tmp_path):
    outcome = train(tmp_path, options={"dry": True})
    assert outcome.state == "dry"
    assert outcome.plan.total_samples % outcome.plan.batch == 0
    assert not (tmp_path / "runs").exists()


def test_a_longer_training_asks_what_the_rate_is_to_do_and_then_goes_on(tmp_path):
    train(tmp_path, train__epochs=2)
    with pytest.raises(RunError, match="on_change=stretch, on_change=tail or on_change=restart"):
        train(tmp_path, train__epochs=4)
    outcome = train(tmp_path, train__epochs=4, options={"on_change": "tail"})
    rates = [line["lr"] for line in outcome.run.metrics() if line["kind"] == "train"]
    assert outcome.state == "finished"
    assert rates[-1] == pytest.approx(min(rates), abs=1e-6)  # the tail stays where the first schedule had ended
    assert outcome.run.metrics()[-1]["epoch"] == pytest.approx(4, abs=0.15)


def test_numbers_that_are_none_roll_back_once_with_a_lower_rate_and_are_never_saved(tmp_path):
    outcome = train(tmp_path, fault="step.loss:7:nan")
    (back,) = events(outcome.run, "rollback")
    assert back["rate_scale"] == 0.5
    assert outcome.state == "finished"
    assert all(np.isfinite(line["loss"]) for line in outcome.run.metrics())


def test_numbers_that_stay_none_end_the_training_with_the_names_of_the_samples(tmp_path):
    with pytest.raises(LearningError, match=r"step 6 .*class \d's/\d{4}\.png") as caught:
        train(tmp_path, fault=",".join(f"step.loss:{passage}:nan" for passage in range(7, 40)))
    assert "Nothing of it was saved" in str(caught.value)
    run = Run(tmp_path / "runs" / "run")
    assert run.status()["state"] == "failed"
    assert len(events(run, "nan")) == 2


def test_a_disk_too_small_for_the_saves_is_told_before_the_first_step(tmp_path, monkeypatch):
    for free, inodes in ((10, 10**6), (10**6, 10)):
        disk = SimpleNamespace(f_bavail=free, f_frsize=4096, f_files=10**6, f_favail=inodes)
        monkeypatch.setattr(os, "statvfs", lambda path, disk=disk: disk)
        told = rf"need 0\.1 MB and 28 files, found {free * 4096 / 1e6:,.1f} MB and {inodes:,} free inodes\. Free that"
        with pytest.raises(CheckpointError, match=told) as caught:
            train(tmp_path, train__epochs=1)
        assert caught.value.exit_code == 65
    run = Run(tmp_path / "runs" / "run")
    assert run.status()["state"] == "failed"
    assert not run.metrics() and not list(run.checkpoints.iterdir())
    monkeypatch.undo()
    assert train(tmp_path, train__epochs=1).state == "finished"


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "asgd", "rmsprop"])
def test_what_the_saves_are_said_to_need_is_enough_and_not_much_more(tmp_path, monkeypatch, optimizer):
    said = []
    monkeypatch.setattr(checkpoint, "room", lambda folder, bytes, **_: said.append(bytes))
    run = train(tmp_path, train__epochs=1, train__ema=0.9, model__width=400, optim={"kind": optimizer, "lr": 0.01}).run
    newest = run.checkpoints / (run.checkpoints / "latest").read_text().strip()
    taken = sum(file.stat().st_size for file in newest.glob("*.safetensors"))
    assert taken < said[0] + 6 * 4096 and said[0] < 2.1 * taken


def test_out_of_memory_halves_the_micro_batch_and_the_numbers_stay(tmp_path):
    changes = {"train__epochs": 2, "model__dropout": 0.0}
    plain = train(tmp_path, run="plain", train__micro=2, **changes)
    short = train(tmp_path, run="short", fault="step.forward:4:oom,step.forward:5:oom", **changes)
    assert [event["now"] for event in events(short.run, "micro_batch")] == [4, 2]
    for one, other in zip(plain.run.metrics(), short.run.metrics(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
    with pytest.raises(Again):
        train(tmp_path, run="next", fault="step.forward:2:oom,step.end:3:term", **changes)
    train(tmp_path, run="next", **changes)
    assert len(events(Run(tmp_path / "runs" / "next"), "micro_batch")) == 1  # the next start remembers


def test_a_sample_that_went_bad_is_named_once_and_replaced_by_its_own_class(tmp_path):
    root = folder_of_images(tmp_path / "images", each=40)
    train(tmp_path, root=root, train__epochs=1, run="before")
    with pytest.raises(Again):
        train(tmp_path, root=root, run="x", fault="step.end:1:term", train__max_bad=0.5)
    (root / "class 1's" / "0003.png").write_bytes(b"no image any more")
    with pytest.raises(RunError, match="changed under"):
        train(tmp_path, root=root, run="x", train__max_bad=0.5)


def test_changed_data_is_refused_or_accepted_on_purpose(tmp_path):
    root = folder_of_images(tmp_path / "images")
    with pytest.raises(Again):
        train(tmp_path, root=root, fault="step.end:2:term")
    (root / "class 0's" / "0000.png").unlink()
    with pytest.raises(
        RunError, match=r"in images: 1 gone, \d+ in another split; for example class 0's/0000\.png.*accept=true"
    ):
        train(tmp_path, root=root)
    assert train(tmp_path, root=root, options={"accept": True}).state == "finished"
    assert events(Run(tmp_path / "runs" / "run"), "data_changed")


def test_another_machine_or_other_versions_are_noted_when_a_run_carries_on(tmp_path):
    with pytest.raises(Again):
        train(tmp_path, fault="step.end:2:term")
    run = Run(tmp_path / "runs" / "run")
    (start,), plan = json.loads(run.provenance_file.read_text()), json.loads(run.plan_file.read_text())
    older = {**start, "python": "3.9.0", "gpus": ["Old GPU"], "packages": {**start["packages"], "torch": "1.0"}}
    run.provenance_file.write_text(json.dumps([older]))
    run.plan_file.write_text(json.dumps({**plan, "device": "cuda", "precision": "bf16"}))
    notes = Notes()
    assert train(tmp_path, view=notes).state == "finished"
    torch = start["packages"]["torch"]
    assert notes.all[0] == (
        f"other than at the last start: device cuda -> cpu, precision bf16 -> fp32, python 3.9.0 -> {start['python']}, "
        f"gpus Old GPU -> none, torch 1.0 -> {torch}; the last digits may differ"
    )
    told = [(event["setting"], event["now"]) for event in events(run, "machine_changed")]
    assert ("torch", torch) in told and ("precision", "fp32") in told and len(told) == 5


def test_an_image_that_was_overwritten_is_said_to_have_other_contents(tmp_path):
    root = folder_of_images(tmp_path / "images")
    with pytest.raises(Again):
        train(tmp_path, root=root, fault="step.end:2:term")
    (root / "class 0's" / "0000.png").write_bytes((root / "class 1's" / "0000.png").read_bytes())
    with pytest.raises(RunError, match=r"in images: 1 with other contents; for example class 0's/0000\.png"):
        train(tmp_path, root=root)


def test_a_run_given_as_a_path_is_that_folder(tmp_path):
    def folder(name):
        return experiments.locate(recipe(tmp_path), name, runs=tmp_path / "runs").path

    assert folder("x") == tmp_path / "runs" / "x"
    assert [folder(name) for name in ("./x", "x/", "./it's a run/x", "/x")] == [
        Path("x"), Path("x"), Path("it's a run/x"), Path("/x"),
    ]  # fmt: skip


def test_an_epoch_shorter_than_the_steps_between_lines_has_a_loss_too(tmp_path):
    seen = train(tmp_path, run="short", train__log=50).run.metrics()
    assert [line["kind"] for line in seen] == ["train", "val"] * 4
    often = [line for line in train(tmp_path, run="often", train__log=1).run.metrics() if line["kind"] == "train"]
    for line, after in zip(seen[::2], [0, *(line["samples"] for line in seen[::2])], strict=False):
        rows = [one["loss"] for one in often if after < one["samples"] <= line["samples"]]
        assert line["loss"] == pytest.approx(np.mean(rows))
    with pytest.raises(Again):
        train(tmp_path, run="stopped", train__log=50, fault="loop.evaluate:2:term")
    stopped = train(tmp_path, run="stopped", train__log=50)
    assert fingerprint(stopped.run) == fingerprint(Run(tmp_path / "runs" / "short"))


def test_training_stops_when_nothing_gets_better(tmp_path):
    outcome = train(tmp_path, train__epochs=30, optim__lr=1e-9, train__stop_early={"patience": 2})
    assert outcome.state == "early"
    assert outcome.run.metrics()[-1]["epoch"] < 6
    assert train(tmp_path, train__epochs=30, optim__lr=1e-9, train__stop_early={"patience": 2}).state == "early"


def test_the_best_is_chosen_by_number():
    assert is_better(10.2, 9.5, "max")
    assert not is_better(9.5, 10.2, "max")
    assert is_better(-1e-3, -1e-2, "max")
    assert is_better(1e-3, 5.0, "min")
    assert is_better(0.5, 0.5, "max") and is_better(0.5, 0.5, "min")  # of equals the later one
    assert not is_better(float("nan"), None, "max")


def test_patience_counts_evaluations_without_a_better_one():
    settings = StopEarly(patience=2, min_delta=0.01)
    assert not stops_early([0.5, 0.5], "max", settings)
    assert stops_early([0.5, 0.505, 0.505], "max", settings)
    assert not stops_early([0.5, 0.4, 0.52], "max", settings)
    assert stops_early([1.0, 1.1, float("nan")], "min", settings)
    assert not stops_early([1.0] * 9, "max", None)


def test_a_batch_smaller_than_the_ranks_is_refused(tmp_path):
    from instar import prepare
    from instar.engine import planning
    from instar.machine import Machine
    from tests.fakes.training import recipe

    experiment = recipe(folder_of_images(tmp_path / "images"), train__batch=2)
    manifest = prepare.manifest(experiment.data, experiment.seed)
    with pytest.raises(ConfigError, match="fewer than the 4 processes"):
        planning.plan(experiment, manifest, Machine(device="cpu"), devices=4)


@pytest.mark.parametrize("balance", ["none", "oversample", "sqrt"])
def test_what_was_seen_of_each_class_is_counted_and_is_what_the_balance_promises(tmp_path, balance):
    root = folder_of_images(tmp_path / "data", classes=3, each=24)
    for number in range(6, 24):
        (root / "class 2's" / f"{number:04d}.png").unlink()
    settings = {"task__balance": balance, "train__epochs": 3, "train__batch": 6, "data__split": {"test": 0, "val": 0.2}}
    with pytest.raises(Again):
        train(tmp_path, root=root, fault="step.end:9:term", **settings)
    outcome = train(tmp_path, root=root, **settings)
    total_K = np.sum([line["seen"] for line in outcome.run.metrics() if line["kind"] == "val"], axis=0)
    plan = outcome.plan
    assert sum(total_K) == plan.total_samples
    assert total_K == pytest.approx(np.array(plan.quotas_K) * plan.total_samples / plan.epoch_samples, abs=plan.batch)
    if balance == "oversample":
        assert total_K.max() - total_K.min() <= plan.batch
    evaluate.report(outcome.run)
    assert ">Balance</h2>" in outcome.run.report.read_text()
