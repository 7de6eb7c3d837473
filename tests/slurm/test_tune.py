"""Studies in a real Slurm of two nodes: cut off by time, shared by an array of workers, over both nodes by Ray."""

import json
from pathlib import Path

import pytest

from instar.run import Run
from instar.study import Study
from tests.slurm.conftest import Home, until

pytestmark = pytest.mark.slurm
RANGES = ("optim.lr=loguniform(1e-4,1e-1)", "task.balance=choice(none,oversample)")
HOW = ("samples=6", "startup=3", "parallel=1", "workers=0", "device=cpu")
OVER_BOTH = ("time=20min", "nodes=2", "cores=4", "longest=10min")


def study(home: Home, name: str) -> Study:
    return Study(home.folder / "runs" / name)


def trials(found: Study) -> list[dict]:
    kept = ("trial", "state", "value", "settings", "curve")
    return [{name: one[name] for name in kept} for one in found.summary()["trials"]]


def submit(home: Home, name: str, *words: str, epochs: int = 300) -> Study:
    """The same words as for a search here, and where. A trial takes a quarter of a minute on a quiet machine: one
    worker must not be through with all before the other has begun."""
    home.instar(
        "submit", "tune", "recipe.yaml", *RANGES, *HOW, f"study={name}", f"train.epochs={epochs}", *words, "--on", "./here.yaml"
    )  # fmt: skip
    return study(home, name)


def both_at_work(found: Study, seconds: float = 120) -> None:
    """Wait until each node has saved something of a trial that is not over."""

    def hosts() -> set[str]:
        saved = [run for run in map(Run, found.trials.glob("*")) if list(run.path.glob("checkpoints/samples-*"))]
        return {run.events()[0]["host"] for run in saved if run.status()["state"] == "running"}

    until(lambda: hosts() == {"n1", "n2"}, seconds, f"both are at work\n{logs(found)}")


def ended(home: Home, found: Study, seconds: float) -> None:
    until(lambda: found.status()["state"] == "done", seconds, f"{found.name} is done\n{logs(found)}")
    until(lambda: not home.call("squeue", "--noheader").strip(), 90, f"the queue is empty\n{logs(found)}")


def logs(found: Study) -> str:
    files = sorted(found.path.glob("jobs/*/log*.txt"))
    return "\n".join(f"--- {file.name}\n{file.read_text()}" for file in files)


def test_a_study_that_exceeds_the_limit_is_carried_on_by_itself(home):
    # Half a minute a link.
    found = submit(home, "long", "time=20min", "longest=1min", "lead=30s", "cores=2")
    ended(home, found, 900)
    events = [json.loads(line)["event"] for line in (found.path / "events.jsonl").read_text().splitlines()]
    assert events.count("job_started") >= 2 and events.count("job_continues") >= 1, logs(found)
    assert "trial_carries_on" in events
    home.instar("tune", "recipe.yaml", *RANGES, *HOW, "study=whole", "train.epochs=300", "--quiet")
    assert trials(found) == trials(study(home, "whole"))


def test_an_array_of_workers_shares_a_study(home):
    found = submit(home, "shared", *OVER_BOTH)
    both_at_work(found)
    number = (found.path / "jobs/0001/ids").read_text().split()[0]
    home.call("scancel", "--batch", "--signal=USR1", f"{number}_1")
    ended(home, found, 900)
    assert [one["trial"] for one in trials(found)] == list(range(6))
    assert {one["state"] for one in trials(found)} <= {"finished", "pruned"}
    starts = [sum(event["event"] == "started" for event in found.trial(place).events()) for place in range(6)]
    assert starts == [1] * 6, "no trial was begun twice"
    assert Path(found.report).exists()


def test_a_node_that_goes_down_costs_no_trial(home):
    found = submit(home, "crash", *OVER_BOTH)
    both_at_work(found)
    home.cluster("crash", "2")
    home.call("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=crashed")
    home.cluster("boot", "2")
    home.call("scontrol", "update", "NodeName=n2", "State=RESUME", code=None)
    ended(home, found, 900)
    assert [one["trial"] for one in trials(found)] == list(range(6))
    assert {one["state"] for one in trials(found)} <= {"finished", "pruned"}


def test_stop_and_resume_work_on_a_study(home):
    found = submit(home, "stopped", *OVER_BOTH)
    both_at_work(found)
    home.instar("stop", "stopped")
    until(lambda: not home.call("squeue", "--noheader").strip(), 90, "nothing waits or runs")
    assert found.status()["state"] == "stopped"
    home.instar("resume", "stopped")
    ended(home, found, 900)
    assert [one["trial"] for one in trials(found)] == list(range(6))


def test_ray_over_two_nodes_runs_one_study_and_is_carried_on(home):
    pytest.importorskip("ray")
    found = submit(home, "ray", *OVER_BOTH, "engine=ray")
    both_at_work(found, seconds=200)
    assert len(home.call("squeue", "--noheader").splitlines()) == 1, "one job over both nodes"
    home.call("scancel", "--batch", "--signal=USR1", (found.path / "jobs/0001/ids").read_text().split()[0])
    ended(home, found, 900)
    assert [one["trial"] for one in trials(found)] == list(range(6))
    events = [json.loads(line)["event"] for line in (found.path / "events.jsonl").read_text().splitlines()]
    assert events.count("job_started") == 2 and "trial_carries_on" in events
    assert not list(found.path.glob(".ray-*")), "the token is gone"
