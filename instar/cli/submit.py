"""Hand any command to a scheduler, as a job that carries on until it is done

    instar submit train RECIPE key=value --on SITE nodes=2 time=24h
    instar submit evaluate RUN --on SITE
    instar submit tune RECIPE optim.lr="loguniform(1e-5,1e-2)" --on SITE nodes=8       eight workers of one study
    instar submit train RECIPE seed=0..9 optim.lr=0.1,0.01 --sweep --on SITE      one array, a run for every pair

    --on SITE      where: instar site lists them; also a YAML file of your own. By default INSTAR_SITE
    nodes=2        gpus=4 of each node     cores=8 of each process     tasks=4 processes on each node
    time=3d        in all; where one job may not take so long, jobs follow one another
    at_once=10     elements of an array that run at the same time
    account=  partition=  qos=  memory=  constraint=  longest=  again=  lead=  mail=      instead of what the site says
    run=NAME       runs=FOLDER       as for instar train

    --dry          print the script, what was checked and what it may cost; queue nothing
    --anyway       submit although a check found a mistake
    --json         one JSON object

Everything is checked before anything is queued. The script stays in the folder of the job and can be run by hand.
"""

import itertools
import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import formats, terminal
from instar.cli.words import Words, parse, to_type
from instar.errors import DONE, USER_ERROR, ConfigError

if TYPE_CHECKING:
    from instar.job import Job
    from instar.site import Site
    from instar.submit import Request, Trial, Work

FLAGS = ("dry", "anyway", "sweep", "on=")
THINGS = (1, 99)
# Verbs that make no sense in a job: they look, or talk to a person.
AT_THE_KEYBOARD = ("submit", "stop", "resume", "watch", "logs", "runs", "why", "show", "schema", "site", "fetch")
OF_THE_SITE = ("account", "partition", "qos", "memory", "constraint", "longest", "again", "lead", "mail")
_MOST_ELEMENTS = 100_000
_MARKS = {"ok": "ok", "warning": "look", "error": "wrong"}


def run(words: Words) -> int:
    from instar import site as sites
    from instar.submit import Request
    from instar.validation import validate

    asked, of_site, rest = sorted_words(words, tuple(Request.model_fields))
    mistakes: list[str] = []
    name = next((change[3:] for change in words.changes if change.startswith("on=")), os.environ.get("INSTAR_SITE"))
    if not name:
        raise ConfigError(f"say where: --on SITE, one of {', '.join(sites.names())}, or set INSTAR_SITE")
    site = _kept(mistakes, lambda: sites.load(name, of_site))
    request = _kept(mistakes, lambda: validate(Request, {}, list(asked)))
    work = _kept(mistakes, lambda: work_of(words, rest, nodes=request.nodes if request is not None else 1))
    if work is not None and request is not None and words.things[0] == "tune":
        # One process on a node hands out its GPUs; without Ray the nodes need to know nothing of each other.
        alone = {"nodes": 1} if work.elements else {}
        request = request.model_copy(update={"tasks": request.tasks or 1, **alone})
    if mistakes or site is None or request is None or work is None:
        raise ConfigError(mistakes)
    recipe = Path(words.things[1]) if len(words.things) > 1 else None
    return hand_over(words, work, site, name=name, request=request, recipe=recipe)


def hand_over(
    words: Words, work: "Work", site: "Site", *, name: str, request: "Request", recipe: Path | None = None
) -> int:
    """Check, price and submit, or only say what would be.

    recipe   where the lock of a training's weights stands beside
    """
    from instar import submit

    folder = submit.new_folder(work)
    # A part of a node, or a node without GPUs, is asked for in another way.
    site = site.suited(site.gpus.per_node if request.gpus is None else request.gpus)
    job = submit.job_for(work, site, request, folder=folder)
    findings = submit.findings(work, job, site, recipe=recipe)
    wrong = [finding for finding in findings if finding.level == "error"]
    if "dry" in words:
        trial = submit.tried_in_passing(job, site)
        _show_dry(words, work, job, site, name=name, findings=findings, trial=trial)
        return USER_ERROR if wrong or trial.refusal else DONE
    if wrong and "anyway" not in words:
        raise ConfigError(
            [*(finding.text for finding in wrong), "nothing was submitted; --anyway does it nevertheless"]
        )
    if work.command[0] != "tune":  # a study may have any number of workers
        submit.refuse_twice(work)
    submitted = submit.submit(work, job, site, site_name=name, request=request)
    if "json" in words:
        terminal.say(json.dumps({"ids": submitted.ids, "folder": str(folder), "run": work.run and str(work.run)}))
    elif "quiet" not in words:
        notable = [finding for finding in findings if finding.level != "ok"]
        terminal.say("\n".join([*told(work, job, site, name=name, findings=notable), *_after(work, submitted.ids)]))
    return DONE


