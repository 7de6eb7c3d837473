"""One rank dies, hangs or fails: the others are out within seconds, with its name, once."""

import os
import re
import signal
import time
import timeit
from pathlib import Path

import pytest
import torch

from instar.engine.ranks import marks, process
from instar.engine.ranks.marks import Mark, Moving, Watched
from instar.engine.ranks.watchdog import BEAT_SECONDS, Watchdog, follows_from_another
from instar.engine.ranks.world import World
from instar.errors import Again, DataError

PATIENCE = 1.5
# The others are out within ten seconds; three times that for a machine that others use too. How soon the fault itself is
# found is read from what the watchdog says, by its own clock, which stands still where the machine does not let it run.
SOON = 30.0


def _events(event: str, **facts: object) -> None:
    with open(Path(os.environ["FOLDER"]) / "events", "a") as file:
        file.write(f"{event} {facts['rank']} {facts['reason']}\n")


def _train(world: World, what: str = "", step_of_it: int = 5, steps: int = 2000, stall: float = 60.0) -> str:
    """Steps with a collective each; `what` happens on rank 1 at one of them."""
    with Watchdog(world, patience=PATIENCE, stall=stall, on_event=_events) as watchdog:
        for step in range(steps):
            watchdog.at(step, "loading")
            if step == step_of_it:
                (Path(os.environ["FOLDER"]) / f"running.{world.rank}").touch()
                if what == "everybody raises":
                    raise ValueError(f"rank {world.rank} cannot read")
                if what == "everybody stops":
                    raise Again("signal SIGTERM")
                if what and world.rank == 1:
                    _misbehave(what, watchdog)
            watchdog.at(step, "step")
            world.sum(torch.ones(3))
            time.sleep(0.005)
    return "trained"


def _misbehave(what: str, watchdog: Watchdog) -> None:
    if what == "raises":
        raise ValueError("the pixel is missing")
    if what == "is refused":
        raise DataError("the folder is empty")
    if what == "stops alone":
        raise Again("out of memory here")
    if what == "fails alone":
        watchdog.failed(Again("out of memory here"))
    if what == "exits":
        os._exit(3)
    if what == "hangs":
        time.sleep(60)


def outcome(ranks) -> tuple[list[int | None], float]:
    begun = time.monotonic()
    codes = [each.code for each in ranks.wait(2 * SOON)]
    return codes, time.monotonic() - begun


def test_a_training_without_faults_is_left_alone(start) -> None:
    ranks = start(2, _train, "", 5, 60)
    assert [each.value for each in ranks.wait()] == ["trained", "trained"]
    assert ranks.printed() == ["", ""]


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("raises", 1, "ValueError: the pixel is missing\ninstar: rank 1 on "),
        ("is refused", 65, "instar: the folder is empty (rank 1 on "),
        ("fails alone", 75, "stopped  out of memory here"),
    ],
)
def test_a_rank_that_fails_takes_the_others_with_it_and_speaks_once(start, what: str, code: int, text: str) -> None:
    ranks = start(3, _train, what)
    ranks.wait_for("running")
    codes, seconds = outcome(ranks)
    assert codes == [code] * 3 and seconds < SOON
    printed = ranks.printed()
    assert text in printed[1] and printed[0] == printed[2] == ""
    assert printed[1].count("Traceback") == (what == "raises")


def test_of_several_that_fail_at_once_one_is_shown(start) -> None:
    ranks = start(3, _train, "everybody raises")
    codes, _ = outcome(ranks)
    assert codes == [1, 1, 1]
    assert "".join(ranks.printed()).count("Traceback") == 1


def test_all_that_stop_together_leave_in_peace(start) -> None:
    ranks = start(2, _train, "everybody stops")
    codes, _ = outcome(ranks)
    assert codes == [75, 75] and ranks.printed() == ["", ""]


def test_one_that_stops_alone_is_followed(start) -> None:
    ranks = start(2, _train, "stops alone")
    ranks.wait_for("running")
    codes, seconds = outcome(ranks)
    assert codes == [75, 75] and seconds < SOON and ranks.printed() == ["", ""]


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_rank_that_is_killed_or_stopped_is_named(start, victim: int, number: signal.Signals) -> None:
    ranks = start(3, _train)
    ranks.wait_for("running")
    os.kill(ranks.pid(victim), number)
    begun = time.monotonic()
    others = [rank for rank in range(3) if rank != victim]
    while not all(ranks.has_ended(rank) for rank in others):
        assert time.monotonic() - begun < SOON
        time.sleep(0.02)
    if number == signal.SIGSTOP:
        os.kill(ranks.pid(victim), signal.SIGKILL)
    assert [each.code for each in ranks.wait()] == [-9 if rank == victim else 75 for rank in range(3)]
    assert f"instar: rank {victim} of 3 on " in "".join(ranks.printed())
    assert f"process {ranks.pid(victim)}" in (printed := "".join(ranks.printed()))
    assert printed.count("is gone") == 1 and "Traceback" not in printed
    if number == signal.SIGKILL:
        assert "ended. The same command" in printed
    elif victim == 0:
        assert f"it did not answer for {PATIENCE:g} s" in printed
    else:
        assert int(re.search(r"was stopped (\d+) s ago", printed)[1]) <= PATIENCE + 2 * BEAT_SECONDS
    (event,) = ranks.file("events").splitlines()
    assert event.startswith(f"stopped {victim} rank {victim} of 3")


