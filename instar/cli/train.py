"""Learn from a folder of images or a recipe; the same command again carries on

    instar train FOLDER                        one folder a class; or images/ and masks/, for pixel labels
    instar train RECIPE.yaml epochs=40         what a recipe says, with changes
    instar train MANIFEST.parquet              the rows and splits that instar prepare wrote down
    instar train RUN                           carry on with a run, by its folder
    instar train MODULE.yaml                   a LightningModule of your own, or a file of the DL & HPC starter pack

    key=value      any setting of the recipe, by its full name: instar show lists them. Six have a short name:
                   epochs batch lr size balance pretrained
    devices=2      processes that train together          workers=4    processes that read images, a device
    walltime=8h    stop and save in time                  device=cpu   auto, cpu or cuda
    stage=auto     copy packed data to the node's own disk or memory first; or stage=FOLDER
    run=NAME       instead of a name made up              runs=FOLDER  instead of runs/
    on_change=     stretch, tail or restart: what the learning rate does when the length of a run is changed
    accept=true    go on although the images changed
    score=false    leave the test rows and the page for later: instar evaluate makes them
    track=[mlflow] show the curves elsewhere too: tensorboard, mlflow, wandb, csv

    --dry          say what would happen, and do nothing
    --quiet        only what needs attention
    --json         one JSON object at the end

Ctrl-C, SIGTERM and SIGUSR1 save and stop; so does the end of a Slurm job. Exit code: 0 done, 75 stopped and saved,
65 a mistake to mend.
"""

import difflib
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from instar import caches, formats, plugins, terminal
from instar.cli import kinds
from instar.cli.words import Words, to_type
from instar.engine import deadline
from instar.errors import DONE, ConfigError, WeightsError

if TYPE_CHECKING:
    from instar.experiment import Experiment
    from instar.machine import Machine, Start
    from instar.manifest import Manifest
    from instar.plan import Plan
    from instar.run import Run
    from instar.train import Outcome

FLAGS = ("dry",)
THINGS = (0, 1)
SHORT = {
    "epochs": "train.epochs",
    "batch": "train.batch",
    "lr": "optim.lr",
    "size": "augment.size",
    "balance": "task.balance",
    "pretrained": "model.pretrained",
}

T = TypeVar("T")


def run(words: Words) -> int:
    # Until the handlers stand, a signal ends the process; importing torch takes seconds. They stand to its very end.
    deadline.install()
    from instar.cli import _brought

    if (own := _brought.document(words)) is not None:
        caches.refuse_network()
        return _brought.run(words, own)
    experiment, machine, start, ranks = prepared(words)
    if ranks > 1:
        from instar.engine.ranks import launch

        return launch.ranks(list(words.line), ranks)
    return _train(words, experiment, machine, start)


def prepared(words: Words) -> tuple["Experiment", "Machine", "Start", int]:
    """What to learn, where, how, and with how many processes; raises where anything that can be known now is wrong."""
    caches.refuse_network()
    experiment, machine, start = settings(words)
    trackers_are_here(experiment.track)
    _weights_are_here(words, experiment, start)
    return experiment, machine, start, 1 if "dry" in words else ranks_to_start(machine)