def sorted_words(words: Words, of_request: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The changes that say what is asked for, those of the site, and those of the command itself."""
    asked: list[str] = []
    of_site: list[str] = []
    rest: list[str] = []
    for change in words.changes:
        key = change.partition("=")[0]
        if key in of_request:
            asked.append(change)
        elif key.partition(".")[0] in OF_THE_SITE:
            of_site.append(change)
        elif key != "on":
            rest.append(change)
    return tuple(asked), tuple(of_site), tuple(rest)


def work_of(words: Words, changes: tuple[str, ...], *, nodes: int = 1) -> "Work":
    """What is to be done; raises ConfigError for mistakes in its own words too."""
    from instar.cli import VERBS

    verb, *things = words.things
    if verb not in VERBS or verb in AT_THE_KEYBOARD:
        able = [one for one in VERBS if one not in AT_THE_KEYBOARD]
        raise ConfigError(f"{verb!r} cannot be a job. These can: {', '.join(able)}. See: instar submit --help")
    if verb == "tune":
        return _searching(words, things, changes, nodes=nodes)
    return _training(words, things, changes) if verb == "train" else _other(verb, things, changes)


# --- what is to be done --------------------------------------------------------------------------------------------


def _training(words: Words, things: list[str], changes: tuple[str, ...]) -> "Work":
    from instar import experiment as experiments
    from instar.cli import _brought, train

    own = _brought.document(Words(tuple(things), (), frozenset(), ()))
    if own is not None:
        return _own_module(words, things, changes, own)
    from instar.settings import dump
    from instar.submit import Work

    varied = [change for change in changes if "sweep" in words and len(_values(change)) > 1]
    fixed = [change for change in changes if change not in varied]
    experiment, machine, start = train.settings(Words(tuple(things), tuple(fixed), frozenset(), words.line))
    if machine.devices != "auto":
        raise ConfigError(f"devices={machine.devices}: in a job it follows from nodes= and gpus=, or tasks=")
    here = _of_the_start(fixed)
    files = (
        ("recipe.yaml", dump(experiment)),
        *_lock(train.source(Words(tuple(things), (), frozenset(), ()), experiment)),
    )
    folder = experiments.locate(experiment, start.run, runs=start.runs).path.absolute()
    if not varied:
        command = ("train", "@recipe.yaml", *here, f"run={folder}")
        return Work(label=to_type(_beside(folder)), command=command, run=folder, jobs=folder / "jobs", files=files)
    elements = tuple(_product(varied))
    for element in elements[:1]:  # the others differ in values only, which are checked one by one below
        train.settings(Words(tuple(things), (*fixed, *element), frozenset(), words.line))
    _check_values(words, things, fixed, varied)
    folder = folder if start.run else folder.with_name(f"{folder.name}-sweep")
    command = ("train", "@recipe.yaml", *here)
    return Work(folder.name, command, folder, folder / "jobs", elements, files)


def _searching(words: Words, things: list[str], changes: tuple[str, ...], *, nodes: int) -> "Work":
    """The workers of a study: an array of as many as nodes are asked for, or with Ray one job over all of them."""
    from instar.cli import _study
    from instar.documents import dump as text_of
    from instar.submit import Work

    asked = _study.settings(Words(tuple(things), changes, frozenset(), words.line))
    folder = asked.study.path.absolute()
    command: tuple[str, ...] = ("tune", str(folder))
    files: tuple[tuple[str, str], ...] = ()
    if asked.definition is not None:
        command = ("tune", "@recipe.yaml", f"study={folder}")
        files = (("recipe.yaml", text_of(asked.definition.document)), *_lock(asked.source))
    command += tuple(_study.as_words(asked))
    label = to_type(_beside(folder))
    if nodes == 1 or asked.effort.engine == "ray":
        return Work(label, command, folder, folder / "jobs", files=files, progress="progress")
    return Work(
        label,
        command,
        folder / "workers",
        folder / "jobs",
        elements=((),) * nodes,
        files=files,
        word="worker",
        progress="../../progress",
    )


def _own_module(words: Words, things: list[str], changes: tuple[str, ...], own: dict[str, Any]) -> "Work":
    """A LightningModule of one's own, looked at before it is queued; a sweep has a run for every element."""
    from instar import brought
    from instar.cli import _brought
    from instar.settings import dump
    from instar.submit import Work

    varied = [change for change in changes if "sweep" in words and len(_values(change)) > 1]
    fixed = [change for change in changes if change not in varied]
    found, machine, start = _brought.settings(Words(tuple(things), tuple(fixed), frozenset(), words.line), own)
    if machine.devices != "auto":
        raise ConfigError(f"devices={machine.devices}: in a job it follows from nodes= and gpus=, or tasks=")
    brought.look(found, own)
    here = _of_the_start(fixed)
    files = (("recipe.yaml", dump(found)),)
    folder = brought.locate(found, start.run, runs=start.runs).path.absolute()
    if not varied:
        command = ("train", "@recipe.yaml", *here, f"run={folder}")
        return Work(label=to_type(_beside(folder)), command=command, run=folder, jobs=folder / "jobs", files=files)
    elements = tuple(_product([_brought.long_name(change) for change in varied]))
    for element in elements:
        brought.load(own, [*map(_brought.long_name, element)])
    folder = folder if start.run else folder.with_name(f"{folder.name}-sweep")
    return Work(folder.name, ("train", "@recipe.yaml", *here), folder, folder / "jobs", elements, files)


def _lock(recipe: Path) -> Iterator[tuple[str, str]]:
    """The lock of the weights it starts from, which has to stand beside the job's copy of the recipe, too."""
    from instar import lock

    file = lock.beside(recipe)
    if file.exists():
        yield "recipe.lock.yaml", file.read_text(encoding="utf-8")


def _of_the_start(changes: Sequence[str]) -> list[str]:
    """The words that say how it runs there, which are no part of the recipe; where the run lies is said by itself."""
    from instar.machine import Machine, Start

    ours = {*Machine.model_fields, *Start.model_fields} - {"devices", "run", "runs"}
    return [word for word in changes if word.partition("=")[0] in ours]


def _check_values(words: Words, things: list[str], fixed: list[str], varied: list[str]) -> None:
    """Every value of a sweep once, with the first of the others: mistakes show before a thousand jobs have them."""
    from instar.cli import train

    first = {change: _values(change)[0] for change in varied}
    mistakes: list[str] = []
    for change in varied:
        for value in _values(change)[1:]:
            mixed = [value if other == change else first[other] for other in varied]
            _kept(mistakes, lambda mixed=mixed: train.settings(Words(tuple(things), (*fixed, *mixed), frozenset(), ())))
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))


