"""Say what happened to a run last, why, where, and what to do about it

instar why RUN

runs=FOLDER    where runs are, instead of runs/
--json         the same as one JSON object
"""

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instar import terminal
from instar.cli.words import Words, to_type
from instar.errors import DONE
from instar.formats import ago, count, epoch, one_line, percent, score

FLAGS = ()
THINGS = (1, 1)
RECENT = 6
ENDS = ("stopped", "failed", "finished", "evaluated", "save_failed")
QUIET = ("saved",)  # there are so many of them that they would hide the rest
SECONDARY = (
    *("time", "event", "host", "pid", "rank", "step", "samples"),
    *("reason", "traceback", "own_traceback", "metrics_bytes"),
)


def run(words: Words) -> int:
    from instar import run as runs

    found = runs.find(words.things[0], Path(words.only("runs").get("runs", "runs")))
    status = _status(found)
    if status["job"]:
        from instar import queue

        status = queue.corrected([found], [status])[0]
    story = explain(status, found.events())
    if story["event"].get("event") == "job_ended":
        from instar.cli.logs import last_lines, log_of

        story["event"]["traceback"] = "\n".join(last_lines(log_of(found), 12))
    if "json" in words:
        terminal.say(json.dumps(story))
    else:
        terminal.say("\n".join(told(story, now=time.time())))
    return DONE


def _status(run: Any) -> dict[str, Any]:
    from instar import study

    return study.Study(run.path).status() if study.is_study(run.path) else run.status()


def explain(status: dict[str, Any], events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The event that decided where the run stands now, what came before it, and what to do."""
    decisive = _decisive(events)
    telling = [event for event in events if event.get("event") not in QUIET]
    saves = [event for event in events if event.get("event") == "saved"]
    return {
        "run": status["name"],
        "path": status["path"],
        "state": status["state"],
        "share": status["share"],
        "samples": status["samples"],
        "event": decisive,
        "before": telling[-RECENT:],
        "saved": saves[-1] if saves else {},
        "do": _advice(status, decisive, events),
        "job": status.get("job", ""),
        "waits_for": status.get("reason", ""),
    }


def told(story: dict[str, Any], *, now: float) -> list[str]:
    """The same in lines."""
    event, saved = story["event"], story["saved"]
    state = {"queued": _queued(story), "silent": "silent: it left no word, so it was killed or its machine went down"}
    lines = [
        f"run      {one_line(story['path'])}",
        f"state    {state.get(story['state'], story['state'])}, {percent(story['share'])} done",
    ]
    if event:
        lines.append(f"last     {_sentence(event)}")
        lines.append(f"         {_where(event, now)}")
        lines += [
            f"         {line}"
            for line in str(event.get("traceback") or event.get("own_traceback", "")).rstrip().splitlines()
        ]
    if saved:
        lines.append(f"saved    {saved.get('checkpoint', '')}, {ago(now - saved.get('time', now))}")
    earlier = [_clocked(one) for one in story["before"] if one is not event]
    if earlier:
        lines += ["before", *(f"  {line}" for line in earlier)]
    return [*lines, f"do       {story['do']}"]


def _queued(story: dict[str, Any]) -> str:
    reason = f", waiting: {story['waits_for']}" if story["waits_for"] else ""
    return f"queued as job {story['job']}{reason}"


def _decisive(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The end of the last start: of a crash on several ranks the first to fail, which brought down the others."""
    last = len(events)
    begins = max((i for i, event in enumerate(events) if event.get("event") in ("started", "resumed")), default=0)
    ends = [event for event in events[begins:last] if event.get("event") in ENDS]
    failed = [event for event in ends if event["event"] in ("failed", "save_failed")]
    # What ended before the training could say a word is told by the script around it.
    failed = failed or [event for event in events[-1:] if event["event"] == "job_ended" and event["state"] == "failed"]
    told_apart = [event for event in events if event.get("event") not in QUIET]
    return (failed or ends[-1:] or told_apart[-1:] or [{}])[0]


def _advice(status: dict[str, Any], event: dict[str, Any], events: Sequence[dict[str, Any]]) -> str:
    name = to_type(Path(status["path"]))
    verb = "tune" if "trials" in status else "train"
    again = f"instar resume {name}" if status.get("job") else f"instar {verb} {shlex.quote(status['path'])}"
    carries_on = f"{again} carries on from the last save; nothing before it is lost"
    if "trials" in status:
        by_study = {"done": f"instar report {name}", "queued": f"wait, or instar stop {name}"}
        return by_study.get(status["state"], carries_on)
    by_state = {
        "queued": f"wait; its job is in the queue. Or: instar stop {name}",
        "running": f"wait; it was alive a moment ago on {event.get('host', 'its machine')}",
        "trained": f"instar evaluate {name}",
        "done": f"instar report {name}",
        "cancelled": f"its job was taken out of the queue. instar resume {name} submits it again",
        "new": f"it has not begun: {again}",
        "stopped": carries_on,
        "silent": carries_on,
    }
    if status["state"] in by_state:
        return by_state[status["state"]]
    reason = f"{event.get('event', '')} {event.get('reason', '')}".lower()
    for words, advice in _REMEDIES:
        if any(word in reason for word in words):
            return advice.format(again=again, path=one_line(status["path"]))
    if event.get("traceback"):
        return f"this looks like a mistake in Instar: report the lines above. {again} carries on from the last save"
    return f"mend the reason above; then {again} carries on from the last save"


# Words in the reason of a failure -> what to do, the first that fits.
_REMEDIES = (
    (
        ("not a finite number",),
        "look at the images named above; then train in a new run with a lower optim.lr or optim.clip=1.0",
    ),
    (("memory",), "{again} train.micro=SMALLER, or a smaller augment.size in a new run"),
    (("space", "disk", "quota", "save_failed"), "make room on the disk of {path}; then {again}"),
    (("cannot be read",), "mend or remove the images named above; then {again} accept=true"),
)


def _sentence(event: dict[str, Any]) -> str:
    words = str(event.get("event", "?")).replace("_", " ")
    reason = one_line(str(event.get("reason", "")))
    rest = ", ".join(f"{name} {_short(value)}" for name, value in event.items() if name not in SECONDARY)
    return f"{words}{f': {reason}' if reason else ''}{f' ({rest})' if rest else ''}"


def _where(event: dict[str, Any], now: float) -> str:
    parts = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.get("time", now)))]
    parts[0] += f" ({ago(now - event.get('time', now))})"
    parts += [f"{name} {event[name]}" for name in ("rank", "host", "step") if name in event]
    if event.get("samples") is not None:
        parts.append(f"sample {count(int(event['samples']))}")
    return ", ".join(parts)


def _clocked(event: dict[str, Any]) -> str:
    moment = time.strftime("%H:%M:%S", time.localtime(event.get("time", 0)))
    rank = f"rank {event['rank']} " if event.get("rank") else ""
    return f"{moment}  {rank}{_sentence(event)}"


def _short(value: Any) -> str:
    if isinstance(value, dict) and {"metric", "value", "epoch"} <= value.keys():  # the best evaluation
        value = f"{value['metric']} {score(value['metric'], value['value'])} at epoch {epoch(value['epoch'])}"
    text = one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else text[:59] + "…"
