"""Runs that differ in their seed only are trials: their mean, with its interval."""

import json

import pytest
from scipy import stats

from instar import trials
from instar.cli import main
from instar.run import Run


def run_of(folder, name, *, seed, lr, score):
    run = Run(folder / name)
    run.path.mkdir(parents=True)
    run.experiment_file.write_text(f"seed: {seed}\noptim: {{kind: sgd, lr: {lr}}}\nname: {name}\n")
    run.scores_file("test").parent.mkdir()
    run.scores_file("test").write_text(json.dumps({"accuracy": score, "loss": 1 - score, "rows": 10}))
    return run


@pytest.fixture
def runs(tmp_path):
    scores = [0.9, 0.92, 0.97]
    mine = [run_of(tmp_path, f"a{seed}", seed=seed, lr=0.1, score=value) for seed, value in enumerate(scores)]
    return [*mine, run_of(tmp_path, "b", seed=0, lr=0.2, score=0.95)]


def test_trials_of_a_recipe_are_found_by_their_seeds(runs):
    assert [[run.name for run in group] for group in trials.groups(runs)] == [["a0", "a1", "a2"], ["b"]]


def test_the_interval_is_that_of_a_t_test():
    values = [0.9, 0.92, 0.97]
    mean, interval = trials.mean_of(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval == pytest.approx((expected.low, expected.high))
    assert mean == pytest.approx(0.93)


def test_compare_shows_means_best_first(runs, capsys):
    assert main(["compare", *(str(run.path) for run in runs)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].split()[:3] == ["b", "95.0", "%"]
    assert told[2].split() == "a0 93.0 % [84.0, 100.0] 90.0 % 97.0 % 3 0, 1, 2".split()  # a share of one ends at one
    assert any("optim.lr: 0.1 -> 0.2" in line for line in told)


def test_recipes_whose_trials_were_scored_on_other_rows_are_told_so(runs, capsys):
    for run, rows in zip(runs, ("x", "y", "z", "x"), strict=True):
        scores = json.loads(run.scores_file("test").read_text())
        run.scores_file("test").write_text(json.dumps({**scores, "about": {"rows_hash": rows}}))
    assert main(["compare", *(str(run.path) for run in runs)]) == 0
    assert "not all were scored on the same rows" in capsys.readouterr().out
    assert main(["compare", str(runs[0].path), str(runs[1].path)]) == 0
    assert "not all" not in capsys.readouterr().out


def test_what_the_recipe_watches_says_which_is_better(runs):
    for run in runs:
        run.experiment_file.write_text(
            run.experiment_file.read_text() + "train: {monitor: accuracy, monitor_mode: min}\n"
        )
    assert trials.compare(trials.groups(runs), split="test", metric="accuracy")[0]["name"] == "a0"


def test_less_loss_is_better(runs):
    rows = trials.compare(trials.groups(runs), split="test", metric="loss")
    assert [row["name"] for row in rows] == ["b", "a0"]