def _product(varied: Sequence[str]) -> Iterator[tuple[str, ...]]:
    lists = [_values(change) for change in varied]
    number = 1
    for values in lists:
        number *= len(values)
    if number > _MOST_ELEMENTS:
        raise ConfigError(f"this sweep has {number:,} points; more than {_MOST_ELEMENTS:,} are surely a slip")
    return itertools.product(*lists)


def _values(change: str) -> list[str]:
    """`seed=0,1,2` or `seed=0..2` as three changes; commas in brackets and quotes do not count."""
    key, _, value = change.partition("=")
    span = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", value)
    if span:
        first, last = int(span[1]), int(span[2])
        return [f"{key}={number}" for number in range(first, min(last, first + _MOST_ELEMENTS) + 1)]
    parts, depth, quote = [""], 0, ""
    for letter in value:
        if quote or letter in "'\"":
            quote = "" if letter == quote else quote or letter
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [f"{key}={part}" for part in parts]


def _other(verb: str, things: list[str], changes: tuple[str, ...]) -> "Work":
    """A command that is not a training: in the folder of the run it is about, else in runs/jobs."""
    import importlib

    from instar import run as runs
    from instar.submit import Work

    module = importlib.import_module(f"instar.cli.{verb}")
    parse(verb, [*things, *changes], flags=module.FLAGS, things=module.THINGS)
    folder = Path(next((change[5:] for change in changes if change.startswith("runs=")), "runs"))
    found = None
    if verb in ("evaluate", "report", "explain", "export"):
        found = runs.find(things[0], folder).path.absolute()
        things = [str(found), *things[1:]]
    where = found / "jobs" if found else folder.absolute() / "jobs" / verb
    label = to_type(_beside(found)) if found else verb
    return Work(label, (verb, *things, *changes), None, where)


