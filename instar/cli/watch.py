"""Look at a run while it goes on: its curves, its jobs, and how long it still takes

    instar watch RUN

    every=5        seconds between two looks
    runs=FOLDER    where runs are, instead of runs/
    --once         one look
    --json         one look, as one JSON object

Reads files only, so it can be used from any machine that sees them. Ctrl-C ends the watching, not the run.
"""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import terminal
from instar.cli.words import Words
from instar.curves import curve
from instar.errors import DONE, ConfigError
from instar.formats import ago, clock, count, cut, epoch, one_line, percent, rate, score
from instar.formats import loss as as_loss

if TYPE_CHECKING:
    from instar.run import Run

FLAGS = ("once",)
THINGS = (1, 1)
_ROWS = 6
_MOVING = ("queued", "running")
# Events of the timeline: the letter that stands for each.
_LANES = {
    "queued": "q",
    "job_started": "j",
    "started": ">",
    "resumed": ">",
    "stopped": "s",
    "failed": "x",
    "job_continues": "q",
    "job_ended": ".",
    "finished": "*",
}


def run(words: Words) -> int:
    from instar import run as runs

    given = words.only("runs", "every")
    seconds = _seconds(given.get("every", "2"))
    found = runs.find(words.things[0], Path(given.get("runs", "runs")))
    if "json" in words:
        terminal.say(json.dumps({**found.status(), "events": found.events()[-20:], "metrics": found.metrics()[-20:]}))
        return DONE
    live = terminal.is_live(sys.stdout) and "once" not in words
    try:
        while True:
            columns, _ = shutil.get_terminal_size()
            lines = [cut(line, columns - 1) for line in look(found, columns=min(columns, 110), now=time.time())]
            # From the top, each line cleared to its end and then the rest: nothing flickers.
            terminal.say("\x1b[H" + "\x1b[K\n".join(lines) + "\x1b[K\x1b[J" if live else "\n".join(lines))
            if not live or found.status()["state"] not in _MOVING:
                return DONE
            time.sleep(seconds)
    except KeyboardInterrupt:
        return DONE


def look(run: "Run", *, columns: int, now: float) -> list[str]:
    """Everything that is shown of a run at one moment."""
    status, events, metrics = run.status(), run.events(), run.metrics()
    metric = status["best"].get("metric", "accuracy")
    total = _total(run)
    losses = [(point["samples"], point["loss"]) for point in metrics if "loss" in point and "samples" in point]
    scores = [(point["samples"], point[metric]) for point in metrics if metric in point and "samples" in point]
    return [
        *_head(status, metrics, now),
        *_drawn("loss", losses, total, columns, as_loss),
        *_drawn(f"val {metric}", scores, total, columns, lambda value: score(metric, value)),
        *_timeline(events, columns, now),
        *[f"  {_event(event, now)}" for event in events if event.get("event") != "saved"][-5:],
    ]


def _head(status: dict[str, Any], metrics: Sequence[dict[str, Any]], now: float) -> list[str]:
    job = f" as job {status['job']}" if status["job"] else ""
    speed = next((point["images_per_second"] for point in reversed(metrics) if point.get("images_per_second")), None)
    best = status["best"]
    parts = [
        f"{rate(speed)} img/s" if speed else "",
        f"{clock(status['seconds_left'])} left" if status["seconds_left"] and status["state"] in _MOVING else "",
        f"best {score(best['metric'], best['value'])} at epoch {epoch(best['epoch'])}" if best else "",
    ]
    return [
        f"{one_line(status['name'])}   {status['state']}{job}, moved {ago(now - status['changed'])}",
        f"{terminal.bar(status['share'], 40)}  {percent(status['share'])} done, epoch {epoch(status['epoch'])}",
        "   ".join(part for part in parts if part),
    ]


def _drawn(name: str, points: list[tuple[float, float]], total: int, columns: int, said: Any) -> list[str]:
    if len(points) < 2:
        return []
    high, low = said(max(y for _, y in points)), said(min(y for _, y in points))
    wide = max(len(high), len(low), 7)
    lines = curve(points, columns=columns - wide - 3, rows=_ROWS, span=(0, max(total, points[-1][0])))
    sides = [high, *[""] * (_ROWS - 2), low]
    return [
        "",
        f"{name}, now {said(points[-1][1])}",
        *(f"{s:>{wide}} {line}" for s, line in zip(sides, lines, strict=True)),
    ]


def _timeline(events: Sequence[dict[str, Any]], columns: int, now: float) -> list[str]:
    """What happened when, on one line from the first event to now."""
    marked = [(event["time"], _LANES[event["event"]]) for event in events if event.get("event") in _LANES]
    if not marked:
        return []
    begin, wide = marked[0][0], columns - 10
    line = ["-"] * wide
    for moment, letter in marked:
        line[min(wide - 1, max(0, int((moment - begin) / max(now - begin, 1e-9) * wide)))] = letter
    saves = sum(event.get("event") == "saved" for event in events)
    jobs = sum(event.get("event") == "job_started" for event in events)
    told = f"{count(jobs)} jobs, " if jobs else ""
    legend = f"         {_LEGEND}   {told}{count(saves)} saves"
    return ["", f"{clock(now - begin):>8} {''.join(line)}", legend, ""]


_LEGEND = "q queued  j job  > trains  s stops  x fails  * ends"


def _event(event: dict[str, Any], now: float) -> str:
    reason = one_line(str(event.get("reason", "")))
    job = f" job {event['job']}" if event.get("job") else ""
    return f"{ago(now - event.get('time', now)):>12}  {event.get('event', '')}{job}  {reason}".rstrip()


def _total(run: "Run") -> int:
    try:
        return int(json.loads(run.plan_file.read_text(encoding="utf-8"))["total_samples"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise ConfigError(f"every={text!r} must be seconds from 0.1 to 3600")
    return seconds