def settings(words: Words) -> tuple["Experiment", "Machine", "Start"]:
    """What to learn, where, and how to start; raises ConfigError with the mistakes of all three."""
    from instar import experiment as experiments
    from instar.machine import Machine, Start
    from instar.validation import validate

    mistakes: list[str] = []
    ours = {**dict.fromkeys(Machine.model_fields, Machine), **dict.fromkeys(Start.model_fields, Start)}
    changes: dict[Any, list[str]] = {Machine: [], Start: [], None: []}
    for change in words.changes:
        key = change.lstrip("+~").partition("=")[0]
        top = key.partition(".")[0]
        near = difflib.get_close_matches(top, ours, n=1)
        if top not in ours and top not in experiments.Experiment.model_fields and near and key not in SHORT:
            mistakes.append(f"command line: unknown key {top!r}: did you mean {near[0]!r}?")
        else:
            changes[ours.get(top)].append(long_name(change))
    if not words.things and not any(change.startswith("data.root=") for change in words.changes):
        mistakes.append("there is nothing to learn from: name a folder of images or a recipe. See: instar train --help")
        raise ConfigError(mistakes)
    source: Any = words.things[0] if words.things else {}
    machine = collected(mistakes, lambda: validate(Machine, {}, changes[Machine]))
    start = collected(mistakes, lambda: validate(Start, {}, changes[Start]))
    changes[None] = [*kinds.of_folder(source, changes[None]), *changes[None]]
    experiment = collected(mistakes, lambda: experiments.load(source, changes[None]))
    if mistakes or experiment is None or machine is None or start is None:
        raise ConfigError(mistakes)
    if start.run is None and words.things and (Path(source) / "experiment.yaml").is_file():
        start = start.model_copy(update={"run": f"{source}/"})  # a path, not a name in runs/
    return experiment, machine, start


def long_name(change: str) -> str:
    """The full name of a setting so common that its last word will do."""
    key, equals, value = change.partition("=")
    return f"{SHORT.get(key, key)}{equals}{value}"


def collected(mistakes: list[str], make: Callable[[], T]) -> T | None:
    """What `make` gives; where it is a mistake, nothing, and its sentences are added to the others."""
    try:
        return make()
    except ConfigError as error:
        mistakes += error.mistakes
        return None


def _weights_are_here(words: Words, experiment: "Experiment", start: "Start") -> None:
    """Raises WeightsError, before anything heavy is imported, where weights to start from are not on this machine."""
    from instar import experiment as experiments
    from instar import lock

    try:
        lock.check(experiment, lock.beside(source(words, experiment)), command=_fetching(words, experiment))
    except WeightsError:
        # What was saved needs no other weights.
        if not experiments.locate(experiment, start.run, runs=start.runs).is_saved():
            raise


def trackers_are_here(trackers: Sequence[Any]) -> None:
    """Raises ConfigError, before anything begins, where a tracker's package is not installed."""
    if trackers:
        from instar.engine.tracking import followers

        followers.check(trackers)


def source(words: Words, experiment: "Experiment") -> Path:
    """The recipe or folder that a command is about, beside which its lock stands."""
    return Path(words.things[0] if words.things else experiment.data.root)


def _fetching(words: Words, experiment: "Experiment") -> str:
    """The command that gets the weights this command needs; told in a job, with the folders of the job's caches."""
    from instar import lock
    from instar.machine import Machine, Start

    elsewhere = {*Machine.model_fields, *Start.model_fields}
    changes = [change for change in words.changes if change.partition("=")[0] not in elsewhere]
    in_job = "SLURM_JOB_ID" in os.environ or "PBS_JOBID" in os.environ
    return lock.command("".join(words.things), changes, caches.chosen() if in_job else {})


def ranks_to_start(machine: "Machine") -> int:
    """How many processes to start here; 1 where somebody else started this one among others."""
    from instar.engine.ranks import launch

    if launch.is_rank(os.environ):
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as our own launcher does; read when torch is imported
        return 1
    return machine.devices if isinstance(machine.devices, int) else launch.count_devices(machine.device)


def _train(words: Words, experiment: "Experiment", machine: "Machine", start: "Start") -> int:
    level = "silent" if "json" in words else "quiet" if "quiet" in words else "full"
    learnt = learn(words, experiment, machine, start, level=level)
    if learnt.outcome.rank == 0:
        _say(words, learnt)
    return DONE


