"""What became of jobs that were handed over: how they stand in the queue, where their log is, and how to end them.

Read only by commands that must answer at once, so nothing heavy is imported.
"""

import getpass
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from instar import job as jobs
from instar import plugins
from instar.clusters import _call as calls
from instar.errors import RunError
from instar.job import State, Submitted
from instar.run import Run, write_atomically


def newest(run: Run) -> Submitted | None:
    """The last job that was handed over for a run; of an array, the one it is an element of."""
    of_run = list(jobs.everything(run.jobs))
    of_array = list(jobs.everything(run.path.parent / "jobs")) if run.path.name.isdigit() else []
    return max([*of_run, *of_array], key=lambda one: one.time, default=None)


def standing(submitted: Submitted, *, element: str | None = None, seconds: float = 10.0) -> dict[str, State]:
    """How the links of a job stand, or one element of an array."""
    found = calls.states([current(submitted)], seconds=seconds)
    if element is None:
        return found
    wanted = f"_{int(element)}"
    return {number: state for number, state in found.items() if number.endswith(wanted) or "_" not in number}


def current(submitted: Submitted) -> Submitted:
    """With the successors that jobs have submitted by themselves."""
    try:
        ids = (submitted.folder / "ids").read_text(encoding="utf-8").split()
    except OSError:
        ids = []
    return replace(submitted, ids=tuple(dict.fromkeys([*submitted.ids, *ids])))


def element_of(run: Run, submitted: Submitted) -> str | None:
    """The number of the element that a run is of an array; None where the job is the run's own."""
    own = submitted.folder.absolute().parent == run.jobs.absolute()
    return run.path.name if submitted.elements and not own else None


def stop(submitted: Submitted, *, now: bool = False, element: str | None = None) -> list[str]:
    """End a job for good: what waits is taken out of the queue, what runs saves and stops. Returns what was told.

    now   without waiting for a save
    """
    cluster = plugins.load("clusters", submitted.scheduler)
    found = standing(submitted, element=element)
    waiting = [number for number, state in found.items() if state.standing == "queued"]
    running = [number for number, state in found.items() if state.standing == "running"]
    if waiting or running:
        # The links of a chain look for this before they begin.
        own = "" if element is None else f"-{int(element)}"
        write_atomically(submitted.folder / f"over{own}", f"stopped by {getpass.getuser()}\n")
    for ids, command in ((waiting, cluster.cancel), (running, cluster.cancel if now else cluster.warn)):
        if ids:
            answer = calls.call(command(ids))
            if answer.code != 0 and not cluster.forgotten(answer.err):
                raise RunError(f"the scheduler did not take it: {answer.text}. Try again, or: {' '.join(command(ids))}")
    return [*waiting, *running]


def log_of(run: Run, submitted: Submitted) -> Path:
    """The file that a run's job prints into; it may not be there yet."""
    cluster = plugins.load("clusters", submitted.scheduler)
    if not submitted.elements:
        return submitted.folder / str(cluster.LOG)
    return submitted.folder / cluster.ELEMENT_LOG.format(element=int(element_of(run, submitted) or 0))


def corrected(runs: Sequence[Run], states: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """States of runs, as their folders tell them, with what only the scheduler knows: one question for all of them."""
    moving = [index for index, state in enumerate(states) if state["job"] and state["state"] in _MAY_HAVE_CHANGED]
    of_run = {index: found for index in moving if (found := newest(runs[index])) is not None}
    if not of_run:
        return list(states)
    answers = calls.states([current(found) for found in of_run.values()], seconds=5.0)
    told = list(states)
    for index, submitted in of_run.items():
        job, element = current(submitted).ids[-1], element_of(runs[index], submitted)
        state = answers.get(job if element is None else f"{job}_{int(element)}") or answers.get(job)
        if state is None:  # workers of one study: it runs as long as one of them does
            told_of = [one for number, one in answers.items() if number.partition("_")[0] == job]
            state = min(told_of, key=lambda one: _ORDER.index(one.standing), default=None)
        if state is not None:
            told[index] = states[index] | _correction(states[index]["state"], state)
    return told


_MAY_HAVE_CHANGED = ("queued", "running", "silent")


_ORDER = ("running", "queued", "ended", "lost", "unknown")


def _correction(told: str, state: State) -> dict[str, str]:
    """What the scheduler knows better: of a job that never began, nobody could leave a word in the folder."""
    if state.standing == "queued":
        return {"state": "queued", "reason": state.reason}
    if state.standing == "ended" and told == "queued":
        return {"state": "cancelled", "reason": state.word}
    return {}
