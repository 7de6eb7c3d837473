"""Any command + Site -> a job that carries on until it is done.

Read top to bottom: what is asked for, what it comes to, what speaks against it, the queue, the folder.
No Python stays behind on the login node: the script is all there is. `queue` asks about it afterwards.
"""

import json
import os
import re
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from instar import brought, caches, lock, plugins, preflight
from instar import experiment as experiments
from instar import job as jobs
from instar.clusters import _call as calls
from instar.clusters import _check
from instar.clusters import _script as scripts
from instar.documents import parse
from instar.errors import ConfigError, RunError
from instar.job import Finding, Job, Submitted
from instar.run import Run, write_atomically
from instar.settings import Settings, Time
from instar.site import Site

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_MOST_DIFF = 2_000_000  # bytes of changes against the commit that are kept


class Request(Settings):
    """What a job asks for."""

    nodes: Annotated[int, Field(ge=1)] = 1
    """Nodes."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs of each node; null for all it has."""
    cores: Annotated[int, Field(ge=1)] | None = None
    """Cores for each process; null for an equal share of the node's."""
    tasks: Annotated[int, Field(ge=1)] | None = None
    """Processes on each node; null for one a GPU, or one."""
    time: Time | None = None
    """How long it may take in all; null for as long as one job of the site may take."""
    at_once: Annotated[int, Field(ge=0)] = 0
    """Elements of an array that may run at the same time; 0 for as many as fit."""


