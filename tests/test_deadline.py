"""Signals set a flag; the clock needs none."""

import os
import signal
import time

import pytest

from instar.engine import deadline


@pytest.fixture
def handlers():
    deadline.install()
    yield
    deadline.restore()


@pytest.mark.parametrize("number", deadline.STOP_SIGNALS)
def test_a_signal_only_sets_a_flag(handlers, number):
    os.kill(os.getpid(), number)
    assert deadline.received() == number.name
    assert deadline.reason(deadline.Clock(None, {})) == f"signal {number.name}"


def test_a_second_interrupt_means_now(handlers):
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)


def test_without_a_limit_there_is_always_time():
    clock = deadline.Clock(None, {})
    assert not clock.limited
    assert deadline.reason(clock) is None


def test_the_job_end_time_of_slurm_is_a_limit_and_the_nearer_limit_counts():
    clock = deadline.Clock(3600, {"SLURM_JOB_END_TIME": str(int(time.time()) + 100)})
    assert 60 < clock.left < 100
    assert deadline.reason(deadline.Clock(None, {"SLURM_JOB_END_TIME": str(int(time.time()) + 1)})) is None
    assert deadline.reason(deadline.Clock(None, {"SLURM_JOB_END_TIME": str(int(time.time()) - 1)})) == "time limit"


def test_slow_saves_enlarge_the_reserve():
    clock = deadline.Clock(3600, {})
    before = clock.reserve
    clock.saved(40.0)
    clock.saved(10.0)
    assert (before, clock.reserve) == (30, 150)


def test_a_clock_set_back_moves_nothing(monkeypatch):
    clock = deadline.Clock(1000, {})
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 960 < clock.left < 971
