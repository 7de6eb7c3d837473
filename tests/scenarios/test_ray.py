"""One search over the nodes of a job, by Ray: where it listens, whom it answers, what it leaves behind when killed.

Nodes are processes of this machine, as `srun` would start one on each; tests/slurm/test_tune.py has two of a real Slurm.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from instar.study import Study
from tests.fakes import searches
from tests.fakes.searches import HOW, SPACE, orphans, processes, searched, started, trials, until

pytest.importorskip("ray")
pytestmark = pytest.mark.scenario
WORDS = ("recipe.yaml", *SPACE, *HOW, "samples=4")
LISTENS = "0A"
THIS_MACHINE = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return searches.home(tmp_path_factory.mktemp("it's $(home)"))


@pytest.fixture(scope="module")
def whole(home) -> list[dict]:
    searched(home, *WORDS, "study=whole")
    return trials(home, "whole")


def listening(pids: list[int]) -> set[str]:
    """Addresses, as the kernel writes them, at which these processes take connections."""
    inodes: set[str] = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    return {line[1].partition(":")[0] for line in lines if line[3] == LISTENS and line[9] in inodes}


def has_begun(study: Study) -> bool:
    return bool(list(study.trials.glob("*/checkpoints/samples-*")))


def test_on_one_machine_ray_keeps_to_it_and_the_search_is_the_same(home, whole):
    process, study = started(home, *WORDS, "study=alone", "engine=ray"), Study(home / "runs/alone")
    until(lambda: has_begun(study))
    there = processes(home)
    rays = [pid for pid, words in there.items() if "/ray/" in words or words.startswith("ray::")]
    assert any("raylet" in there[pid] for pid in rays) and any("gcs_server" in there[pid] for pid in rays)
    found = listening(list(there))
    assert found and found <= set(THIS_MACHINE), found
    said = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in rays if "raylet" in there[pid]]
    assert said and all({b"RAY_USAGE_STATS_ENABLED=0", b"RAY_AUTH_MODE=token"} <= set(one) for one in said)
    pages = [words for words in there.values() if "dashboard.py" in words]
    assert all("--disable-frontend" in words and "--modules-to-load=UsageStatsHead" in words for words in pages)
    assert not list(study.path.glob(".ray-*")), "nobody has to be told where it is"
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert "1 node joined" in told and "trials   4 of 4" in told and trials(home, "alone") == whole
    until(lambda: not orphans(home), 60)
    assert not orphans(home)


@pytest.mark.parametrize("victim", ["the search", "its worker"])
def test_killed_it_leaves_nothing_running_and_the_same_command_carries_on(home, whole, victim):
    name = victim.replace(" ", "-")
    words = (*WORDS, f"study={name}", "engine=ray")
    process, study = started(home, *words), Study(home / "runs" / name)
    until(lambda: has_begun(study))
    worker = next(pid for pid, line in processes(home).items() if f"runs/{name} halt=" in line)
    os.kill(process.pid if victim == "the search" else worker, signal.SIGKILL)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if victim == "the search" else 75), told
    until(lambda: not [line for line in orphans(home) if "DashboardAgent" not in line], 120)
    assert not [line for line in orphans(home) if "instar" in line or "raylet" in line or "gcs_server" in line]
    searched(home, *words)
    assert trials(home, name) == whole


def test_two_nodes_work_on_one_study_and_answer_nobody_without_the_token(home):
    words = (*WORDS, "study=both", "engine=ray")
    both = [started(home, *words, INSTAR_RANK=str(rank), INSTAR_WORLD="2") for rank in (1, 0)]
    study = Study(home / "runs/both")
    until(lambda: has_begun(study), 180)
    meeting = next(study.path.glob(".ray-*.json"))
    assert meeting.stat().st_mode & 0o077 == 0
    facts = json.loads(meeting.read_text())
    assert connected(facts["address"], facts["token"]) == 0
    assert connected(facts["address"], facts["token"][::-1]) != 0
    said = [process.communicate(timeout=400)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "2 nodes joined" in said[1]
    assert [one["trial"] for one in trials(home, "both")] == list(range(4))
    assert {file.name for file in (study.path / "workers").iterdir()} == {"ray-0.txt", "ray-1.txt"}
    starts = [sum(event["event"] == "started" for event in study.trial(place).events()) for place in range(4)]
    assert starts == [1] * 4 and not meeting.exists()


def connected(address: str, token: str) -> int:
    """How somebody ends who asks this Ray for the names of its nodes."""
    asks = f"import ray; ray.init({address!r}, log_to_driver=False); print(ray.nodes())"
    return subprocess.run(
        [sys.executable, "-c", asks],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"},
        capture_output=True,
        timeout=120,
        check=False,
    ).returncode  # fmt: skip
