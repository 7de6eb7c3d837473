"""When a run ran: its attempts, read from the events every process leaves behind, and what they cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instar.report.blocks import Facts, Span, Table, Tick, Timeline
from instar.run import BESIDE

Event = dict[str, Any]
BEGINS = frozenset({"started", "resumed"})
ENDS = {"stopped": "stopped", "failed": "failed", "finished": "finished"}
TICKS = {
    "saved": "save",
    "stopped": "stop",
    "failed": "trouble",
    "finished": "end",
    "nan": "trouble",
    "rollback": "trouble",
    "bad_sample": "trouble",
    "rejected": "trouble",
    "save_failed": "trouble",
    "micro_batch": "trouble",
}
SECONDARY = frozenset({"time", "event", "host", "pid", "rank", "samples", "traceback", "own_traceback"})
LONGEST_DETAIL = 400  # characters; the rest is in events.jsonl
LONGEST_PAUSE = 0.06  # of the line: a night in the queue must not hide the minutes at work


@dataclass(frozen=True)
class Attempt:
    """One process's turn at a run. Times are seconds since 1970.

    samples   where it took up
    ended     stopped, failed, finished, killed, or running
    """

    start: float
    end: float
    samples: int
    ended: str
    host: str

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)


def attempts(events: Sequence[Event], metrics: Sequence[Event] = ()) -> list[Attempt]:
    """The attempts in order. One that left no word and has a successor was killed; it lasted until its last sign."""
    groups: list[list[Event]] = []
    for event in events:
        begins = event.get("event") in BEGINS
        if begins and (not groups or _who(groups[-1][0]) != _who(event) or _over(groups[-1])):
            groups.append([event])
        elif groups and event.get("event") not in ("evaluated", *BESIDE):
            groups[-1].append(event)
    return [_attempt(group, groups[index + 1 :], metrics) for index, group in enumerate(groups)]


def drawn(turns: Sequence[Attempt], events: Sequence[Event]) -> Timeline | None:
    """The attempts on one line, in proportion, with pauses cut short; nothing without an attempt.

    A job's first wait in the queue comes before its first attempt.
    """
    if not turns:
        return None
    waited = waits(events)
    cap = (sum(turn.seconds for turn in turns) or 1.0) * LONGEST_PAUSE
    first = min([turns[0].start, *(begin for begin, _, _ in waited)])
    gaps = [(before, turn.start) for before, turn in zip([first, *(turn.end for turn in turns)], turns, strict=False)]
    starts, position = [], 0.0
    for (begin, end), turn in zip(gaps, turns, strict=True):
        position += min(cap, max(0.0, end - begin))
        starts.append(position)
        position += turn.seconds
    whole = position or 1.0
    spans, drawn_to = [], 0.0
    for index, (start, turn, gap) in enumerate(zip(starts, turns, gaps, strict=True)):
        if start > drawn_to:
            spans.append(Span(drawn_to / whole, (start - drawn_to) / whole, *_pause(gap, waited)))
        text = f"attempt {index + 1} on {turn.host}: {duration(turn.seconds)}, {turn.ended}"
        spans.append(Span(start / whole, turn.seconds / whole, text, "run"))
        drawn_to = start + turn.seconds
    return Timeline(tuple(spans), _ticks(turns, starts, whole, events), clock(first), clock(turns[-1].end))


def waits(events: Sequence[Event]) -> list[tuple[float, float, str]]:
    """The times a run's jobs were in the queue: from when, until when, and the job."""
    found, since = [], None
    for event in events:
        if event.get("event") in ("queued", "job_continues"):
            since = _time(event)
        elif event.get("event") == "job_started" and since is not None:
            found.append((since, _time(event), str(event.get("job", ""))))
            since = None
    return found


def _pause(gap: tuple[float, float], waited: Sequence[tuple[float, float, str]]) -> tuple[str, str]:
    """What a gap between two attempts was, and its style."""
    queued = [(end - begin, job) for begin, end, job in waited if begin < gap[1] and end > gap[0]]
    if not queued:
        return f"pause of {duration(gap[1] - gap[0])}", "pause"
    return f"{duration(sum(seconds for seconds, _ in queued))} in the queue as job {queued[-1][1]}", "queue"


def table(events: Sequence[Event]) -> Table:
    """Every event as a row, newest last; saves that follow each other are one row."""
    rows: list[tuple[str, str, str, str]] = []
    repeated = 1
    for event in events:
        name = str(event.get("event", ""))
        row = (clock(event.get("time")), name, _samples(event), _details(event))
        if name == "saved" and rows and rows[-1][1].startswith("saved"):
            repeated += 1
            rows[-1] = (row[0], f"saved, {repeated} times", row[2], row[3])
            continue
        repeated = 1
        rows.append(row)
    return Table(("time", "event", "samples", "details"), tuple(rows), numeric=frozenset({"samples"}), shown=14)


