"""What every tracker on the shelf promises: one curve a run, with no point twice and none missing, after any kill."""

import csv
import json
import os
import shlex
import signal
import socket
import struct
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import pytest

from instar import plugins, points
from instar.engine.tracking.followers import Followers
from tests.fakes.tracked import append, ended, made_run, measured, saved

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="a mirror dies with its training by a means of Linux"),
    pytest.mark.filterwarnings("ignore"),  # of the libraries we read back with
]
KINDS = plugins.kinds("trackers")
SLOW = [
    pytest.param(kind, marks=pytest.mark.scenario if kind == "mlflow" else ()) for kind in KINDS
]  # it makes 40 tables


# --- read back with the backend's own reader: {name: [(step, value), …]} ----------------------------------------------


def read_csv(run):
    found = defaultdict(list)
    for row in csv.DictReader((run.trackers / "csv" / "metrics.csv").open(newline="")):
        for name, value in row.items():
            if value and name not in ("step", "kind", "time"):
                found[name].append((int(row["step"]), float(value)))
    return found


def read_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.trackers / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def mlflow_run(run):
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.path.parent.absolute() / 'mlflow.db'}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    (found,) = client.search_runs(experiments)
    return client, found


def read_mlflow(run):
    client, found = mlflow_run(run)
    name = found.info.run_id
    return {key: [(one.step, one.value) for one in client.get_metric_history(name, key)] for key in found.data.metrics}


def wandb_records(run):
    """The records of the one offline file. Its frame is LevelDB's log format; the records are W&B's own."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (run.trackers / "wandb").glob("offline-run-*/*.wandb")
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def read_wandb(run):
    found = defaultdict(list)
    for record in wandb_records(run):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                if "/" in name:
                    found[name].append((row["step"], value))
    return found


READ = {"csv": read_csv, "tensorboard": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb}


def curves(run):
    """What metrics.jsonl says, the truth."""
    found = defaultdict(list)
    for point in points.of(run.metrics()):
        for name, value in point.values.items():
            if "/" in name:
                found[name].append((point.step, value))
    return found


def check_curves(kind, run):
    """What the backend's own reader finds is metrics.jsonl. The steps are exactly those of the truth, and so are the numbers but for speeds, which a resume measures anew."""
    told = READ[kind](run)
    for name, expected in curves(run).items():
        assert [step for step, _ in told[name]] == [step for step, _ in expected], name
        if "images_per_second" not in name:
            assert [value for _, value in told[name]] == pytest.approx([value for _, value in expected], rel=1e-6)


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
    """Whatever a library looks up or connects to in Python is refused and written down, by a hook it cannot avoid."""
    hook, asked = tmp_path / "hook" / "sitecustomize.py", tmp_path / "hook" / "asked"
    hook.parent.mkdir()
    hook.write_text(
        "import sys\n"
        "def look(event, args):\n"
        "    named = event == 'socket.getaddrinfo' or event == 'socket.gethostbyname'\n"
        "    if named and args[0] != '127.0.0.1' or event == 'socket.connect' and isinstance(args[1], tuple) and args[1][0] != '127.0.0.1':\n"
        f"        open({str(asked)!r}, 'a').write(f'{{event}} {{args}}\\n')\n"
        "        raise OSError('there is no network in this test')\n"
        "sys.addaudithook(look)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{hook.parent}{os.pathsep}{Path(__file__).parents[2]}")
    yield
    assert not asked.exists(), asked.read_text()


def started(run, kind, **given):
    mirrors = Followers([plugins.load("trackers", kind).Settings(**given)])
    mirrors.begin(run)
    return mirrors


