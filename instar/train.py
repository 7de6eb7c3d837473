"""Experiment + Manifest -> Run. The same command again resumes.

Read top to bottom: find the folder, take the lease, make or compare what stands in it, build, train, say how it ended.
"""

import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from instar import experiment as experiments
from instar import lock as locks
from instar import manifest as manifests
from instar import plan as plans
from instar import plugins
from instar.engine import loop, optimise, planning, rates, starts
from instar.engine.assemble import assemble
from instar.engine.checkpoint import store as checkpoint
from instar.engine.observer import Nobody, Observer
from instar.engine.ranks import lease
from instar.engine.ranks import world as worlds
from instar.engine.ranks.watchdog import follows_from_another
from instar.engine.ranks.world import World
from instar.engine.saving import make_room, restore_newest, save
from instar.engine.training import Training
from instar.engine.view import Quiet, View
from instar.errors import Again, CheckpointError, InstarError, RunError
from instar.experiment import Experiment
from instar.machine import Machine
from instar.manifest import Manifest
from instar.plan import Plan, Progress
from instar.run import Run, write_atomically
from instar.settings import dump


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    state   finished, target (reached, so it stopped), early (stopped early by its own rule), pruned (stopped by the
            search it is a trial of), already (nothing was left to do) or dry
    best    the best evaluation, as in events.jsonl; empty without a validation split
    """

    run: Run
    plan: Plan
    state: str
    best: dict[str, Any]
    rank: int = 0


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what to learn.

    run_name    a name or path of the user's; by default it follows from the experiment
    on_change   stretch, tail or restart: what the learning rate does when the length of a training changes
    accept      go on although the data changed under the run
    lock        the lock of the recipe, which the pretrained weights must agree with where it exists
    fetch       the command that gets weights that are missing
    """

    run_name: str | None = None
    runs_folder: Path = Path("runs")
    on_change: str | None = None
    accept: bool = False
    dry: bool = False
    lock: Path | None = None
    fetch: str = "instar fetch RECIPE"


def train(
    experiment: Experiment,
    manifest: Callable[[], Manifest],
    *,
    machine: Machine,
    options: Options,
    view: View | None = None,
    announce: Callable[[Run, Plan, Manifest], None] = lambda run, plan, manifest: None,
) -> Outcome:
    """Train, or carry on with a training that was stopped.

    manifest   makes the manifest; only rank 0 calls it
    announce   told what is about to happen, once, on rank 0

    Raises Again (exit 75) when stopped and saved, ConfigError, DataError or RunError for mistakes, LearningError when
    training cannot go on.
    """
    run = experiments.locate(experiment, options.run_name, runs=options.runs_folder)
    place = worlds.here()
    if options.dry:
        made = manifest()
        plan = planning.plan(experiment, made, machine, devices=place.world)
        announce(run, plan, made)
        return Outcome(run, plan, "dry", {})
    run.path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        world = stack.enter_context(worlds.join(place, folder=run.path, device=planning.device_of(machine.device)))
        writer = starts.first_rank(world, lambda: stack.enter_context(lease.held(run.lease_file)))
        prepared = starts.first_rank(
            world, lambda: _prepare(run, experiment, manifest, machine=machine, options=options, devices=world.size)
        )
        plan = plans.read(run.plan_file) if prepared is None else prepared.plan
        rows = manifests.read(run.manifest_file) if prepared is None else prepared.manifest
        if prepared is not None:
            announce(run, plan, rows)
        shown = view if view is not None and world.rank == 0 else Quiet()
        for note in prepared.notes if prepared is not None else ():
            shown.note(note)
        observer = _observer(run, experiment, world)
        training = assemble(
            run,
            experiment,
            plan,
            rows,
            machine=machine,
            world=world,
            writer=writer,
            view=shown,
            observer=observer,
            stack=stack,
        )
        return _carry_on(training, experiment, options, prepared.before if prepared else None)


def _observer(run: Run, experiment: Experiment, world: World) -> Observer:
    """Who writes the benchmark's log, where the recipe wants one; on rank 0 only."""
    if experiment.mlperf is None:
        return Nobody()
    settings = experiment.mlperf
    from instar.engine.mllog import BenchmarkLog  # needs an extra

    return starts.first_rank(world, lambda: BenchmarkLog(run.mlperf_file, experiment, settings)) or Nobody()


# --- the folder ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prepared:
    """A run folder that is ready.

    before   the plan of the start before; None on the first
    notes    what a person should know about this start, one sentence each
    """

    plan: Plan
    manifest: Manifest
    before: Plan | None
    notes: list[str]


def _prepare(
    run: Run,
    experiment: Experiment,
    manifest: Callable[[], Manifest],
    *,
    machine: Machine,
    options: Options,
    devices: int,
) -> _Prepared:
    """Make the folder, or make sure that what stands in it is this experiment on this data."""
    before = plans.read(run.plan_file) if run.experiment_file.exists() else None
    if before is not None:
        _same_experiment(run, experiment, options)
    used = [] if run.is_saved() else locks.used(experiment, options.lock, command=options.fetch)
    rows = manifest()
    if before is not None and rows.hash != before.manifest_hash:
        _changed_data(run, rows, options)
    plan = planning.plan(experiment, rows, machine, devices=devices)
    if before is not None and before.total_samples != plan.total_samples:
        same_recipe = _saved(run).train.epochs == experiment.train.epochs
        # Where only the data changed, and that was accepted, the schedule follows the new length of an epoch.
        _ask_about_length(run, experiment, before, plan, "stretch" if same_recipe else options.on_change)
    notes = starts.note(run, before, plan, weights=used)
    if before is None or before.manifest_hash != rows.hash or not run.manifest_file.exists():
        manifests.write(rows, run.manifest_file)
    plans.write(plan, run.plan_file)
    write_atomically(run.experiment_file, dump(experiment))
    if options.lock is not None and options.lock.exists():
        write_atomically(run.lock_file, options.lock.read_bytes())
    return _Prepared(plan, rows, before, notes)


