import pytest

from instar.report import timeline


def event(time, name, pid=1, **facts):
    return {"time": time, "event": name, "host": "box", "pid": pid, "rank": 0, **facts}


def test_a_run_without_trouble_is_one_attempt():
    (turn,) = timeline.attempts([event(10, "started", samples=0), event(50, "saved"), event(70, "finished")])
    assert (turn.start, turn.end, turn.ended, turn.seconds) == (10, 70, "finished", 60)


def test_one_that_left_no_word_was_killed_at_its_last_sign():
    events = [
        event(10, "started"),
        event(20, "saved"),
        event(100, "resumed", pid=2, samples=640),
        event(130, "finished"),
    ]
    killed, last = timeline.attempts(events, [{"time": 25.0}, {"time": 105.0}])
    assert (killed.ended, killed.end, last.samples, last.ended) == ("killed", 25, 640, "finished")


def test_the_last_one_without_a_word_is_running():
    assert timeline.attempts([event(10, "started")], [{"time": 12.0}])[-1].ended == "running"


def test_the_same_process_can_begin_again_after_a_stop():
    events = [event(1, "started"), event(2, "stopped"), event(5, "resumed", samples=64), event(9, "finished")]
    assert [turn.ended for turn in timeline.attempts(events)] == ["stopped", "finished"]


def test_an_evaluation_is_no_part_of_an_attempt():
    events = [event(1, "started"), event(5, "finished"), event(500, "evaluated", pid=9)]
    assert timeline.attempts(events)[0].end == 5


def test_long_pauses_are_drawn_short_and_nothing_leaves_the_line():
    events = [
        event(0, "started"),
        event(60, "stopped"),
        event(86_400, "resumed", pid=2),
        event(86_460, "finished", pid=2),
    ]
    drawn = timeline.drawn(timeline.attempts(events), events)
    run, pause, again = sorted(drawn.spans, key=lambda span: span.start)
    assert pause.style == "pause" and pause.width < 0.06 and "23 h 59 min" in pause.text
    assert run.start == 0 and again.start + again.width == pytest.approx(1)
    assert all(0 <= tick.at <= 1.0001 for tick in drawn.ticks)


def test_a_run_of_jobs_shows_how_long_it_was_queued():
    events = [
        event(0, "queued", job="7"),
        event(600, "job_started", job="7"),
        event(605, "started"),
        event(700, "stopped"),
        event(701, "job_continues", job="7"),
        event(820, "job_started", job="7"),
        event(825, "resumed", pid=2),
        event(900, "finished", pid=2),
        event(990, "queued", job="8"),
    ]
    turns = timeline.attempts(events)
    assert [turn.end for turn in turns] == [700, 900], "a later job is no part of an attempt"
    assert timeline.waits(events) == [(0, 600, "7"), (701, 820, "7")]
    before, _, between, _ = sorted(timeline.drawn(turns, events).spans, key=lambda span: span.start)
    assert (before.start, before.style, before.text) == (0, "queue", "10 min in the queue as job 7")
    assert between.style == "queue" and "1 min 59 s" in between.text
    facts = dict(timeline.bill(turns, {}, [], 4, events).pairs)
    assert facts["in the queue"] == "11 min 59 s"


def test_no_attempt_is_no_line():
    assert timeline.attempts([]) == [] and timeline.drawn([], []) is None


def test_saves_in_a_row_are_one_row_and_secrets_of_a_traceback_stay_in_the_log():
    events = [event(1, "started", samples=0), event(2, "saved", samples=64), event(3, "saved", samples=128)]
    events += [event(4, "failed", reason="x" * 999, traceback="Traceback …")]
    rows = timeline.table(events).rows
    assert [row[1] for row in rows] == ["started", "saved, 2 times", "failed"]
    assert rows[1][2] == "128" and len(rows[2][3]) < 500 and "Traceback" not in rows[2][3]


def test_the_bill_counts_the_time_at_work_only():
    events = [event(0, "started"), event(1800, "stopped"), event(90_000, "resumed"), event(91_800, "finished")]
    metrics = [{"samples": 5000, "images_per_second": speed} for speed in (10.0, 30.0, 20.0)]
    facts = dict(timeline.bill(timeline.attempts(events), {"device": "cpu"}, metrics, 4).pairs)
    assert facts["time at work"] == "1 h" and facts["core-hours"] == "4 (4 cores)" and facts["attempts"] == 2
    assert facts["images per second"] == "20 (median)" and facts["images trained on"] == 5000
    facts = dict(timeline.bill(timeline.attempts(events), {"device": "cuda", "devices": 2}, metrics, 4).pairs)
    assert facts["GPU-hours"] == "2 (2 GPUs)"


@pytest.mark.parametrize(
    "seconds, text",
    [(0.42, "0.4 s"), (41, "41 s"), (725, "12 min 5 s"), (12000, "3 h 20 min"), (187_200, "2 d 4 h"), (60, "1 min")],
)
def test_durations_read_as_one_would_say_them(seconds, text):
    assert timeline.duration(seconds) == text
