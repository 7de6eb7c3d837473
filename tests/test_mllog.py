"""The log that MLPerf's checker reads: complete, honest, and right after a kill."""

import errno
import json
import os
import subprocess
import sys

import pytest

from instar.bench.check import check
from instar.engine.mllog import lines
from instar.errors import Again, ConfigError
from tests.fakes.images import folder_of_images
from tests.fakes.training import train

MLPERF = {"benchmark": "deepcam", "organisation": "a lab", "platform": "two cores"}
# The small classifier reaches it in an epoch or two; the checker wants no less than 0.82.
WON = {"mlperf": MLPERF, "train__target": 0.83, "train__metric": "accuracy", "optim__lr": 0.03, "train__epochs": 20}
ONCE = (
    "submission_org",
    "init_stop",
    "run_start",
    "run_stop",
    "train_samples",
    "global_batch_size",
    "opt_name",
    "seed",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return folder_of_images(tmp_path_factory.mktemp("of") / "some 'images'")


def said(outcome):
    return list(lines(outcome.run.mlperf_file))


def values(outcome, key):
    return [line["value"] for line in said(outcome) if line["key"] == key]


def test_a_run_that_reaches_its_target_stops_there_and_passes_the_checker(tmp_path, images):
    outcome = train(tmp_path, root=images, **WON)
    assert outcome.state == "target"
    assert outcome.best["value"] >= 0.83
    verdict = check(outcome.run.path)
    assert verdict.passed, verdict.complaints
    assert verdict.division == "open" and verdict.minutes is not None
    stop = said(outcome)[-1]
    assert stop["key"] == "run_stop" and stop["metadata"]["status"] == "success"
    assert values(outcome, "eval_accuracy")[-1] == outcome.best["value"]
    assert len(outcome.run.metrics()) > 0
    assert values(outcome, "tracked_stats")[0]["throughput"] > 0


def test_a_run_that_misses_its_target_says_so_and_fails_the_checker(tmp_path, images):
    outcome = train(tmp_path, root=images, **(WON | {"train__target": 1.1, "train__epochs": 1}))
    assert outcome.state == "finished"
    assert said(outcome)[-1]["metadata"]["status"] == "aborted"
    assert "target_accuracy_reached" not in [line["key"] for line in said(outcome)]
    outcome = train(
        tmp_path,
        root=images,
        run="low",
        **(WON | {"train__target": 0.1, "train__metric": "loss", "train__mode": "max"}),
    )
    verdict = check(outcome.run.path) if values(outcome, "eval_accuracy")[-1] < 0.82 else None
    assert verdict is None or not verdict.passed


def test_what_was_chosen_is_logged_under_the_checkers_keys(tmp_path, images):
    outcome = train(
        tmp_path,
        root=images,
        **(WON | {"train__epochs": 1, "train__target": None, "train__micro": 2}),
        optim={"kind": "lamb", "lr": 0.004, "weight_decay": 0.01, "decay_all": True},
        schedule={"kind": "deepcam", "lr_warmup_steps": 3, "milestones": [4], "decay_rate": 0.5},
    )
    found = {line["key"]: line["value"] for line in said(outcome)}
    wanted = {
        "opt_name": "LAMB",
        "opt_lr": 0.004,
        "opt_betas": [0.9, 0.999],
        "opt_eps": 1e-6,
        "opt_weight_decay": 0.01,
        "opt_bias_correction": True,
        "opt_grad_averaging": True,
        "opt_max_grad_norm": 1.0,
        "scheduler_type": "multistep",
        "scheduler_lr_warmup_steps": 3,
        "scheduler_lr_warmup_factor": 1.0,
        "scheduler_milestones": [4],
        "scheduler_decay_rate": 0.5,
        "global_batch_size": 8,
        "gradient_accumulation_frequency": 4,
        "batchnorm_group_size": 1,
        "number_of_nodes": 1,
        "accelerators_per_node": 0,
        "submission_org": "a lab",
        "cache_clear": False,
        "seed": 7,
    }
    assert {key: found[key] for key in wanted} == wanted
    assert found["train_samples"] == outcome.plan.train_rows and found["eval_samples"] == outcome.plan.val_rows


@pytest.mark.parametrize(
    "fault", ["step.begin:1:raise", "step.end:3:raise", "loop.evaluate:1:raise", "step.end:8:raise"]
)
def test_a_run_that_broke_off_and_was_resumed_passes_the_checker(tmp_path, images, fault):
    with pytest.raises(RuntimeError, match="on purpose"):
        train(tmp_path, root=images, fault=fault, **WON)
    outcome = train(tmp_path, root=images, **WON)
    assert outcome.state == "target"
    verdict = check(outcome.run.path)
    assert verdict.passed, verdict.complaints
    keys = [line["key"] for line in said(outcome)]
    assert {key: keys.count(key) for key in ONCE} == dict.fromkeys(ONCE, 1)
    assert keys.count("resumed") == 1


def test_a_run_broken_off_before_it_began_logs_its_start_once(tmp_path, images, monkeypatch):
    from instar.engine.mllog import BenchmarkLog

    monkeypatch.setattr(BenchmarkLog, "going_on", lambda self, training: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, root=images, **WON)
    monkeypatch.undo()
    outcome = train(tmp_path, root=images, **WON)
    assert check(outcome.run.path).passed
    assert len(values(outcome, "init_start")) == 1


def test_bringing_data_to_the_node_is_timed(tmp_path, images):
    outcome = train(tmp_path, root=images, machine={"stage": str(tmp_path / "a disk")}, **WON)
    keys = [line["key"] for line in said(outcome)]
    assert keys.index("init_start") < keys.index("staging_start") < keys.index("staging_stop") < keys.index("run_start")
    assert check(outcome.run.path).passed


def test_half_a_line_of_a_kill_is_taken_away(tmp_path, images):
    with pytest.raises(RuntimeError):
        train(tmp_path, root=images, fault="step.end:3:raise", **WON)
    log = tmp_path / "runs" / "run" / "mlperf.log"
    with log.open("a") as file:
        file.write(':::MLLOG {"namespace": "", "time_ms": 1795')
    outcome = train(tmp_path, root=images, **WON)
    assert all(json.loads(line.removeprefix(":::MLLOG ")) for line in log.read_text().splitlines())
    assert check(outcome.run.path).passed


def test_starting_again_after_the_end_adds_nothing(tmp_path, images):
    outcome = train(tmp_path, root=images, **WON)
    before = outcome.run.mlperf_file.read_bytes()
    assert train(tmp_path, root=images, **WON).state in ("target", "already")
    assert outcome.run.mlperf_file.read_bytes() == before


def test_who_ran_it_may_change_and_is_no_other_experiment(tmp_path, images):
    with pytest.raises(RuntimeError):
        train(tmp_path, root=images, fault="step.end:3:raise", **WON)
    outcome = train(tmp_path, root=images, **(WON | {"mlperf": MLPERF | {"organisation": "another lab"}}))
    assert values(outcome, "submission_org") == ["a lab"]


def test_nothing_is_logged_and_nothing_needed_where_no_log_is_asked_for(tmp_path, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_logging.mllog.mllog", None)
    outcome = train(tmp_path, root=images, train__epochs=1)
    assert not outcome.run.mlperf_file.exists()


def test_without_the_package_it_says_what_to_install(tmp_path, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_logging.mllog.mllog", None)
    with pytest.raises(ConfigError, match=r"instar\[mlperf\]"):
        train(tmp_path, root=images, **WON)


def test_a_log_that_cannot_be_written_stops_in_good_order(tmp_path, images, monkeypatch):
    real = os.write

    def full(file, data):
        if b"eval_accuracy" in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Again, match="cannot be written"):
        train(tmp_path, root=images, **WON)
    monkeypatch.undo()
    assert check(train(tmp_path, root=images, **WON).run.path).passed


def test_nothing_of_it_goes_to_the_terminal(tmp_path, images, capfd):
    train(tmp_path, root=images, **WON)
    assert "MLLOG" not in "".join(capfd.readouterr())


@pytest.mark.scenario
@pytest.mark.parametrize("groups", [1, 2])
def test_two_ranks_killed_and_resumed_are_as_two_never_killed(tmp_path, groups):
    """Slow: four starts of two processes that import torch."""
    from tests.fakes.masks import folder_of_fields

    fields = folder_of_fields(tmp_path / "some 'fields'")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
data: {{root: {json.dumps(str(fields))}, reader: {{kind: field, classes: [a, b, c]}}}}
model: {{kind: tests.fakes.tiny_fcn}}
task: {{kind: segmentation, weight_power: 0.125}}
augment: {{kind: field}}
optim: {{kind: lamb, lr: 0.03, decay_all: true}}
train: {{epochs: 6, batch: 4, metric: sample_iou, sync_bn: {groups}, average_bn: true, every: 3 steps, log: 2}}
mlperf: {{benchmark: deepcam}}
"""
    )

    def run(name, fault=""):
        words = [
            sys.executable,
            "-m",
            "instar",
            "train",
            str(recipe),
            f"run={tmp_path / name}",
            "devices=2",
            "device=cpu",
        ]
        environ = {**os.environ, "INSTAR_FAULT": fault, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*words, "workers=0"], env=environ, capture_output=True, text=True, timeout=300, check=False
        )

    whole = run("whole")
    assert whole.returncode == 0, whole.stderr
    assert run("killed", "step.end@1:8:kill").returncode != 0
    again = run("killed")
    assert again.returncode == 0, again.stderr

    from instar.run import Run
    from tests.fakes.training import fingerprint

    first, second = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    assert fingerprint(first) == fingerprint(second)
    log = list(lines(second.mlperf_file))
    keys = [line["key"] for line in log]
    assert {key: keys.count(key) for key in ONCE} == dict.fromkeys(ONCE, 1)
    group = next(line["value"] for line in log if line["key"] == "batchnorm_group_size")
    assert group == groups
    complaints = check(second.path).complaints
    assert all("eval_accuracy" in one or "target" in one for one in complaints), complaints