def test_a_rank_that_ends_without_a_word_is_named(start) -> None:
    ranks = start(2, _train, "exits")
    ranks.wait_for("running")
    codes, seconds = outcome(ranks)
    assert codes == [75, 3] and seconds < SOON
    assert "rank 1 of 2 on" in ranks.printed()[0] and f"process {ranks.pid(1)} on" in ranks.printed()[0]


def test_a_pause_of_all_ranks_is_no_fault(start) -> None:
    """As when a laptop is closed, or a job is suspended and resumed."""
    ranks = start(2, _train, "", 5, 120)
    ranks.wait_for("running")
    for rank in (0, 1):
        os.kill(ranks.pid(rank), signal.SIGSTOP)
    time.sleep(2 * PATIENCE)
    for rank in (1, 0):
        os.kill(ranks.pid(rank), signal.SIGCONT)
    assert [each.value for each in ranks.wait()] == ["trained", "trained"]


def test_the_rank_that_is_behind_is_named_and_says_where_it_hangs(start) -> None:
    ranks = start(2, _train, "hangs", 5, 2000, 1.0)
    ranks.wait_for("running")
    codes, seconds = outcome(ranks)
    assert codes == [75, 75] and seconds < SOON
    printed = "".join(ranks.printed())
    assert "no rank took a step for 1 s: rank 1 of 2 on" in printed and "at step 5 (loading)" in printed
    assert "_misbehave" in printed and "time.sleep(60)" in printed


def _alone(world: World) -> None:
    del world
    alone = World(0, 1, 0, torch.device("cpu"), processes=(process.me(),))
    with Watchdog(alone, stall=0.5, on_event=_events) as watchdog:
        for step in range(20):
            watchdog.at(step, "step")
            time.sleep(0.05)
        time.sleep(30)


def test_alone_a_training_that_hangs_says_where(start) -> None:
    ranks = start(1, _alone)
    assert [each.code for each in ranks.wait(15)] == [75]
    assert "no rank took a step for 0.5 s: rank 0 of 1" in ranks.printed()[0] and "at step 19" in ranks.printed()[0]
    assert "time.sleep(30)" in ranks.printed()[0]


def test_alone_an_error_goes_its_way() -> None:
    alone = World(0, 1, 0, torch.device("cpu"), processes=(process.me(),))
    with pytest.raises(ValueError, match="mine"), Watchdog(alone):
        raise ValueError("mine")


def test_noting_the_place_costs_less_than_a_microsecond() -> None:
    watchdog = Watchdog(World(0, 1, 0, torch.device("cpu")))
    # The fastest of several tries: what it costs, not what else the machine does.
    assert min(timeit.repeat(lambda: watchdog.at(7, "step"), number=20_000, repeat=5)) / 20_000 < 1e-6


# --- judging marks --------------------------------------------------------------------------------------------------


def test_a_mark_survives_its_way() -> None:
    for mark in (Mark(3, 4, 5, "a phase of two words"), Mark(left=75), Mark(left=0)):
        assert marks.from_text(mark.to_text()) == mark


def test_the_earlier_phase_of_the_lower_step_is_behind() -> None:
    everybody = {0: Mark(step=4, phase="step"), 1: Mark(step=4, phase="loading"), 2: Mark(step=5, phase="start")}
    assert marks.behind(everybody) == (1,)
    assert marks.behind({0: Mark(step=4), 1: Mark(step=4)}) == (0, 1)
    assert marks.behind({0: Mark(step=4), 1: Mark(step=2, left=0)}) == (0,)


def test_silence_is_forgiven_longer_where_the_process_is_seen_to_run() -> None:
    here, there = Watched(process.me()), Watched(process.Process("far", "b", "s", 1, 1))
    for now in range(10):
        here.read(Mark(beat=1), now)
        there.read(Mark(beat=1), now)
    assert here.fault(8) == "" and there.fault(8) == "process 1 on far went silent 9 s ago"
    for now in range(10, 40):
        here.read(Mark(beat=1), now)
    assert f"process {os.getpid()} on" in here.fault(8)


def test_a_clock_that_was_stopped_lost_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0.0, 0.5, 3600.0, 3600.4])
    monkeypatch.setattr(time, "monotonic", lambda: next(readings))
    clock, moving = process.AwakeClock(most=1.0), Moving()
    assert [moving.stands_still("same", clock.tick()) for _ in range(3)] == pytest.approx([0.0, 1.0, 1.4])


def test_only_broken_connections_count_as_somebody_elses_fault() -> None:
    assert follows_from_another(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1"))
    assert not follows_from_another(RuntimeError("shapes do not match"))
    assert not follows_from_another(DataError("connection closed"))
