"""Scheduler: which one is here, and whether it answers as fast as `instar submit` promises."""

import os
import shutil

from instar import outside
from instar.job import Finding

_SECONDS = 4.0
_PATIENCE = 1.0  # a submission is to take half a second beside the scheduler's own time
# What gives its version, and a question that costs it little: command -> (version, question).
_KNOWN = {
    "slurm": ("sbatch", ["sbatch", "--version"], ["squeue", "--noheader", "--format=%i", "--states=RUNNING,PENDING"]),
    "pbs": ("qsub", ["qsub", "--version"], ["qstat", "-Q"]),
}


def look(*, answers: bool = True) -> list[Finding]:
    """One line for each scheduler whose commands are on PATH.

    answers   whether it is asked something, too
    """
    here = [name for name, (submit, _, _) in _KNOWN.items() if shutil.which(submit)]
    if not here:
        return [Finding("ok", "scheduler", "neither sbatch nor qsub on PATH: jobs run here, with site local")]
    found = [_asked(name) if answers else Finding("ok", name, _place(name)) for name in here]
    job = next((f"{name}={os.environ[name]}" for name in ("SLURM_JOB_ID", "PBS_JOBID") if name in os.environ), "")
    return [*found, *([Finding("ok", "job", f"this is inside one: {job}")] if job else [])]


def _asked(name: str) -> Finding:
    _, version, question = _KNOWN[name]
    told = outside.ask(version, seconds=_SECONDS)
    said = next((line.strip() for line in (told.out + "\n" + told.error).splitlines() if line.strip()), "")
    known = said[:60] if told.good and said.isprintable() else "version unknown"
    answer = outside.ask(_own(name, question), seconds=_SECONDS)
    found = f"{known}, {_place(name)}"
    what = " ".join(question[:1])
    if answer.problem:
        do = "try again later; if it stays so, the controller is down: see the site's status page"
        return Finding("error", name, f"{found}; {what} {answer.problem}", do)
    if not answer.good:
        why = next((line.strip() for line in answer.error.splitlines() if line.strip()), "it did not say why")
        do = "jobs cannot be submitted from here: use a login node, or wait until the controller is back"
        return Finding("error", name, f"{found}; {what} failed with {answer.code}: {why[:120]}", do)
    found += f", answered in {answer.seconds:.2f} s"
    if answer.seconds > _PATIENCE:
        return Finding("warning", name, found, "it is busy: submit sweeps as one array, and ask for states rarely")
    return Finding("ok", name, found)


def _own(name: str, question: list[str]) -> list[str]:
    """The question, about one's own jobs only: others' may be a hundred thousand."""
    return [*question, f"--user={os.getuid()}"] if name == "slurm" else question


def _place(name: str) -> str:
    return str(shutil.which(_KNOWN[name][0]))
