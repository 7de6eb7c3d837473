"""One start of a run among others: what was there before it, where it runs, and when another one would be in vain."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from instar.engine.provenance import changes, provenance
from instar.engine.ranks.world import World
from instar.errors import Again, RunError
from instar.run import Run, write_atomically

T = TypeVar("T")


def first_rank(world: World, act: Callable[[], T]) -> T | None:
    """Do something on rank 0 while the others wait. Where it fails there, the others leave quietly."""
    if world.rank == 0:
        try:
            made = act()
        except BaseException:
            world.agree([1.0])
            raise
        world.agree([0.0])
        return made
    if world.agree([0.0])[0]:
        raise Again("rank 0 could not begin")
    return None


def note(run: Run, before: Any, plan: Any, *, weights: list[dict[str, Any]]) -> list[str]:
    """Add this start to provenance.json; gives a sentence where it is on another machine or with other versions.

    Those leave the recipe alone, but may show in the last digits.

    before    the plan of the start before; None on the first
    plan      the plan of this one
    weights   what it starts from, file by file; nothing where it goes on from a checkpoint
    """
    try:
        known = json.loads(run.provenance_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = []
    starts, now = [start for start in known if isinstance(start, dict)], provenance()
    write_atomically(run.provenance_file, json.dumps([*starts, now | {"weights": weights}], indent=1) + "\n")
    if before is None:
        return []
    names = ("devices", "device", "precision")
    found = {name: (getattr(before, name), getattr(plan, name)) for name in names}
    found = {name: pair for name, pair in found.items() if pair[0] != pair[1]}
    found |= changes(starts[-1], now) if starts else {}
    for name, (old, new) in found.items():
        run.log_event("machine_changed", rank=0, setting=name, before=old, now=new)
    told = ", ".join(f"{name} {_said(old)} -> {_said(new)}" for name, (old, new) in found.items())
    return [f"other than at the last start: {told}; the last digits may differ"] if told else []


def _said(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def end_a_chain(run: Run, position: int) -> None:
    """End a chain of jobs that would start for ever; a start by hand after that counts anew.

    Raises RunError where the last two starts that were stopped began at this position and saved nothing beyond it.
    """
    if _fruitless(run.events(), position) < 2:
        return
    reason = next(event.get("reason") for event in reversed(run.events()) if event["event"] == "stopped")
    text = (
        f"{run.path}: two starts in a row were stopped before anything new was saved, the last by: {reason}. Another "
        f"one would end alike. Where time is short, give it more (walltime, the limit of the job) or a faster "
        f"evaluation (devices, workers); else mend that reason. Then the same command carries on."
    )
    run.log_event("failed", rank=0, samples=position, reason=text)
    raise RunError(text)


def _fruitless(events: Sequence[dict[str, Any]], position: int) -> int:
    """How many of the newest starts began at a position, were stopped, and saved nothing beyond it.

    Those that were killed without a word count neither way.
    """
    count = 0
    names: set[str] = set()
    for event in reversed(events):
        names.add(event["event"])
        if "failed" in names or "micro_batch" in names or (event["event"] == "saved" and event["samples"] > position):
            break
        if event["event"] in ("started", "resumed"):
            if event["samples"] != position:
                break
            count += "stopped" in names
            names.clear()
    return count