@dataclass(frozen=True)
class Learnt:
    """A training, scored.

    split    the rows it was scored on; None where there were none to score, and on ranks other than 0
    notes    a line each of what trackers have to say
    """

    outcome: "Outcome"
    metric: str
    split: str | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def learn(words: Words, experiment: "Experiment", machine: "Machine", start: "Start", *, level: str) -> Learnt:
    """Train, with trackers beside it, and score the test rows; level is what the terminal shows."""
    from instar import lock, prepare
    from instar import train as stage
    from instar.engine.tracking.followers import Followers, told

    metric = plugins.load("tasks", experiment.task.kind).METRIC
    view = terminal.Terminal(metric=metric, watched=experiment.train.metric, experiment=experiment, level=level)
    options = stage.Options(
        run_name=start.run,
        runs_folder=start.runs,
        on_change=start.on_change,
        accept=start.accept,
        dry="dry" in words,
        lock=lock.beside(source(words, experiment)),
        fetch=_fetching(words, experiment),
    )
    followers = Followers(() if options.dry else experiment.track)

    def announce(run: "Run", plan: "Plan", manifest: "Manifest") -> None:
        view.announce(run, plan, manifest)
        followers.begin(run)

    with followers:
        try:
            outcome = stage.train(
                experiment,
                lambda: prepare.manifest(experiment.data, experiment.seed, progress=view.preparing),
                machine=machine,
                options=options,
                view=view,
                announce=announce,
            )
        finally:
            view.clear()
        if outcome.rank != 0 or outcome.state == "dry":
            return Learnt(outcome, metric)
        split = _score(outcome, machine, score=start.score)
        notes = told(followers.end(), to_type(outcome.run.path))
    return Learnt(outcome, metric, split, outcome.run.scores(split) if split else {}, notes)


def _score(outcome: "Outcome", machine: "Machine", *, score: bool) -> str | None:
    """Score the test rows, or else those of validation, and write the page; returns which."""
    run = outcome.run
    split = "test" if outcome.plan.test_rows else "val" if outcome.plan.val_rows else None
    if split and score:
        from instar import evaluate

        if outcome.state != "already" or not run.scores(split):
            evaluate.evaluate(run, split=split, machine=machine)
        elif not run.report.exists():
            evaluate.report(run)
    return split


def _say(words: Words, learnt: Learnt) -> None:
    """Say how good it is, and where to look."""
    outcome, run = learnt.outcome, learnt.outcome.run
    if outcome.state == "dry":
        again = shlex.join(word for word in ("instar", *words.line) if word != "--dry")
        tell(words, {"state": "dry", "run": str(run.path)}, [f"next     {again}"])
        return
    facts = {"state": outcome.state, "run": str(run.path), "best": outcome.best}
    lines = ending(run, outcome.best, learnt.split, learnt.scores, metric=learnt.metric)
    tell(words, {**facts, "split": learnt.split, "scores": learnt.scores}, [*lines[:-1], *learnt.notes, *lines[-1:]])


def ending(
    run: Any, best: dict[str, Any], split: str | None, scores: Mapping[str, Any], *, metric: str
) -> Sequence[str]:
    """The last lines of a training: how good it is, where to look, what to type next."""
    results = []
    if best:
        watched = best.get("metric", metric)
        shown = "val" if watched == metric else f"val {watched}"
        results.append(f"{shown} {formats.score(watched, best['value'])} (epoch {formats.epoch(best['epoch'])})")
    if metric in scores and split == "test":
        ends = (scores.get("intervals") or {}).get(metric)
        spread = f" {formats.interval(metric, *ends)}" if ends else ""
        results.append(f"test {formats.score(metric, scores[metric])}{spread}")
    lines = [f"best     {'   '.join(results)}"] if results else []
    page = run.report if run.report.exists() else run.path
    return [
        *lines,
        f"look     {formats.one_line(str(page))}",
        what_next(run),
    ]


def what_next(run: Any) -> str:
    """What to type after a training."""
    folder = "" if run.path.parent == Path("runs") else f" {shlex.quote(str(run.path.parent))}"
    return f"next     instar runs{folder}   ·   instar compare {to_type(run.path)} OTHER"


def tell(words: Words, facts: dict[str, Any], lines: Sequence[str]) -> None:
    """The result, as JSON or as lines. A training must not fail at its end because nobody reads it any more."""
    try:
        if "json" in words:
            terminal.say(json.dumps(facts))
        elif "quiet" not in words:
            terminal.say("\n".join(lines))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
