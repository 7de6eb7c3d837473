"""Experiment + space -> Runs and the best Experiment. The same command again, here or elsewhere, carries on.

Read top to bottom: make the study or find it, work on it, say what came of it.
"""

import errno
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from instar import experiment as experiments
from instar import manifest as manifests
from instar import plugins
from instar import space as spaces
from instar import study as studies
from instar.engine import deadline
from instar.engine.ranks import lease
from instar.errors import AGAIN, DONE, Again, ConfigError, InstarError, RunError
from instar.experiment import Experiment
from instar.manifest import Manifest
from instar.search import Effort, Search
from instar.settings import dump
from instar.space import Space
from instar.study import Definition, Study
from instar.tune import forks, lanes, summary
from instar.tune.forks import Command
from instar.tune.lanes import Lane
from instar.tune.searcher import Searcher, journal
from instar.tune.searcher.terms import inside
from instar.tune.worker import View, Worker

_USUAL_SAMPLES = 16
_MOST_SAMPLES = 100_000
_MAKING_SECONDS = 600.0
# Trials on other rows, or scored in another way, say nothing about each other.
_KEPT_APART = ("name", "data", "mlperf", "train.metric", "train.mode")


@dataclass(frozen=True)
class Outcome:
    """How a search ended: done (every trial has ended), late (time or budget is used up), or others (what is left is
    being done by other workers)."""

    study: Study
    state: str
    summary: dict[str, Any]


def define(
    document: dict[str, Any],
    space: Space,
    search: Search,
    *,
    seeds: int = 1,
    known: Sequence[dict[str, Any]] = (),
) -> Definition:
    """What is to be searched, checked as a whole: every choice and both ends of every range.

    document   the recipe, as `experiment.document` gives it
    seeds      how many seeds each point of a grid is trained with
    Raises ConfigError with every mistake at once.
    """
    document = {name: value for name, value in document.items() if name not in ("space", "search")}
    base = experiments.load(document)
    mistakes = [
        f"{one.place}: {one.name} cannot be varied: trials {why} say nothing about each other"
        for one in space.dimensions
        if (why := _kept_apart(one.name))
    ]
    if search.sampler == "grid":
        mistakes += [
            f"{one.place}: {one.name}: a grid needs choices, not {one.text}"
            for one in space.dimensions
            if one.kind != "choice"
        ]
    elif seeds > 1:
        mistakes.append(f"seeds={seeds} goes with sampler=grid, which trains every point with each of them")
    if seeds > 1 and "seed" not in space.names:
        every = ", ".join(str(base.seed + number) for number in range(seeds))
        space = Space((*space.dimensions, *spaces.of({"seed": f"choice({every})"}).dimensions))
    if not space.dimensions:
        mistakes.append(
            "there is nothing to vary: write for example optim.lr='loguniform(1e-5, 1e-2)', or space: in the recipe"
        )
    if not base.data.split.val and base.data.manifest is None and base.data.index is None:
        mistakes.append("data.split.val is 0, but trials are judged by their validation rows")
    try:
        spaces.check(space, lambda changes: experiments.load(document, changes))
    except ConfigError as error:
        mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return Definition(document, base, space, search, tuple(known))


def _kept_apart(name: str) -> str:
    if name == "data.reader" or name.startswith("data.reader."):
        return ""
    if name == "data" or name.startswith("data."):
        return "on other rows"
    return "scored in another way" if name in _KEPT_APART else ""


