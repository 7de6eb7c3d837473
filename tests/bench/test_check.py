"""Logs through MLPerf's own checker, and what it cannot see."""

import json

import pytest

from instar import cli
from instar.bench.check import check
from instar.errors import DataError

CLOSED = {
    "submission_benchmark": "deepcam",
    "submission_org": "a lab",
    "submission_division": "closed",
    "submission_status": "onprem",
    "submission_platform": "64xDGX",
    "cache_clear": True,
    "seed": 333,
    "number_of_nodes": 64,
    "accelerators_per_node": 8,
    "global_batch_size": 1024,
    "batchnorm_group_size": 1,
    "gradient_accumulation_frequency": 1,
    "opt_name": "LAMB",
    "opt_lr": 0.004,
    "opt_betas": [0.9, 0.999],
    "opt_eps": 1e-6,
    "opt_bias_correction": True,
    "opt_grad_averaging": True,
    "opt_max_grad_norm": 1.0,
    "scheduler_type": "multistep",
    "scheduler_milestones": [1100, 4096],
    "scheduler_decay_rate": 0.1,
    "scheduler_lr_warmup_steps": 200,
    "scheduler_lr_warmup_factor": 1.0,
    "train_samples": 121266,
    "eval_samples": 15158,
}


def written(folder, points, *, accuracy=0.83, status="success", before=()):
    """A log as somebody else's program would have made it: `points`, then one epoch in two minutes."""
    rows = [("init_start", None, {}), *((key, value, {}) for key, value in points.items()), ("init_stop", None, {})]
    rows += [
        ("run_start", None, {}),
        *before,
        ("epoch_start", None, {"epoch_num": 1}),
        ("eval_start", None, {"epoch_num": 1}),
    ]
    rows += [("eval_accuracy", accuracy, {"epoch_num": 1}), ("eval_stop", None, {"epoch_num": 1})]
    rows += [("epoch_stop", None, {"epoch_num": 1}), ("run_stop", None, {"status": status})]
    kinds = {"start": "INTERVAL_START", "stop": "INTERVAL_END"}
    text = "some other output\n"
    for number, (key, value, metadata) in enumerate(rows):
        line = {
            "namespace": "",
            "time_ms": 1_700_000_000_000 + number * 1000 + (120_000 if key == "run_stop" else 0),
            "event_type": kinds.get(key.rpartition("_")[2], "POINT_IN_TIME"),
            "key": key,
            "value": value,
            "metadata": {"file": "train.py", "lineno": 1, **metadata},
        }
        text += f":::MLLOG {json.dumps(line)}\n"
    file = folder / "it's $(a) log.txt"
    file.write_text(text)
    return file


def test_a_whole_log_of_the_closed_division_passes(tmp_path):
    verdict = check(written(tmp_path, CLOSED))
    assert verdict.passed and verdict.division == "closed" and not verdict.complaints
    assert verdict.minutes == pytest.approx(2 + 6 / 60, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"train_samples": 64}, "train_samples"),
        ({"opt_eps": 1e-8}, "opt_eps"),
        ({"opt_name": "SGD"}, "opt_name"),
        ({"scheduler_decay_rate": 2.0}, "scheduler_decay_rate"),
        ({"submission_org": ""}, "submission_org"),
    ],
)
def test_a_log_of_the_closed_division_that_breaks_a_rule_fails(tmp_path, changes, complaint):
    verdict = check(written(tmp_path, CLOSED | changes))
    assert not verdict.passed
    assert complaint in " ".join(verdict.complaints)


def test_a_log_without_the_keys_of_the_checker_fails_naming_each(tmp_path):
    old = {key: value for key, value in CLOSED.items() if not key.startswith(("opt_", "scheduler_"))}
    verdict = check(written(tmp_path, old | {"optimizer_name": "LAMB"}))
    assert not verdict.passed
    assert {"opt_name", "scheduler_type"} <= {word.strip("'") for one in verdict.complaints for word in one.split()}


def test_a_start_said_twice_fails(tmp_path):
    verdict = check(written(tmp_path, CLOSED, before=[("init_start", None, {})]))
    assert not verdict.passed


def test_the_open_division_asks_for_the_target_only(tmp_path):
    few = {key: value for key, value in CLOSED.items() if key.startswith(("submission", "cache"))} | {
        "submission_division": "open",
        "train_samples": 64,
        "eval_samples": 16,
    }
    assert check(written(tmp_path, few)).passed
    missed = check(written(tmp_path, few, accuracy=0.5, status="aborted"))
    assert not missed.passed
    assert "the target was missed: the best eval_accuracy is 0.5" in missed.complaints


@pytest.mark.parametrize("text", ["", "hello\n", ":::MLLOG {broken\n", ":::MLLOG 7\n"])
def test_what_is_no_log_fails(tmp_path, text):
    file = tmp_path / "log"
    file.write_text(text)
    assert not check(file).passed


def test_no_log_is_said(tmp_path):
    with pytest.raises(DataError, match="there is no such log"):
        check(tmp_path)


def test_the_command_says_what_came_of_it_by_its_exit_code(tmp_path, capsys):
    good, bad = written(tmp_path, CLOSED), tmp_path / "bad"
    assert cli.main(["bench", "deepcam", "--check", str(good)]) == 0
    assert "SUCCESS" in capsys.readouterr().out
    bad.write_text("")
    assert cli.main(["bench", "deepcam", "--check", str(bad), "--json"]) == 65
    assert json.loads(capsys.readouterr().out)["passed"] is False