def until(there):
    """Wait for something that may not even be readable yet."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(Exception):
            if there():
                return
        time.sleep(0.1)
    raise AssertionError("it never came")


@pytest.mark.parametrize("kind", SLOW)
def test_killed_and_resumed_there_is_one_curve_with_no_point_twice_and_none_missing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nothing may be left where the user happens to stand
    run = made_run(tmp_path)
    append(run, measured(range(1, 11), speed=100.0))
    saved(run, 80)
    kept = run.metrics_file.stat().st_size
    append(run, measured(range(11, 14), speed=100.0))  # nothing remembers these
    mirrors = started(run, kind)
    some = run.trackers / "wandb"
    until(lambda: any(some.glob("*/*.wandb")) if kind == "wandb" else READ[kind](run)["train/loss"][-1][0] >= 10)
    (process,) = mirrors._processes.values()
    os.killpg(process.pid, signal.SIGKILL)
    mirrors.end(0)
    os.truncate(run.metrics_file, kept)
    append(run, measured(range(11, 21), speed=50.0))
    saved(run, 160)
    ended(run)
    (word,) = started(run, kind).end(120)
    assert word.problem == ""
    check_curves(kind, run)
    ALSO[kind](run, word)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hook", "runs"]


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_points_that_a_roll_back_takes_again_replace_those_before(kind, tmp_path):
    run = made_run(tmp_path)
    append(run, measured(range(1, 6), speed=1.0))
    kept = run.metrics_file.stat().st_size
    append(run, measured(range(6, 11), speed=1.0))
    mirrors = started(run, kind)
    until(lambda: READ[kind](run)["train/loss"][-1][0] == 10)
    os.truncate(run.metrics_file, kept)
    append(run, [one | {"loss": 7.0} for one in measured(range(6, 9), speed=1.0)])
    until(lambda: READ[kind](run)["train/loss"][-1] == (8, 7.0))  # live, not only at the end
    (word,) = mirrors.end(60)
    assert word.problem == ""
    check_curves(kind, run)


# --- what each shows beside the curves ---------------------------------------------------------------------------------


def also_tensorboard(run, word):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert word.next == "tensorboard --logdir runs"
    assert len(list((run.trackers / "tensorboard").iterdir())) == 1
    events = EventAccumulator(str(run.trackers / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("test/accuracy")] == [(20, 0.75)]
    (text,) = events.Tensors("recipe")
    assert b"optim.lr: 0.01" in text.tensor_proto.string_val[0]
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


def also_mlflow(run, word):
    client, found = mlflow_run(run)
    assert word.next == f"mlflow ui --backend-store-uri sqlite:///{run.path.parent.absolute() / 'mlflow.db'}"
    assert found.info.run_name == run.name and found.info.status == "FINISHED"
    assert found.data.params["optim.lr"] == "0.01" and found.data.tags["task"] == "classification"
    assert found.data.metrics["test/accuracy"] == 0.75
    assert [one.path for one in client.list_artifacts(found.info.run_id)] == ["report.html"]
    assert Path(found.info.artifact_uri.removeprefix("file://")).is_relative_to(run.path.parent / "mlflow-artifacts")
    run.scores_file("val").write_text(json.dumps({"accuracy": 0.5}), encoding="utf-8")
    (again,) = started(run, "mlflow").end(120)
    assert again.problem == "" and mlflow_run(run)[1].data.metrics["final_val/accuracy"] == 0.5
    assert len(client.get_metric_history(found.info.run_id, "test/accuracy")) == 1


def also_wandb(run, word):
    (file,) = (run.trackers / "wandb").glob("offline-run-*/*.wandb")
    assert shlex.split(word.next) == ["wandb", "sync", os.path.relpath(file.parent)]
    records = list(wandb_records(run))
    kinds = {record.WhichOneof("record_type") for record in records}
    assert {"run", "history", "summary", "exit"} <= kinds
    made = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert made.display_name == run.name and made.project == "instar"
    assert {item.key: item.value_json for item in made.config.update}["optim.lr"] == '"0.01"'
    summary = {item.key or item.nested_key[0] for record in records for item in record.summary.update}
    assert {"test/accuracy", "state"} <= summary
    assert any(
        record.WhichOneof("record_type") == "artifact" or record.request.HasField("log_artifact") for record in records
    )
    (again,) = started(run, "wandb").end(120)
    assert again == word and file.exists()  # nothing is new, so nothing is made anew


ALSO = {
    "csv": lambda run, word: None,
    "tensorboard": also_tensorboard,
    "mlflow": also_mlflow,
    "wandb": also_wandb,
}


def test_a_server_that_is_not_there_hurts_nobody_and_its_run_can_be_told_later(tmp_path, no_network):
    run = made_run(tmp_path)
    append(run, measured(range(1, 6), speed=1.0))
    saved(run, 40)
    ended(run)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        (word,) = started(run, "mlflow", server=server).end(60)
    assert word.problem
    (event,) = [event for event in run.events() if event["event"] == "tracker_failed"][:1]
    assert event["tracker"] == "mlflow"
    assert run.status()["state"] == "done"
