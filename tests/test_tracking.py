"""Trackers beside a training: whatever they do, the run is not hurt, and waits for them only so long."""

import sys
import time

import pytest

from instar import points
from instar.engine.tracking import followers
from instar.errors import ConfigError
from instar.run import Run
from tests.fakes import misbehaving
from tests.fakes.tracked import append, ended, line, made_run, measured, saved

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a mirror dies with its training by a means of Linux")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(__import__("pathlib").Path(__file__).parent.parent))
    made = made_run(tmp_path)
    append(made, measured(range(1, 6), speed=1.0))
    saved(made, 40)
    ended(made)
    return made


def told(run: Run, how: str, seconds: float = 30.0) -> followers.Word:
    mirrors = followers.Followers([misbehaving.Settings(how=how)])
    mirrors.begin(run)
    time.sleep(1.5)
    (word,) = mirrors.end(seconds)
    return word


def failures(run: Run) -> list[str]:
    return [event["reason"] for event in run.events() if event["event"] == "tracker_failed"]


def test_one_that_hangs_is_given_up_after_a_bounded_time_and_noted(run):
    begun = time.monotonic()
    assert told(run, "hang", 1.0).problem == "it took too long"
    assert time.monotonic() - begun < 10
    assert failures(run) == ["it took too long"]
    assert run.status()["state"] == "done"  # what trackers do is not what the run does


def test_one_that_dies_is_noted(run):
    assert told(run, "die").problem == "it died"
    assert failures(run) == ["it died"]


def test_one_that_fails_is_noted_without_secrets_and_one_that_recovers_lacks_nothing(run, monkeypatch):
    monkeypatch.setenv("MISBEHAVING_TOKEN", "canary-11")
    word = told(run, "raise")
    assert word.problem == "ConnectionError: no route with $MISBEHAVING_TOKEN"
    assert failures(run) == [word.problem]
    assert not [file for file in run.path.rglob("*") if file.is_file() and b"canary" in file.read_bytes()]
    (run.trackers / misbehaving.Settings().kind / "tried").unlink()
    assert told(run, "once").problem == ""
    lines = (run.trackers / misbehaving.Settings().kind / "told").read_text().splitlines()
    assert lines == ["1 train", "2 train", "3 train", "4 train", "5 train", "5 val"]


def test_what_people_are_told_says_how_to_make_up_for_it():
    words = [followers.Word("mlflow", "", "it died"), followers.Word("wandb", "wandb sync x", "")]
    assert followers.told(words, "'a b'") == [
        "track    mlflow lacks something (it died); later: instar track 'a b' to=mlflow",
        "track    wandb: wandb sync x",
    ]


def test_other_peoples_secrets_and_the_scheduler_are_not_in_its_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "SLURM_JOB_ID", "MY_PASSWORD", "PLAIN"):
        monkeypatch.setenv(name, "x")
    seen = followers._environment(("MLFLOW_",))
    assert {"MLFLOW_TRACKING_TOKEN", "PLAIN"} <= set(seen)
    assert not {"HF_TOKEN", "SLURM_JOB_ID", "MY_PASSWORD"} & set(seen)


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(misbehaving, "PACKAGES", ("no_such_package_here",))
    with pytest.raises(ConfigError, match=r"needs no_such_package_here.*pip install 'instar\[trackers\]'"):
        followers.check([misbehaving.Settings()])


def test_points_are_the_numbers_of_a_line_under_the_name_of_its_kind():
    (point,) = points.of([line("val", 5, accuracy=0.5, best=True, seen=[1], note="x"), {"kind": "odd"}])
    assert point.values == {"samples": 40.0, "epoch": 1.0, "val/accuracy": 0.5}
    assert (point.kind, point.step) == ("val", 5)


def test_what_was_told_is_not_told_again_even_where_a_resume_went_further_back():
    known = points.of([line("train", 4), line("train", 5), line("val", 5), line("train", 6)])
    assert [(p.step, p.kind) for p in points.after(known, (5, "train"))] == [(5, "val"), (6, "train")]
    assert points.after(known[:1], (5, "train")) == []
    assert points.after(known, None) == known


def test_metrics_that_no_checkpoint_remembers_are_not_kept(run):
    length = run.metrics_file.stat().st_size
    append(run, measured(range(6, 8), speed=1.0))
    assert run.kept_metrics() == length
    assert Run(run.path / "none").kept_metrics() == 0