def _beside(folder: Path) -> Path:
    """A folder as one would type it from here."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _kept(mistakes: list[str], make: Any) -> Any:
    try:
        return make()
    except ConfigError as error:
        mistakes += error.mistakes
        return None


# --- what is shown -------------------------------------------------------------------------------------------------


def told(
    work: "Work", job: "Job", site: "Site", *, name: str, findings: Sequence[Any], trial: "Trial | None" = None
) -> list[str]:
    """What the job is, what it may cost, and what was found when it was checked."""
    from instar import submit

    nodes = f"{job.nodes} node{'s' * (job.nodes > 1)}"
    has = f"{job.gpus_per_node} GPUs" if job.gpus_per_node else f"{job.cores_per_task * job.tasks_per_node} cores"
    chain = f", up to {job.links} one after another" if job.links > 1 else ""
    elements = f"{formats.count(len(job.elements))} {work.word}s in one array" if job.elements else "one job"
    price = submit.price(job, site)
    unit = {"gpu": "gpu_hours", "node": "node_hours"}.get(site.hourly, "core_hours")
    unit = unit if price[unit] else "core_hours"
    hours = f"{price[unit]:,.0f}".replace(",", " ")
    limit = f"{formats.clock(job.seconds)} a job{chain}"
    lines = [
        f"job      {formats.one_line(work.label)} on {name}: {nodes} with {has}, {limit}",
        f"price    at most {hours} {unit.replace('_hours', '').replace('gpu', 'GPU')}-hours, {elements}",
    ]
    if trial is not None and trial.earliest:
        lines.append(f"start    {time.strftime('%a %d %b %H:%M', time.localtime(trial.earliest))} at the earliest")
    if trial is not None and trial.refusal:
        lines.append(f"refused  {trial.refusal}")
    return [*lines, *(f"{_MARKS[finding.level]:<9}{finding.text}" for finding in findings)]


def _show_dry(words: Words, work: "Work", job: "Job", site: "Site", *, name: str, findings: Any, trial: Any) -> None:
    from instar import submit

    text = submit.script(job, site)
    if "json" in words:
        facts = {"script": text, "price": submit.price(job, site), "links": job.links, "earliest": trial.earliest}
        found = [{"level": one.level, "text": one.text} for one in findings]
        terminal.say(json.dumps({**facts, "findings": found, "refusal": trial.refusal}))
        return
    head = told(work, job, site, name=name, findings=findings, trial=trial)
    again = " ".join(shlex.quote(word) for word in ("instar", *words.line) if word != "--dry")
    terminal.say("\n".join(["\n".join(head), "", text.rstrip(), "", f"next     {formats.one_line(again)}"]))


def _after(work: "Work", ids: Sequence[str]) -> list[str]:
    chain = f" and {len(ids) - 1} that follow it" if len(ids) > 1 else ""
    label = work.label
    lines = [f"queued   job {ids[0]}{chain}", f"look     {formats.one_line(str(_beside(work.jobs)))}"]
    if work.run is None:
        return [*lines, "next     instar runs"]
    if work.word == "worker":
        return [*lines, f"next     instar runs   ·   instar why {label}   ·   instar stop {label}"]
    if work.elements:
        return [*lines, f"next     instar runs {formats.one_line(str(_beside(work.run)))}"]
    return [*lines, f"next     instar watch {label}   ·   instar logs {label}   ·   instar stop {label}"]