def _same_experiment(run: Run, experiment: Experiment, options: Options) -> None:
    different = experiments.differences(_saved(run), experiment)
    # A changed length is no other experiment; what it does to the rate is asked for separately.
    different = [line for line in different if not line.startswith("train.epochs:")]
    if different:
        listed = "\n  ".join(different)
        raise RunError(
            f"{run.path} holds another experiment:\n  {listed}\n"
            f"Leave out run={options.run_name} to get a folder for this one, or write the old values."
        )


def _changed_data(run: Run, rows: Manifest, options: Options) -> None:
    found = manifests.changes(manifests.read(run.manifest_file), rows)
    examples = [name for names in found.values() for name in names[:3]]
    if not options.accept:
        told = ", ".join(f"{len(names)} {what}" for what, names in found.items() if names)
        raise RunError(
            f"{rows.root} changed under {run.path}, in images: {told or 'another order'}; for example "
            f"{', '.join(examples) or 'all'}. Bring back what was there, train in a new folder, or go on with the "
            f"changed data on purpose: accept=true"
        )
    counts = {what.replace(" ", "_"): len(names) for what, names in found.items()}
    run.log_event("data_changed", rank=0, **counts, examples=examples)


def _ask_about_length(run: Run, experiment: Experiment, before: Plan, plan: Plan, wanted: str | None) -> None:
    """Nothing is changed in the folder unless the user said what the rate is to do."""
    found = checkpoint.load(run.checkpoints)
    if found is None:
        return
    standing = found.state
    policy = rates.choose(
        wanted,
        before=before.total_samples,
        now=plan.progress(standing["samples"]),
        factor=_factor(experiment),
        decay=optimise.moving_decay(experiment.optim, experiment.schedule),
        history=standing["history"],
        previous=standing["rate_policy"],
    )
    run.log_event("rate_policy", rank=0, samples=standing["samples"], policy=policy, before=before.total_samples)


def _saved(run: Run) -> Experiment:
    return experiments.load(run.path)


# --- the training --------------------------------------------------------------------------------------------------


def _carry_on(training: Training, experiment: Experiment, options: Options, before: Plan | None) -> Outcome:
    """Resume from the newest save, or save the very beginning; train; leave a last word in events.jsonl."""
    run, plan, world = training.run, training.plan, training.world
    found = restore_newest(training)
    _adopt_policy(training)
    begun = training.standing.samples
    if found is not None and begun >= plan.total_samples == training.standing.evaluated_at:
        training.observer.ended(training, "already")
        return Outcome(run, plan, "already", training.standing.best, world.rank)
    starts.first_rank(world, lambda: _room_for_saves(training, found))
    if world.rank == 0 and found is None:
        run.log_event("started", rank=0, samples=0, ranks=world.size)
    elif world.rank == 0 and found is not None:
        starts.end_a_chain(run, begun)
        run.log_event("resumed", rank=0, samples=begun, checkpoint=found.name, ranks=world.size)
        training.view.note(f"resumed at epoch {training.standing.samples / plan.epoch_samples:.2f} from {found.name}")
    try:
        if found is None:
            save(training, wait=True)
        state = loop.train(training)
    except Again as stop:
        run.log_event("stopped", rank=world.rank, samples=training.standing.samples, reason=str(stop))
        if world.rank == 0:
            starts.end_a_chain(run, begun)
        raise
    except InstarError as error:
        kind = type(error).__name__
        run.log_event("failed", rank=world.rank, samples=training.standing.samples, kind=kind, reason=str(error))
        raise
    except BaseException as error:
        if world.size == 1 or not follows_from_another(error):  # else the watchdog says whose fault it is
            facts = {"reason": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            run.log_event("failed", rank=world.rank, samples=training.standing.samples, **facts)
        raise
    training.observer.ended(training, state)
    if world.rank == 0:
        run.log_event("finished", rank=0, samples=training.standing.samples, state=state, best=training.standing.best)
    return Outcome(run, plan, state, training.standing.best, world.rank)


def _room_for_saves(training: Training, found: checkpoint.Checkpoint | None) -> None:
    try:
        make_room(training, found)
    except CheckpointError as error:
        kind = type(error).__name__
        training.run.log_event("failed", rank=0, samples=training.standing.samples, kind=kind, reason=str(error))
        raise


def _adopt_policy(training: Training) -> None:
    """Take the last policy that was chosen for a changed length; it outlives checkpoints made before it."""
    chosen = [event["policy"] for event in training.run.events() if event["event"] == "rate_policy"]
    if chosen:
        training.standing.rate_policy = chosen[-1]


def _factor(experiment: Experiment) -> Callable[[Progress, Sequence[float]], float]:
    """The schedule of an experiment: progress, history -> what the base rate is multiplied with."""
    return partial(plugins.load("schedules", experiment.schedule.kind).factor, experiment.schedule)
