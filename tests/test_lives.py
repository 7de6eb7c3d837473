"""Whole lives of jobs under PBS and on this machine: submitted, carried on link by link, stopped.

qsub, qstat and qdel are those of tests/fakes; on this machine nothing is fake but the training.
"""

import json
import os
import time
from pathlib import Path

import pytest

from instar import cli
from instar.run import Run
from tests.fakes.images import folder_of_images

FAKES = Path(__file__).parent / "fakes" / "schedulers"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Makes a site, in a folder with a hostile name, whose jobs do the given words of `work`; returns what to submit."""
    here = tmp_path / "my $(touch pwned) 'place'"
    (here / "calls").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{FAKES}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(here / "calls"))
    monkeypatch.chdir(here)
    folder_of_images(here / "images", classes=2, each=4)

    def make(scheduler, *words):
        python = json.dumps([str(FAKES / "work"), *words])
        again = "chain" if scheduler == "pbs" else "requeue"
        Path("site.yaml").write_text(
            f"{{scheduler: {scheduler}, again: {again}, longest: 1 h, cores: 2, launcher: none, python: {python}}}"
        )
        return ["submit", "train", "images", "model=resnet9", "run=one", "--on", "./site.yaml"]

    return make


def wait_until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def events():
    return [event["event"] for event in Run(Path("runs/one")).events()]


def test_a_chain_goes_on_until_the_time_is_used_up(site, capsys):
    assert cli.main([*site("pbs", "more=10", "exit=75"), "time=3h"]) == 0
    assert "queued   job 41 and 2 that follow it" in capsys.readouterr().out
    assert Path("calls/qsub").read_text() == (
        "script.sh\n-W depend=afterany:41 script.sh\n-W depend=afterany:42 script.sh\n"
    )
    wait_until(lambda: "job_ended" in events())
    assert events() == ["queued", *["job_started", "job_continues"] * 2, "job_started", "job_ended"]
    assert Path("runs/one/checkpoints/latest").read_text() == "samples-000000000030\n"
    log = Path("runs/one/jobs/0001/log.txt").read_text()
    assert log.count("carries on") == 2 and "the time that was asked for is used up" in log
    assert not Path("pwned").exists()


def test_a_job_that_is_stopped_saves_and_its_later_links_leave_the_queue(site, capsys):
    assert cli.main([*site("pbs", "save=10", "wait"), "time=3h"]) == 0
    wait_until(Path("runs/one/ready").exists)
    assert cli.main(["stop", "one"]) == 0
    wait_until(lambda: "job_ended" in events())
    assert Path("calls/qdel").read_text() == "42 43\n"
    assert Path("runs/one/checkpoints/latest").read_text() == "samples-000000000020\n"
    capsys.readouterr()
    assert cli.main(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "stopped"


def test_this_machine_carries_on_by_itself_and_knows_what_it_runs(site, capsys):
    assert cli.main([*site("local", "more=10", "exit=75"), "time=3h"]) == 0
    wait_until(lambda: "job_ended" in events())
    assert events() == ["queued", *["job_started", "job_continues"] * 2, "job_started", "job_ended"]
    assert Path("runs/one/checkpoints/latest").read_text() == "samples-000000000030\n"
    assert "used up" in Path("runs/one/jobs/0001/log.txt").read_text()


def test_a_job_on_this_machine_is_not_submitted_twice_and_can_be_stopped(site, capsys):
    words = site("local", "save=10", "wait")
    assert cli.main(words) == 0
    wait_until(Path("runs/one/ready").exists)
    assert cli.main(words) == 65
    assert "is in the queue already" in capsys.readouterr().err
    assert cli.main(["stop", "one"]) == 0
    wait_until(lambda: "job_ended" in events())
    assert Path("runs/one/checkpoints/latest").read_text() == "samples-000000000020\n"


def test_a_sweep_on_this_machine_is_one_job(site):
    assert cli.main([*site("local", "save=10", "exit=0"), "--sweep", "seed=0..2"]) == 0
    ends = [Path(f"runs/one/jobs/0001/over-{number}") for number in range(3)]
    wait_until(lambda: all(end.exists() for end in ends))
    assert [end.read_text() for end in ends] == ["done\n"] * 3
    assert (Path("runs/one/0002/checkpoints/latest")).exists()