@dataclass(frozen=True)
class Work:
    """What is to be done, whoever does it.

    label      what it is called, in the user's words
    command    words after `instar`, without those that name a run
    run        the run folder it works in, for an array the folder of all; None where there is none
    jobs       the folder that its jobs are kept in
    elements   further words of each element of an array
    files      small files the command reads, by name, kept in the folder of the job; @NAME in `command` is their path
    word, progress   as of a Job
    """

    label: str
    command: tuple[str, ...]
    run: Path | None
    jobs: Path
    elements: tuple[tuple[str, ...], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    word: str = "run"
    progress: str = "checkpoints/latest"


# --- what it comes to ----------------------------------------------------------------------------------------------


def job_for(work: Work, site: Site, request: Request, *, folder: Path) -> Job:
    """The job; raises ConfigError where the site cannot give what is asked for."""
    mistakes = []
    gpus = site.gpus.per_node if request.gpus is None else request.gpus
    if gpus > site.gpus.per_node:
        mistakes.append(f"gpus={gpus} is more than a node of this site has: gpus.per_node is {site.gpus.per_node}")
    tasks = request.tasks or max(1, gpus)
    if site.launcher == "none":
        tasks = 1
        if request.nodes > 1:
            mistakes.append(f"nodes={request.nodes}: this site has no launcher for more than one node")
    if site.nodes and request.nodes > site.nodes:
        mistakes.append(f"nodes={request.nodes} is more than a job may have here: {site.nodes}")
    cores = request.cores or max(1, _cores(site, gpus) // tasks)
    if site.cores and cores * tasks > site.cores:
        mistakes.append(f"{tasks} processes with {cores} cores each need more than the {site.cores} of a node")
    if len(work.elements) > site.array:
        mistakes.append(f"{len(work.elements)} elements are more than one array may have here: {site.array}")
    longest = round(site.longest.seconds)
    whole = round(request.time.seconds) if request.time else longest
    seconds = min(whole, longest)
    links = -(-whole // longest)
    if links > 1 and site.again == "none":
        mistakes.append(f"time={request.time} is more than one job may take here ({site.longest}), and jobs end there")
    if mistakes:
        raise ConfigError(mistakes)
    return Job(
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", work.label).strip("-.")[:60] or "instar",
        folder=folder,
        start=Path.cwd(),
        command=(*_python(site), *(_own_file(word, folder) for word in work.command)),
        run=work.run,
        nodes=request.nodes,
        tasks_per_node=tasks,
        cores_per_task=cores,
        gpus_per_node=gpus,
        seconds=seconds,
        links=links,
        lead=min(round(site.lead.seconds), max(1, seconds // 2)),
        elements=work.elements,
        at_once=request.at_once,
        word=work.word,
        progress=work.progress,
    )


def _cores(site: Site, gpus: int) -> int:
    """Cores that go with these GPUs: all of the node's, or the share of those that are asked for."""
    every = site.cores or 1
    return every * gpus // site.gpus.per_node if site.gpus.per_node and gpus else every


def _python(site: Site) -> tuple[str, ...]:
    if site.python:
        return site.python
    return ("python3", "-m", "instar") if site.container else (sys.executable, "-m", "instar")


def _own_file(word: str, folder: Path) -> str:
    return str(folder / word[1:]) if word.startswith("@") else word


def price(job: Job, site: Site) -> dict[str, float]:
    """What it may cost at most, in hours; an array counts every element."""
    hours = job.nodes * job.seconds * job.links * max(1, len(job.elements)) / 3600
    cores = site.cores or job.cores_per_task * job.tasks_per_node
    return {"node_hours": hours, "core_hours": hours * cores, "gpu_hours": hours * job.gpus_per_node}


# --- what speaks against it ------------------------------------------------------------------------------------------


def findings(work: Work, job: Job, site: Site, *, recipe: Path | None = None) -> list[Finding]:
    """What can be known before anything is queued, and what is in order, so that one sees what was looked at.

    recipe   what a training was said to learn from, beside which the lock of its weights stands
    """
    found = [*_check.check(site), *_secrets(site), *preflight.folder(job.folder)]
    if work.run is not None and not work.elements:
        found += preflight.saves(Run(work.run), job.lead)
    text = dict(work.files).get("recipe.yaml")
    if text is not None and recipe is not None:
        document = parse(text, name="recipe.yaml")
        if brought.is_one(document):
            data = brought.load(document).data
            return [*found, *(preflight.readable_data(data) if data is not None else ())]
        found += preflight.experiment(experiments.load(document), recipe, fetch=_fetching(recipe, site))
    return found


def _fetching(recipe: Path, site: Site) -> str:
    """The command that gets weights to where the job will look for them; from here on this process looks there too."""
    if site.caches is not None:
        places = caches.environment(site.caches)
        os.environ.update({name: os.path.expandvars(value) for name, value in places.items()})
    return lock.command(str(recipe), [], caches.chosen() if site.caches is not None else {})


def _secrets(site: Site) -> list[Finding]:
    """Secrets do not belong into a file of a site, from where they would get into every script."""
    return [
        Finding(
            "error",
            name,
            "a secret would stand in the script",
            f"Export it before you submit, and write {name}: ${name}",
        )
        for name, value in site.environment.items()
        if _SECRET.search(name) and value and not value.startswith("$")
    ]


# --- the queue -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """What the scheduler says of a script before it is queued.

    refusal    in its own words; empty where it would take it, or cannot be asked
    earliest   when it could start, seconds since 1970
    """

    refusal: str = ""
    earliest: float | None = None


def tried(site: Site, *, folder: Path) -> Trial:
    """Ask the scheduler what it thinks of the script in `folder`."""
    cluster = cluster_of(site)
    if cluster.trial() is None:
        return Trial()
    answer = calls.call(cluster.trial(), folder=folder, tries=1)
    if answer.code in (124, 127) or answer.passing:
        return Trial()
    if answer.code != 0:
        return Trial(refusal=answer.text)
    return Trial(earliest=cluster.earliest(answer.err + answer.out))


def tried_in_passing(job: Job, site: Site) -> Trial:
    """The same before there is a folder: the script lies in a temporary one, and nothing of it stays."""
    with tempfile.TemporaryDirectory(prefix="instar-") as folder:
        (Path(folder) / "script.sh").write_text(script(job, site), encoding="utf-8")
        return tried(site, folder=Path(folder))


def script(job: Job, site: Site) -> str:
    """The script of a job."""
    return scripts.script(job, site, cluster_of(site))


def cluster_of(site: Site) -> ModuleType:
    return plugins.load("clusters", site.scheduler)


def new_folder(work: Work) -> Path:
    """The folder that the next job of this work will have. Nothing is made yet."""
    taken = [int(entry.name) for entry in _folders(work.jobs) if entry.name.isdigit()]
    return work.jobs.absolute() / f"{max(taken, default=0) + 1:04}"


def refuse_twice(work: Work) -> None:
    """Raises RunError where an earlier job of the same work still waits or runs."""
    earlier = list(jobs.everything(work.jobs))
    found = calls.states(earlier) if earlier else {}
    alive = [number for number, state in found.items() if state.standing in ("queued", "running")]
    if alive:
        state = found[alive[0]]
        raise RunError(
            f"{work.label} is in the queue already: job {alive[0]} is {state.word.lower()}. Only one at a time writes "
            f"into a run. See: instar why {work.label}   End it: instar stop {work.label}"
        )


def submit(work: Work, job: Job, site: Site, *, site_name: str, request: Request) -> Submitted:
    """Make the folder and hand the job over, all links of a chain at once.

    Raises RunError with the scheduler's own words where it refuses; then nothing stays in the queue.
    """
    cluster = cluster_of(site)
    make_folder(work, job, site, request=request, site_name=site_name)
    links = job.links if site.again == "chain" else 1
    ids: list[str] = []
    for _ in range(links):
        answer = calls.call(cluster.submit(ids[-1] if ids else None), folder=job.folder)
        number = cluster.submitted(answer.out) if answer.code == 0 else None
        if number is None:
            if ids:
                calls.call(cluster.cancel(ids))
                for run in _runs_of(job):
                    run.log_event("job_ended", job=ids[0], state="stopped", reason="a later link was refused")
            raise RunError(_refused(job, answer, cluster))
        # A job waits a second for its number to be written down, and what it tells is to come after this. A thousand
        # runs take longer than that to be told.
        if not ids and not job.elements:
            _tell_queued(job, number, site_name)
        ids.append(number)
        with open(job.folder / "ids", "a", encoding="utf-8") as file:
            file.write(f"{number}\n")
    submitted = Submitted(
        folder=job.folder,
        scheduler=site.scheduler,
        site=site_name,
        ids=tuple(ids),
        name=job.name,
        nodes=job.nodes,
        seconds=job.seconds,
        elements=len(job.elements),
        time=round(time.time(), 3),
    )
    jobs.write(submitted)
    if job.elements:
        _tell_queued(job, ids[0], site_name)
    return submitted


def _tell_queued(job: Job, number: str, site_name: str) -> None:
    for run in _runs_of(job):
        run.path.mkdir(parents=True, exist_ok=True)
        run.log_event("queued", job=number, links=job.links, site=site_name, nodes=job.nodes, seconds=job.seconds)


def _refused(job: Job, answer: calls.Answer, cluster: ModuleType) -> str:
    if answer.code == 127:
        return f"{answer.err}, so nothing was submitted. Is this a login node of that site? instar doctor looks."
    said = answer.text or f"no number in its answer: {answer.out.strip()!r}"
    return f"the scheduler refused it: {said}\nThe script is {job.folder}/script.sh. See: instar site check"


def _runs_of(job: Job) -> list[Run]:
    if job.run is None:
        return []
    if job.elements:
        return [Run(job.run / f"{number:04}") for number in range(len(job.elements))]
    return [Run(job.run)]


# --- the folder of a job ---------------------------------------------------------------------------------------------


def make_folder(work: Work, job: Job, site: Site, *, request: Request, site_name: str) -> None:
    """What a job was: its script, its configuration, the code it ran from, the environment it had."""
    job.folder.mkdir(parents=True)
    for name, text in work.files:
        write_atomically(job.folder / name, text)
    asked = {"site": site_name, "request": request.model_dump(mode="json"), "settings": site.model_dump(mode="json")}
    work_facts = asdict(work) | {"run": work.run and str(work.run), "jobs": str(work.jobs), "start": str(job.start)}
    write_atomically(job.folder / "request.json", json.dumps(asked | {"work": work_facts}, indent=1) + "\n")
    code, changes = _code(job.start)
    write_atomically(job.folder / "code.json", json.dumps(code, indent=1) + "\n")
    if changes:
        write_atomically(job.folder / "code.diff", changes)
    write_atomically(job.folder / "environment.txt", _environment())
    script_file = job.folder / "script.sh"
    write_atomically(script_file, script(job, site))
    script_file.chmod(0o755)


def _code(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Commit and changes of the checkout that the command is started in; nothing where it is none."""

    def git(*words: str) -> bytes:
        answer = calls.call(["git", "-C", str(folder), *words], seconds=10, tries=1)
        return answer.out.encode("utf-8", "replace") if answer.code == 0 else b""

    commit = git("rev-parse", "HEAD").decode().strip()
    if not commit:
        return {}, b""
    changes = git("diff", "HEAD", "--no-color", "--no-ext-diff")
    code = {"commit": commit, "changed": bool(changes), "whole": len(changes) <= _MOST_DIFF}
    return code, changes[:_MOST_DIFF]


def _environment() -> str:
    found = {f"{dist.name}=={dist.version}" for dist in metadata.distributions() if dist.name}
    return "\n".join([f"python=={sys.version.split()[0]}", *sorted(found, key=str.lower)]) + "\n"


def asked_before(folder: Path) -> tuple[Work, dict[str, Any]]:
    """The work of an earlier job, and what was asked for, to hand it over once more."""
    try:
        kept = json.loads((folder / "request.json").read_text(encoding="utf-8"))
        given = kept["work"]
        names = [(name, (folder / name).read_text(encoding="utf-8")) for name, _ in given["files"]]
        work = Work(
            label=given["label"],
            command=tuple(given["command"]),
            run=Path(given["run"]) if given["run"] else None,
            jobs=Path(given["jobs"]),
            elements=tuple(tuple(element) for element in given["elements"]),
            files=tuple(names),
            word=given.get("word", "run"),
            progress=given.get("progress", "checkpoints/latest"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: what this job was asked for cannot be read ({error}). Submit it anew.") from error
    return work, kept


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:
        return []