def bill(
    turns: Sequence[Attempt],
    plan: dict[str, Any],
    metrics: Sequence[Event],
    cpus: int | None,
    events: Sequence[Event] = (),
) -> Facts:
    """What the training cost."""
    seconds = sum(turn.seconds for turn in turns)
    speeds = sorted(point["images_per_second"] for point in metrics if point.get("images_per_second"))
    samples = max((int(point.get("samples", 0)) for point in metrics), default=0)
    pairs: list[tuple[str, Any]] = [("time at work", duration(seconds)), ("attempts", len(turns))]
    queued = sum(end - begin for begin, end, _ in waits(events))
    if queued:
        pairs += [("in the queue", duration(queued))]
    if len(turns) > 1:
        pairs += [("from first to last", duration(turns[-1].end - turns[0].start))]
    pairs += [("images trained on", samples)]
    if speeds:
        pairs += [("images per second", f"{speeds[len(speeds) // 2]:.3g} (median)")]
    devices = int(plan.get("devices") or 1)
    if plan.get("device") == "cuda":
        pairs += [("GPU-hours", f"{devices * seconds / 3600:.3g} ({devices} GPU{'s' * (devices > 1)})")]
    elif cpus:
        pairs += [("core-hours", f"{cpus * seconds / 3600:.3g} ({cpus} core{'s' * (cpus > 1)})")]
    return Facts(tuple(pairs))


def duration(seconds: float) -> str:
    """A length of time as one would say it: 41 s, 12 min 5 s, 3 h 20 min, 2 d 4 h."""
    whole = max(0, round(seconds))
    for unit, below, above in ((86400, 3600, "d h"), (3600, 60, "h min"), (60, 1, "min s")):
        if whole >= unit:
            large, small = above.split()
            rest = whole % unit // below
            return f"{whole // unit} {large} {rest} {small}" if rest else f"{whole // unit} {large}"
    return f"{whole} s" if whole >= 10 else f"{max(0.0, seconds):.1f} s"


def clock(moment: Any) -> str:
    """A moment in local time."""
    if not isinstance(moment, int | float):
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _who(event: Event) -> tuple[Any, Any]:
    return event.get("host"), event.get("pid")


def _over(group: Sequence[Event]) -> bool:
    return any(event.get("event") in ENDS for event in group)


def _attempt(group: Sequence[Event], later: Sequence[Sequence[Event]], metrics: Sequence[Event]) -> Attempt:
    start = _time(group[0])
    until = _time(later[0][0]) if later else float("inf")
    word = next((ENDS[event["event"]] for event in reversed(group) if event.get("event") in ENDS), "")
    last = max(map(_time, group))
    if not word:
        signs = [_time(point) for point in metrics if start <= _time(point) < until]
        last = max([last, *signs])
    return Attempt(
        start=start,
        end=last,
        samples=max((int(event.get("samples") or 0) for event in group if event.get("event") in BEGINS), default=0),
        ended=word or ("killed" if later else "running"),
        host=str(group[0].get("host", "")),
    )


def _ticks(
    turns: Sequence[Attempt], starts: Sequence[float], whole: float, events: Sequence[Event]
) -> tuple[Tick, ...]:
    ticks = []
    for event in events:
        style = TICKS.get(str(event.get("event")))
        turn = next((i for i, t in enumerate(turns) if t.start <= _time(event) <= t.end), None)
        if style and turn is not None:
            at = (starts[turn] + _time(event) - turns[turn].start) / whole
            ticks.append(Tick(at, f"{event['event']} {clock(event.get('time'))}", style))
    for begin, killed in zip(starts, turns, strict=True):
        if killed.ended == "killed":
            ticks.append(Tick((begin + killed.seconds) / whole, "killed", "stop"))
    return tuple(ticks)


def _time(event: Event) -> float:
    value = event.get("time")
    return float(value) if isinstance(value, int | float) else 0.0


def _samples(event: Event) -> str:
    return f"{event['samples']:,}".replace(",", " ") if isinstance(event.get("samples"), int) else ""


def _details(event: Event) -> str:
    parts = [f"{name} {_said(value)}" for name, value in event.items() if name not in SECONDARY]
    rank = event.get("rank")
    text = ", ".join(([f"rank {rank}"] if rank else []) + parts)
    return text if len(text) <= LONGEST_DETAIL else f"{text[:LONGEST_DETAIL]} …"


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_said(inner)}" for name, inner in value.items()) + ")"
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)
