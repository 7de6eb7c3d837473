import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from instar import evaluate, manifest
from instar import predictions as stored
from instar.errors import CheckpointError, DataError, RunError
from instar.machine import Machine
from instar.predictions import Predictions
from instar.run import Run
from instar.tasks import classification
from tests.report import made

HERE = Machine(workers=0, device="cpu", devices=1)


# --- a real training, evaluated -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from tests.fakes.training import train

    return train(tmp_path_factory.mktemp("it's a run"), train__epochs=3, train__ema=0.5).run


def test_every_row_is_predicted_once_and_the_scores_are_those_of_the_file(trained):
    scores = evaluate.evaluate(trained, split="test", machine=HERE)
    found, rows = stored.read(trained.predictions("test")), manifest.read(trained.manifest_file)
    expected = [rows.ids[row] for row in rows.rows("test").tolist()]
    assert list(found.ids) == expected and len(set(found.ids)) == len(expected) == scores["rows"]
    np.testing.assert_array_equal(found.label_N, rows.targets[rows.rows("test")])
    assert found.paths == [str(rows.path(row)) for row in rows.rows("test").tolist()]
    about = scores.pop("about")
    assert scores == classification.scores(found) and trained.scores("test") == scores | {"about": about}
    assert about["checkpoint"] and about["parameters"] > 0 and about["manifest"] == rows.hash


def test_the_best_checkpoint_gives_the_score_that_made_it_best(trained):
    scores = evaluate.evaluate(trained, split="val", machine=HERE)
    best = max((line for line in trained.metrics() if line["kind"] == "val"), key=lambda line: line["accuracy"])
    assert scores["accuracy"] == pytest.approx(best["accuracy"])
    assert scores["about"]["samples"] == best["samples"]


def test_an_evaluation_leaves_a_page_and_a_word_in_the_events(trained):
    evaluate.evaluate(trained, split="test", machine=HERE)
    assert trained.events()[-1]["event"] == "evaluated" and trained.status()["state"] == "done"
    page = trained.report.read_text(encoding="utf-8")
    assert "accuracy" in page and "Confusions" in page and "data:image/png;base64" in page


def test_the_latest_checkpoint_can_be_asked_for(trained):
    scores = evaluate.evaluate(trained, split="test", checkpoint="latest", machine=HERE)
    assert scores["about"]["samples"] == max(line["samples"] for line in trained.metrics())


def test_the_size_of_a_batch_changes_no_prediction(trained, tmp_path, monkeypatch):
    from instar.engine import planning

    evaluate.evaluate(trained, split="test", machine=HERE)
    whole = stored.read(trained.predictions("test"))
    plan = planning.plan
    monkeypatch.setattr(planning, "plan", lambda *given, **named: replace(plan(*given, **named), micro=3))
    evaluate.evaluate(trained, split="test", machine=HERE)
    parts = stored.read(trained.predictions("test"))
    np.testing.assert_allclose(parts.probability_NK, whole.probability_NK, atol=1e-6)


def test_an_image_that_is_torn_by_now_is_named_and_not_scored(tmp_path):
    from tests.fakes.training import train

    run = train(tmp_path, train__epochs=1).run
    rows = manifest.read(run.manifest_file)
    torn = rows.path(int(rows.rows("test")[0]))
    torn.write_bytes(torn.read_bytes()[:40])
    scores = evaluate.evaluate(run, machine=HERE)
    assert scores["unlabelled"] == scores["about"]["unreadable"] == 1
    assert scores["rows"] == len(rows.rows("test")) - 1
    (event,) = [event for event in run.events() if event["event"] == "bad_sample"]
    assert torn.name in event["path"] and "1 images could not be read" in run.report.read_text()


def test_what_cannot_be_evaluated_is_said(trained, tmp_path):
    with pytest.raises(RunError, match=r"manifest\.parquet is missing"):
        evaluate.evaluate(made.run(tmp_path), machine=HERE)
    empty = Run(tmp_path / "empty")
    empty.path.mkdir()
    empty.experiment_file.write_bytes(trained.experiment_file.read_bytes())
    empty.manifest_file.write_bytes(trained.manifest_file.read_bytes())
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        evaluate.evaluate(empty, machine=HERE)
    with pytest.raises(DataError, match="split=test or split=val or split=train"):
        evaluate.evaluate(trained, split="tset", machine=HERE)


# --- the page from files alone --------------------------------------------------------------------------------------


