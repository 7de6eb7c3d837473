"""A real MLflow server on this machine: one curve across kills, and a server that dies in the middle hurts nobody."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress

import pytest

from tests.fakes.processes import command
from tests.shelves.test_trackers import curves

pytestmark = [
    pytest.mark.scenario,  # starts a server twice, and four trainings
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
    pytest.mark.filterwarnings("ignore"),
]


def a_free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def server(folder, port):
    """A server with its database and its files in a folder, killed in the end as a node that is lost."""
    folder.mkdir(exist_ok=True)
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *words],
        cwd=folder,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=(folder / "log.txt").open("a"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 240
        while time.monotonic() < end:
            assert process.poll() is None, (folder / "log.txt").read_text()
            with suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200:
                    break
            time.sleep(0.5)
        else:
            raise AssertionError((folder / "log.txt").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_one_curve_across_kills_of_the_training_and_of_the_server(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    port = a_free_port()
    tracker = {"kind": "mlflow", "server": f"http://127.0.0.1:{port}", "experiment": "it's $(one)"}
    with command(tmp_path, run="runs/some run", train__epochs=6, track=[tracker]) as it:
        with server(tmp_path / "the server", port):
            assert it.go(fault="step.end:14:kill").code == -signal.SIGKILL
        gone = it.go(fault="step.end:9:term")  # no server
        assert gone.code == 75, gone.output
        assert {event["tracker"] for event in it.events("tracker_failed")} == {"mlflow"}
        with server(tmp_path / "the server", port) as address:
            done = it.go()
            assert done.code == 0, done.output
            assert f"track    mlflow: {address}" in done.output
            client = MlflowClient(tracking_uri=address)
            (experiment,) = client.search_experiments(filter_string="name LIKE 'it%'")
            (run,) = client.search_runs([experiment.experiment_id])
            assert run.info.status == "FINISHED"
            for name, expected in curves(it.run).items():
                told = sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, name))
                assert [step for step, _ in told] == [step for step, _ in expected], name
                if "images_per_second" not in name:
                    assert told == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected], name
            assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["report.html"]
        assert not it.left()


def test_a_server_that_is_gone_in_the_middle_costs_the_training_nothing_and_is_told_later(tmp_path):
    port = a_free_port()
    tracker = {"kind": "mlflow", "server": f"http://127.0.0.1:{port}"}
    with command(tmp_path, run="run", train__epochs=40, track=[tracker]) as it:
        with server(tmp_path / "the server", port):
            started = it.start()
            started.until_it_trains()
        done = started.end()
        assert done.code == 0, done.output
        assert "track    mlflow lacks something" in done.output
        assert "to=mlflow" in done.output
        with server(tmp_path / "the server", port) as address:
            words = [sys.executable, "-m", "instar", "track", str(it.run.path), "to=mlflow", f"server={address}"]
            told = subprocess.run(words, cwd=tmp_path, env=it.environ(), capture_output=True, text=True, timeout=200)
            assert told.returncode == 0, told.stdout + told.stderr
