"""The lease of a run folder: one writer, whoever starts when, and a takeover only from the dead."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from instar.engine.ranks import lease, process
from instar.errors import RunError

NO_JOB: dict[str, str] = {}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "run of 'mine' \"now\""
    folder.mkdir()
    return folder / "lease.json"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)


def dead_process() -> process.Process:
    """A process of this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    here = process.me()
    child.communicate(b"\n")
    return process.Process(here.host, here.boot, here.space, child.pid, start)


def write(path: Path, holder: process.Process, **facts: object) -> None:
    path.write_text(json.dumps({"beat": "0000000007", "state": "held", "token": "abc123", **holder.facts(), **facts}))


def start(path: Path, body: str) -> "subprocess.Popen[str]":
    """A process that takes the lease and then does `body`."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom instar.engine.ranks import lease\npath = Path(sys.argv[1])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code + textwrap.dedent(body), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_starter_is_refused_by_the_name_of_the_holder(path: Path) -> None:
    with lease.acquire(path, environ=NO_JOB) as first:
        assert first.held()
        with pytest.raises(RunError, match=rf"in use by process {os.getpid()} on .*, since 20.*kill {os.getpid()}"):
            lease.acquire(path, environ=NO_JOB)
    assert not first.held() or lease.read(path)["state"] == "free"
    with lease.acquire(path, environ=NO_JOB) as second:
        assert second.held() and not first.held()


def test_a_dead_process_of_this_machine_is_succeeded_at_once(path: Path) -> None:
    write(path, dead_process())
    begun = time.monotonic()
    with lease.acquire(path, environ=NO_JOB) as mine:
        assert mine.held() and time.monotonic() - begun < 1
        assert lease.read(path)["pid"] == os.getpid()


def test_a_process_number_used_again_does_not_keep_a_lease_alive(path: Path) -> None:
    here = process.me()
    write(path, process.Process(here.host, here.boot, here.space, here.pid, here.start - 1))
    with lease.acquire(path, environ=NO_JOB) as mine:
        assert mine.held()


def test_a_silent_holder_on_another_machine_is_watched_first(path: Path) -> None:
    write(path, process.Process("far", "b", "s", 1, 1), since="2031-01-01T00:00:00")  # its clock is years ahead
    said: list[str] = []
    begun = time.monotonic()
    with lease.acquire(path, environ=NO_JOB, patience=0.4, watching=said.append) as mine:
        assert mine.held() and time.monotonic() - begun >= 0.4
    assert "held by process 1 on far" in said[0]


def test_a_beating_holder_on_another_machine_keeps_its_lease(path: Path, quick: None, monkeypatch) -> None:
    there = process.Process("far", "b", "s", 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(process, "me", lambda: there)
        held = lease.acquire(path, environ=NO_JOB)
    with held, pytest.raises(RunError, match="in use by process 1 on far"):
        lease.acquire(path, environ=NO_JOB, patience=30)


def test_wall_clocks_are_never_read_to_judge_a_holder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, process.Process("far", "b", "s", 1, 1))
    os.utime(path, (0, 0))
    monkeypatch.setattr(time, "time", lambda: (_ for _ in ()).throw(AssertionError("a wall clock was read")))
    with lease.acquire(path, environ=NO_JOB, patience=0.2) as mine:
        assert mine.held()


def test_a_requeued_job_succeeds_its_earlier_start_and_never_the_other_way_round(path: Path) -> None:
    write(path, process.Process("far", "b", "s", 1, 1), job="71", restart=1)
    begun = time.monotonic()
    with pytest.raises(RunError, match=r"job 71"):
        lease.acquire(path, environ={"SLURM_JOB_ID": "71"})
    with lease.acquire(path, environ={"SLURM_JOB_ID": "71", "SLURM_RESTART_COUNT": "2"}) as mine:
        assert mine.held() and time.monotonic() - begun < 1


def test_the_heartbeat_changes_the_file_and_says_when_the_lease_is_lost(path: Path, quick: None) -> None:
    with lease.acquire(path, environ=NO_JOB) as mine:
        before = path.read_text()
        _until(lambda: path.read_text() != before)
        assert not mine.lost
        _copy(path, "stolen").replace(path)
        assert not mine.held()
        _until(lambda: mine.lost)
    assert lease.read(path)["token"] == "stolen" and lease.read(path)["state"] == "held"


def test_a_starter_killed_in_the_middle_of_a_takeover_is_succeeded_too(path: Path) -> None:
    write(path, dead_process())
    write(path.with_name(".lease.json.after-abc123"), dead_process(), token="def456")
    with lease.acquire(path, environ=NO_JOB) as mine:
        assert mine.held()
        assert sorted(file.name for file in path.parent.iterdir()) == [".lease.json.after-def456", "lease.json"]


def test_a_starter_that_judged_long_ago_does_not_bury_the_living(path: Path) -> None:
    write(path, dead_process())
    judged = lease._holder(path)
    assert judged is not None
    with lease.acquire(path, environ=NO_JOB) as alive:
        path.with_name(".lease.json.after-abc123").unlink()
        assert lease._succeed(path, judged, lease._facts({}, NO_JOB)) is None
        assert alive.held()


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"token": "../x"}'])
def test_a_file_that_names_no_holder_is_succeeded_after_watching(path: Path, content: str) -> None:
    path.write_text(content)
    with lease.acquire(path, environ=NO_JOB, patience=0.2) as mine:
        assert mine.held()


def test_it_works_without_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    with lease.acquire(path, environ=NO_JOB) as first, pytest.raises(RunError, match="in use"):
        assert first.held()
        lease.acquire(path, environ=NO_JOB)
    with lease.acquire(path, environ=NO_JOB) as second:
        assert second.held() and list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere/lease\.json cannot be written: No such file"):
        lease.acquire(tmp_path / "nowhere" / "lease.json", environ=NO_JOB)


@pytest.mark.parametrize("dead", [False, True], ids=["new folder", "dead holder"])
def test_of_twenty_starters_exactly_one_wins(path: Path, dead: bool) -> None:
    if dead:
        write(path, dead_process())
    body = """
        gate = path.parent.parent / "go"
        while not gate.exists():
            time.sleep(0.005)
        try:
            with lease.acquire(path, environ={}) as mine:
                print("won", mine.held(), flush=True)
                sys.stdin.readline()
                print(mine.held())
        except lease.RunError as error:
            print("refused", "in use by process" in str(error))
    """
    starters = [start(path, body) for _ in range(20)]
    time.sleep(1.5)  # most of them wait at the gate by now; a late one must be refused just the same
    (path.parent.parent / "go").touch()
    try:
        first = [starter.stdout.readline().split() for starter in starters]  # type: ignore[union-attr]
        assert sorted(first) == [["refused", "True"]] * 19 + [["won", "True"]]
    finally:
        for starter in starters:
            starter.kill()
            starter.communicate()


def test_a_killed_holder_is_succeeded_by_the_next_starter(path: Path) -> None:
    holder = start(path, "lease.acquire(path, environ={})\nprint('ready', flush=True)\ntime.sleep(60)")
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    with pytest.raises(RunError, match=f"process {holder.pid} "):
        lease.acquire(path, environ=NO_JOB)
    holder.kill()
    holder.communicate()
    with lease.acquire(path, environ=NO_JOB) as mine:
        assert mine.held()


def _copy(path: Path, token: str) -> Path:
    copy = path.with_name("copy")
    copy.write_text(json.dumps({**json.loads(path.read_text()), "token": token}))
    return copy


def _until(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