def test_a_page_without_predictions_says_how_to_make_them(tmp_path):
    run = made.run(tmp_path)
    text = evaluate.report(run).read_text(encoding="utf-8")
    assert "There are no predictions of the test split yet" in text and "<h2>Learning</h2>" in text


def test_a_folder_with_nothing_but_its_experiment_has_a_page(tmp_path):
    run = Run(tmp_path / "new")
    run.path.mkdir()
    run.experiment_file.write_text(made.RECIPE)
    assert "Nothing was measured yet" in evaluate.report(run).read_text(encoding="utf-8")


def test_a_page_shows_the_split_there_is(tmp_path):
    run = made.run(tmp_path)
    stored.write(made.predictions(tmp_path / "pictures"), run.predictions("val"))
    assert "val split" in evaluate.report(run).read_text(encoding="utf-8")


def test_a_kill_while_the_page_is_written_leaves_the_old_one(tmp_path):
    run = made.run(tmp_path)
    before = evaluate.report(run).read_bytes()
    code = (
        "import sys; from pathlib import Path; from instar import evaluate; from instar.engine import faults; "
        "from instar.run import Run; faults.arm('report.write:1:kill'); evaluate.report(Run(Path(sys.argv[1])))"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(run.path)], check=False)
    assert ended.returncode == -signal.SIGKILL and run.report.read_bytes() == before


# --- side by side ---------------------------------------------------------------------------------------------------


def scored(folder, name, *, right=0.8, rows=200, seed=0, drop=0, lr=0.001):
    """A run with predictions and scores, without a training behind them."""
    run = Run(folder / name)
    run.path.mkdir(parents=True)
    run.experiment_file.write_text(made.RECIPE.replace("lr: 0.001", f"lr: {lr}"))
    label_N = np.arange(rows) % 3
    answer_N = np.where(np.random.default_rng(seed).random(rows) < right, label_N, (label_N + 1) % 3)
    names = [f"{row}.png" for row in range(rows)][drop:]
    found = Predictions(names, names, label_N[drop:], np.eye(3)[answer_N][drop:], ("a", "b", "c"))
    stored.write(found, run.predictions("test"))
    about = {"about": {"rows_hash": evaluate.rows_hash(found), "parameters": 1000}}
    run.scores_file("test").write_text(json.dumps(classification.scores(found) | about))
    run.log_event("started", samples=0)
    run.log_event("finished", samples=100)
    return run


def test_runs_stand_side_by_side_with_the_best_first(tmp_path):
    runs = [scored(tmp_path, "worse", right=0.6, lr=0.01), scored(tmp_path, "better", right=0.9, seed=1)]
    better, worse = evaluate.compare(runs)
    assert (better["name"], worse["name"], better["metric"]) == ("better", "worse", "accuracy")
    assert better["interval"][0] < better["value"] < better["interval"][1] and better["parameters"] == 1000
    assert better["differences"] == () and worse["differences"] == ("optim.lr: 0.001 -> 0.01",)
    difference, low, high = worse["ahead"]
    assert difference == pytest.approx(worse["value"] - better["value"]) and low < difference < high < 0
    assert better["ahead"] is None
    json.dumps([better, worse])


def test_two_runs_that_answer_alike_are_not_told_apart(tmp_path):
    runs = [scored(tmp_path, "one", right=0.8), scored(tmp_path, "other", right=0.8)]
    assert evaluate.compare(runs)[1]["ahead"] == (0, 0, 0)


def test_scores_of_different_rows_are_not_compared(tmp_path):
    runs = [scored(tmp_path, "one"), scored(tmp_path, "other", drop=1)]
    with pytest.raises(RunError, match="other and one were scored on different test rows"):
        evaluate.compare(runs)


def test_a_run_without_scores_is_named(tmp_path):
    with pytest.raises(RunError, match=r"instar evaluate it's a <run>"):
        evaluate.compare([scored(tmp_path, "one"), made.run(tmp_path)])
    with pytest.raises(RunError, match="at least two"):
        evaluate.compare([])


def test_the_hash_of_rows_knows_names_and_labels_but_no_order():
    def of(ids, labels, classes=("a", "b")):
        return evaluate.rows_hash(Predictions(ids, ids, np.array(labels), np.full((2, 2), 0.5), classes))

    assert of(["x", "y"], [0, 1]) == of(["y", "x"], [1, 0]) == of(["x", "y"], [1, 0], ("b", "a"))
    assert len({of(["x", "y"], labels) for labels in ([0, 1], [1, 1], [0, -1])}) == 3
