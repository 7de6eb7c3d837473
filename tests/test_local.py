"""This machine as a place for jobs: processes that are known for certain."""

import subprocess
import time
from pathlib import Path

import pytest

from instar.clusters import local
from tests.fakes.jobs import HOSTILE


def say(command, folder=None):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20)


def state(number):
    return local.states(say(local.ask([number])).stdout)[number]


@pytest.fixture
def sleeper(tmp_path):
    """A job that sleeps in a folder with a hostile name, and ends by TERM with a word in its log."""
    folder = tmp_path / HOSTILE
    folder.mkdir()
    (folder / "script.sh").write_text(
        "trap 'echo told; exit 0' TERM\necho begun\nwhile :; do read -rt 1 <> <(:); done\n"
    )
    answer = say(local.submit(), folder)
    number = local.submitted(answer.stdout)
    assert number and answer.stderr == ""
    yield number, folder
    say(local.cancel([number]))


def wait_until(true):
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_job_runs_by_itself_until_it_is_stopped(sleeper):
    number, folder = sleeper
    assert (state(number).standing, state(number).word) == ("running", "RUNNING")
    wait_until(lambda: "begun" in (folder / "log.txt").read_text())
    assert say(local.cancel([number])).returncode == 0
    wait_until(lambda: state(number).standing == "ended")
    assert (folder / "log.txt").read_text() == "begun\ntold\n"


def test_a_job_is_in_a_session_of_its_own(sleeper):
    pid = sleeper[0].split("-")[0]

    def session_and_terminal():
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3:5]

    wait_until(lambda: session_and_terminal() == [pid, "0"])


def test_a_number_that_was_used_again_is_not_believed(sleeper):
    pid, _, host = sleeper[0].split("-", 2)
    impostor = f"{pid}-1-{host}"
    assert state(impostor).standing == "ended"
    assert say(local.cancel([impostor])).returncode == 0
    assert state(sleeper[0]).standing == "running"  # nobody stopped it


def test_nobody_asks_this_machine_about_jobs_of_another(sleeper):
    pid, start, _ = sleeper[0].split("-", 2)
    elsewhere = f"{pid}-{start}-other.example.org"
    assert (state(elsewhere).standing, state(elsewhere).reason) == ("unknown", "ask on other.example.org")
    stopped = say(local.warn([elsewhere]))
    assert stopped.returncode == 1 and "runs on other.example.org: stop it there" in stopped.stderr
    assert state(sleeper[0]).standing == "running"


def test_every_job_is_answered_for():
    answer = say(local.ask(["1-2-x", "4194303-1-y"]))
    assert answer.returncode == 0 and len(local.states(answer.stdout)) == 2


@pytest.mark.parametrize("answer", ["", "12", "12--host", "1-2-h|x", "$(x)-1-h", "1-2-a b"])
def test_an_answer_that_is_none_has_no_number(answer):
    assert local.submitted(answer) is None