def search(
    study: Study,
    definition: Definition | None,
    effort: Effort,
    *,
    manifest: Callable[[Definition], Manifest],
    words: Sequence[str],
    devices: int,
    device: str,
    walltime: float | None,
    command: Command,
    view: View,
    announce: Callable[[Study, Definition, int, Manifest], None],
    lock: bytes | None = None,
    halt: Path | None = None,
) -> Outcome:
    """Search, or carry on with a search; several processes may do so in one folder at the same time.

    definition   None for a study that is there
    manifest     makes the manifest of the recipe's data
    words        further words of each trial's command
    devices      processes of one trial
    command      what a trial's process does, with `instar train …` in sys.argv
    halt         a file whose appearance says: save and stop

    Raises Again (exit 75) where it was told to stop and all trials are saved, RunError where the folder holds another
    study or the data changed, ConfigError for settings this machine cannot give.
    """
    here = lanes.lanes(effort.parallel, devices=devices, share=effort.share, device=device)
    definition = definition or studies.load(study)
    server = forks.context(forks.modules(definition.experiment))  # imports while we look through the data
    definition, rows = _made(study, definition, manifest, start=effort.start)
    metric, mode = judged_by(definition.experiment)
    found = Searcher(
        study.journal_file,
        definition,
        mode=mode,
        evaluations=evaluations(definition.experiment),
        together=len(here),
    )
    with journal.opened(study.journal_file), _room_on_disk(study):
        samples = _samples(study, definition, effort)

        def told() -> None:
            summary.write(study, definition, found.trials(), samples=samples, metric=metric, mode=mode)

        told()
        announce(study, definition, samples, rows)
        worker = Worker(
            study=study,
            searcher=found,
            effort=effort,
            samples=samples,
            metric=metric,
            lanes=here,
            recipe=lambda settings: recipe(study, definition, settings),
            words=(*words, f"devices={devices}"),
            command=command,
            clock=deadline.Clock(walltime),
            view=view,
            told=told,
            server=server,
            lock=lock,
            halt=halt,
        )
        try:
            worker.work()
        except InstarError as error:
            study.log_event("stopped" if isinstance(error, Again) else "failed", reason=str(error))
            raise
        finally:
            told()
        left = [place for place in range(samples) if found.places().get(place, "running") == "running"]
    if not left:
        study.log_event("finished", trials=samples)
        _score_the_best(study, words, command=command, server=server, lane=here[0])
        return Outcome(study, "done", study.summary())
    others = any(lease.standing(study.claim_file(place))[0] in ("alive", "unknown") for place in left)
    return Outcome(study, "others" if others else "late", study.summary())


