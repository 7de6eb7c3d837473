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
    return submitted.folder / (cluster.ELEMENT_LOG.format(element=int(run.name)) if submitted.elements else cluster.LOG)


def corrected(runs: Sequence[Run], states: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """States of runs, as their folders tell them, with what only the scheduler knows: one question for all of them."""
    moving = [index for index, state in enumerate(states) if state["job"] and state["state"] in _MAY_HAVE_CHANGED]
    of_run = {index: found for index in moving if (found := newest(runs[index])) is not None}
    if not of_run:
        return list(states)
    answers = calls.states([current(found) for found in of_run.values()], seconds=5.0)
    told = list(states)
    for index, submitted in of_run.items():
        number = _number(runs[index], current(submitted).ids[-1], submitted)
        state = answers.get(number) or answers.get(number.partition("_")[0])
        if state is not None:
            told[index] = states[index] | _correction(states[index]["state"], state)
    return told


_MAY_HAVE_CHANGED = ("queued", "running", "silent")


def _number(run: Run, job: str, submitted: Submitted) -> str:
    return f"{job}_{int(run.name)}" if submitted.elements else job


def _correction(told: str, state: State) -> dict[str, str]:
    """What the scheduler knows better: of a job that never began, nobody could leave a word in the folder."""
    if state.standing == "queued":
        return {"state": "queued", "reason": state.reason}
    if state.standing == "ended" and told == "queued":
        return {"state": "cancelled", "reason": state.word}
    return {}
