"""Trackers mirror metrics.jsonl, one curve a run, and can do a training no harm."""

import csv
import json
import secrets
import sys
import time

import pytest

from instar import mirror
from instar.cli import main
from instar.run import Run
from tests.fakes.training import train


def run_with(folder, points):
    run = Run(folder / "a run's $(name)")
    run.path.mkdir(parents=True, exist_ok=True)
    run.experiment_file.write_text("seed: 3\noptim: {lr: 0.1}\n")
    run.events_file.write_text("")
    write(run, points)
    return run


def write(run, points):
    lines = [{"kind": "val", "samples": samples, "epoch": samples / 10, "accuracy": value, "time": 1.0e9 + samples}
             for samples, value in points]  # fmt: skip
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


CURVE = [(10, 0.1), (20, 0.4), (30, 0.9)]


def cut_and_go_on(tmp_path, kind):
    """Mirror, lose a point to a kill and measure it again, mirror; returns the run."""
    run = run_with(tmp_path, CURVE[:2])
    wanted = mirror.settings_of([kind])
    assert mirror.mirror(run, wanted) == {}
    write(run, CURVE[:1])
    assert mirror.mirror(run, wanted) == {}
    write(run, CURVE)
    assert mirror.mirror(run, wanted) == {}
    return run


def test_a_table_has_every_point_once(tmp_path):
    run = cut_and_go_on(tmp_path, "csv")
    with open(run.trackers / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["samples"]), float(row["accuracy"])) for row in rows] == CURVE


def test_tensorboard_has_one_curve(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = cut_and_go_on(tmp_path, "tensorboard")
    found = EventAccumulator(str(run.trackers / "tensorboard"))
    found.Reload()
    points = [(point.step, pytest.approx(point.value)) for point in found.Scalars("val/accuracy")]
    assert [(step, value) for step, value in points] == CURVE


@pytest.mark.scenario  # MLflow makes its database in several seconds
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_mlflow_has_one_run_with_one_curve_in_a_file_of_ones_own(tmp_path, monkeypatch):
    run = cut_and_go_on(tmp_path, "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.path.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("instar")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["optim.lr"] == "0.1"
    history = client.get_metric_history(found.info.run_id, "val/accuracy")
    assert [(point.step, point.value) for point in history] == CURVE


@pytest.mark.scenario  # wandb starts a service of its own for every start
@pytest.mark.filterwarnings("ignore")
def test_wandb_is_written_without_a_network_under_one_name(tmp_path):
    run = cut_and_go_on(tmp_path, "wandb")
    parts = sorted((run.trackers / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    assert len({part.name.rpartition("-")[2] for part in parts}) == 1


BROKEN = """
from typing import Literal
from instar.settings import Settings as Base
class Settings(Base):
    kind: Literal["{name}"] = "{name}"
def open(settings, run, recipe, state):
    {act}
"""


@pytest.fixture
def broken(tmp_path, monkeypatch):
    package = tmp_path / f"mine_{secrets.token_hex(4)}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(path for path in sys.path if path)}")

    def put(name, act):
        kind = f"{package.name}.{name}"
        (package / f"{name}.py").write_text(BROKEN.format(name=kind, act=act))
        return kind

    return put


def test_one_that_raises_hurts_neither_the_training_nor_the_others(tmp_path, broken):
    kind = broken("raises", "raise OSError('no such server')")
    outcome = train(tmp_path, track=[kind, "csv"])
    assert outcome.state == "finished"
    rows = (outcome.run.trackers / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + len(outcome.run.metrics())
    assert "no such server" in (outcome.run.trackers / "log.txt").read_text()


def test_one_that_hangs_is_left_behind(tmp_path, broken, monkeypatch):
    monkeypatch.setattr(mirror, "_LAST", 0.5)
    begun = time.monotonic()
    outcome = train(tmp_path, track=[broken("hangs", "import time; time.sleep(600)")])
    assert outcome.state == "finished"
    assert time.monotonic() - begun < 60
    assert any(event["event"] == "tracker" for event in outcome.run.events())


def test_one_that_nobody_knows_is_named_with_the_near_miss(tmp_path, capsys):
    run = run_with(tmp_path, CURVE)
    assert main(["track", str(run.path), "to=tensorbord"]) == 65
    assert "did you mean 'tensorboard'" in capsys.readouterr().err