@contextmanager
def _room_on_disk(study: Study) -> Iterator[None]:
    """A full disk is nobody's mistake, and the same command carries on when there is room: Again, not a crash."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Again(f"{study.path}: {error.strerror}. Make room there") from error


def _score_the_best(
    study: Study, words: Sequence[str], *, command: Command, server: ForkServerContext, lane: Lane
) -> None:
    """Score the best trial's test rows, once. In a process like a trial's: here, torch would have to be imported."""
    best = study.summary().get("best")
    if not best:
        return
    run, log = study.trial(best["trial"]), study.trial_log(best["trial"])
    if not json.loads(run.plan_file.read_text(encoding="utf-8")).get("test_rows") or run.scores("test"):
        return
    again = ["evaluate", str(run.path.absolute()), *words]
    code = forks.carried_out(command, again, server=server, log=log, lane=lane)
    if code == AGAIN:
        raise Again(f"{deadline.received() or 'a signal'} while the test rows of trial {best['trial']:04} were scored")
    if code != DONE:
        raise RunError(f"the test rows of the best trial could not be scored; {log} says why")


def judged_by(experiment: Experiment) -> tuple[str, str]:
    """The validation score that decides, and whether more ("max") or less ("min") of it is better."""
    task = plugins.load("tasks", experiment.task.kind)
    return experiment.train.metric or task.METRIC, experiment.train.mode or task.MODE


def evaluations(experiment: Experiment) -> float:
    """How many evaluations a whole training has; infinity where that depends on the data."""
    every, epochs = experiment.train.evaluate, experiment.train.epochs
    if every.unit == "epochs":
        return epochs / every.amount
    return 100 / every.amount if every.unit == "%" else math.inf


def recipe(study: Study, definition: Definition, settings: Mapping[str, Any]) -> str:
    """The recipe of a trial as YAML: the study's, with these settings, on the study's rows."""
    data = dict(definition.document["data"])
    own = {name: data[name] for name in ("root", "reader", "max_bad", "recheck") if name in data}
    document = definition.document | {"data": {**own, "manifest": str(study.manifest_file.absolute())}}
    return dump(experiments.load(document, spaces.changes(settings)))


def journal_of(study: Study) -> tuple[Definition, Searcher]:
    """What a study is and what it has found, to look at."""
    definition = studies.load(study)
    mode = judged_by(definition.experiment)[1]
    whole = evaluations(definition.experiment)
    return definition, Searcher(study.journal_file, definition, mode=mode, evaluations=whole)


def known_from(path: Path, space: Space) -> list[dict[str, Any]]:
    """Settings to try first: those of a run, or the best of a study; raises ConfigError where they lie outside."""
    if studies.is_study(path):
        best = Study(path).summary().get("best") or {}
        return [inside(space, best["settings"])] if best else []
    if not (path / "experiment.yaml").is_file():
        raise RunError(f"start={path}: there is no run and no study. See: instar runs")
    flat = dict(experiments.flat(experiments.load(path).model_dump(mode="json")))
    for one in space.dimensions:  # a group as a whole may be a choice, too
        if one.name not in flat and (nested := _at(experiments.load(path).model_dump(mode="json"), one.name)):
            kinds = [choice for choice in one.choices if isinstance(choice, str) and choice == nested.get("kind")]
            flat |= {one.name: kinds[0]} if kinds else {}
    return [inside(space, flat)]


def _at(values: Any, name: str) -> dict[str, Any]:
    for part in name.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def _samples(study: Study, definition: Definition, effort: Effort) -> int:
    """How many trials there are to be: as many as are asked for, were asked for before, or the grid has."""
    grid = definition.search.sampler == "grid"
    points = (definition.space.points or 0) + len(definition.known) if grid else None
    usual = int(study.summary().get("samples") or 0) or points or _USUAL_SAMPLES
    wanted = effort.samples or usual
    if points is not None:
        wanted = min(wanted, points)
    if wanted > _MOST_SAMPLES:
        raise ConfigError(f"{wanted:,} trials are surely a slip; {_MOST_SAMPLES:,} are the most")
    return wanted


# --- the folder ----------------------------------------------------------------------------------------------------


def _made(
    study: Study, definition: Definition, manifest: Callable[[Definition], Manifest], *, start: str | None
) -> tuple[Definition, Manifest]:
    """The study as it stands in its folder, made now unless it was before; of many starters one makes it."""
    begun = time.monotonic()
    while not study.exists():
        study.path.mkdir(parents=True, exist_ok=True)
        try:
            with lease.held(study.lease_file):
                if not study.exists():
                    return definition, _make(study, definition, manifest(definition), start)
        except RunError:
            if time.monotonic() - begun > _MAKING_SECONDS:
                raise
            time.sleep(0.2)  # another starter makes it; looking through half a million files takes a while
    found = studies.load(study)
    if different := studies.differences(found, definition):
        listed = "\n  ".join(different)
        raise RunError(
            f"{study.path} holds another study:\n  {listed}\n"
            f"Choose another study=NAME for this one, or write the old values."
        )
    rows = manifest(found)
    before = manifests.read(study.manifest_file)
    if rows.hash != before.hash:
        changed = [f"{len(names)} {what}" for what, names in manifests.changes(before, rows).items() if names]
        raise RunError(
            f"{rows.root} changed under {study.path} ({', '.join(changed) or 'another order or split'}): trials on "
            f"other rows say nothing about each other. Bring back what was there, or begin another study=NAME with "
            f"start={study.path}"
        )
    return found, before


def _make(study: Study, definition: Definition, rows: Manifest, start: str | None) -> Manifest:
    study.journal_file.unlink(missing_ok=True)  # of a start that was killed in here
    manifests.write(rows, study.manifest_file)
    if start is not None and studies.is_study(Path(start)) and _same_rows(Study(Path(start)), rows):
        before, found = journal_of(Study(Path(start)))
        if judged_by(before.experiment) == judged_by(definition.experiment):
            mode = judged_by(definition.experiment)[1]
            taken = Searcher(study.journal_file, definition, mode=mode, evaluations=1.0).learn(found.trials())
            study.log_event("learnt", of=start, trials=taken)
    studies.write(study, definition)
    study.log_event("study_made", rows=len(rows), manifest=rows.hash)
    return rows


def _same_rows(other: Study, rows: Manifest) -> bool:
    return other.manifest_file.exists() and manifests.read(other.manifest_file).hash == rows.hash
