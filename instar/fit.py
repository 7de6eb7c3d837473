"""Brought -> Run: a LightningModule somebody brought, trained by Lightning. The same command again carries on.

Read top to bottom: find the folder, take the lease, make or compare what stands in it, make the module, go through the
stages, say how it ended.
"""

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import brought as brought_ones
from instar import documents
from instar.brought import Brought, Place
from instar.engine import deadline, starts
from instar.engine import definition as definitions
from instar.engine.checkpoint import foreign
from instar.engine.lightning import stages
from instar.engine.metrics_log import MetricsLog
from instar.engine.ranks import lease
from instar.engine.ranks import world as worlds
from instar.engine.ranks.watchdog import Watchdog, follows_from_another
from instar.engine.ranks.world import World
from instar.engine.view import Quiet, View
from instar.errors import Again, DataError, InstarError, RunError
from instar.experiment import differences
from instar.machine import Machine
from instar.manifest import Manifest
from instar.report import brought as pages
from instar.report import html
from instar.run import Run, write_atomically
from instar.settings import dump

if TYPE_CHECKING:
    from instar.engine.lightning.session import Loaders, Session

Facts = dict[str, Any]
_LAST_WORDS = ("started", "resumed", "stopped", "failed", "finished")


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    state    finished, early (stopped by its own rule), already (nothing was left to do) or dry
    scores   of the splits that were scored, by name
    """

    run: Run
    state: str
    best: Facts
    scores: dict[str, dict[str, float]]
    rank: int = 0


@dataclass(frozen=True)
class _Where:
    """What may show in the last digits where it differs between two starts."""

    devices: int
    device: str
    precision: str


def fit(
    brought: Brought,
    *,
    machine: Machine,
    run_name: str | None = None,
    runs_folder: Path = Path("runs"),
    dry: bool = False,
    document: Facts | None = None,
    manifest: Callable[[], Manifest] | None = None,
    view: View | None = None,
    announce: Callable[[Run, Facts], None] = lambda run, plan: None,
) -> Outcome:
    """Train a module that was brought, or carry on with a training that was stopped; then test it.

    document   says where each setting was written
    manifest   makes the manifest of the images that Instar reads for it; only rank 0 calls it
    announce   told what is about to happen, once, on rank 0

    Raises Again (exit 75) when stopped and saved, ConfigError or DataError for mistakes, LearningError where the user's
    own code raised, with its file and line.
    """
    run = brought_ones.locate(brought, run_name, runs=runs_folder)
    definition = brought_ones.look(brought, document)
    if dry:
        announce(run, {"definition": str(definition)})
        return Outcome(run, "dry", {}, {})
    place = worlds.here()
    run.path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        world = stack.enter_context(worlds.join(place, folder=run.path, device=_device(machine)))
        writer = starts.first_rank(world, lambda: stack.enter_context(lease.held(run.lease_file)))
        shown = view if view is not None and world.rank == 0 else Quiet()
        before = starts.first_rank(world, lambda: _prepare(run, brought)) or {}
        before = world.share(before)
        rows = _manifest(run, manifest, world) if brought.data is not None and manifest else None
        metrics = MetricsLog(run.metrics_file if world.rank == 0 else None)
        stack.callback(metrics.close)

        def plan(facts: Facts) -> None:
            made = _plan_of(world, brought, definition, facts)
            announce(run, made)
            _note_start(run, before, made, shown)

        stack.enter_context(_last_word(run, world))
        session = _session(
            run,
            brought,
            world,
            machine=machine,
            watchdog=stack.enter_context(Watchdog(world, on_event=run.log_event)),
            metrics=metrics,
            view=shown,
            plan=plan,
            held=lambda: writer is None or writer.held(),
            rows=rows,
        )
        return _carry_on(session, done=before.get("done", False))


@contextmanager
def _last_word(run: Run, world: World) -> Iterator[None]:
    """A start that does not come to its end says why in events.jsonl; of the user's own code, its own lines."""
    try:
        yield
    except Again:  # its last word is said where it was saved
        raise
    except InstarError as error:
        facts = {"kind": type(error).__name__, "reason": str(error)}
        if own := definitions.own_traceback(error.__cause__):
            facts["own_traceback"] = own
        run.log_event("failed", rank=world.rank, samples=stages.samples_saved(run), **facts)
        raise
    except BaseException as error:
        if world.size == 1 or not follows_from_another(error):
            facts = {"reason": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            run.log_event("failed", rank=world.rank, samples=stages.samples_saved(run), **facts)
        raise


def score(run: Run, *, split: str, checkpoint: str, machine: Machine) -> dict[str, Any]:
    """Score a run's checkpoint with the module's own validation or test step; writes scores and the page.

    checkpoint   best, latest, or a file
    """
    if split == "train":
        raise DataError(
            "a LightningModule scores itself, on its own validation or test loader: split=test or split=val"
        )
    brought = brought_ones.load(run.path)
    with ExitStack() as stack:
        world = stack.enter_context(worlds.join(worlds.Place(), folder=run.path, device=_device(machine)))
        metrics = MetricsLog(None)
        rows = _read_manifest(run) if brought.data is not None else None
        session = _session(
            run,
            brought,
            world,
            machine=machine,
            watchdog=Watchdog(world),
            metrics=metrics,
            view=Quiet(),
            plan=lambda facts: None,
            held=lambda: True,
            rows=rows,
        )
        if not session.has(split):
            raise DataError(f"{brought.task.definition} has no {split}_step, or no loader for it")
        session.validate(checkpoint) if split == "val" else session.test(checkpoint)
        stages.write_scores(session, split, checkpoint)
    report(run)
    return run.scores(split)


def report(run: Run) -> Path:
    """Write the page of a run from its files alone; returns its path."""
    return html.write(pages.page(run, brought_ones.load(run.path)), run.report)


# --- the folder ----------------------------------------------------------------------------------------------------


def _prepare(run: Run, brought: Brought) -> Facts:
    """Make the folder, or make sure that what stands in it is this module's; returns the plan of the start before."""
    foreign.sweep(run.checkpoints)
    before: Facts = {}
    if run.experiment_file.exists():
        different = differences(_saved(run), brought)
        if different and (run.metrics() or foreign.newest(run.checkpoints)[0] is not None):
            listed = "\n  ".join(different)
            raise RunError(
                f"{run.path} holds another training:\n  {listed}\n"
                f"Name another folder with run=NAME, or write the old values."
            )
        # More epochs may be asked for than before; then there is something left to do.
        newest = next((event["event"] for event in reversed(run.events()) if event["event"] in _LAST_WORDS), "")
        before = {**stages.plan_of(run), "done": newest == "finished" and _saved(run).trainer == brought.trainer}
    write_atomically(run.experiment_file, dump(brought))
    return before


def _saved(run: Run) -> Brought:
    document = documents.read(run.experiment_file)
    if not brought_ones.is_one(document):
        raise RunError(f"{run.path} holds a training of another kind. Name another folder with run=NAME.")
    return brought_ones.load(document)


def _plan_of(world: World, brought: Brought, definition: Place, facts: Facts) -> Facts:
    return {
        **facts,
        "devices": world.size,
        "device": world.device.type,
        "seed": brought.seed,
        "definition": str(definition),
    }


def _note_start(run: Run, before: Facts, plan: Facts, view: View) -> None:
    """Write down what follows from the module and its loaders, and what is other than before."""
    names = ("devices", "device", "precision")
    now = _Where(*(plan[name] for name in names))
    then = _Where(*(before[name] for name in names)) if "precision" in before else None
    write_atomically(run.plan_file, json.dumps(plan, indent=1, ensure_ascii=False) + "\n")
    for sentence in starts.note(run, then, now, weights=[]):
        view.note(sentence)
    if plan["promise"]:
        view.note(f"a resume within an epoch is {plan['promise']}")


# --- the stages ----------------------------------------------------------------------------------------------------


def _session(run: Run, brought: Brought, world: World, *, machine: Machine, rows: Any, **rest: Any) -> "Session":
    from instar.engine.lightning import session as door

    module, datamodule = door.made(brought)
    loaders = _loaders(brought, rows, world, machine) if rows is not None else None
    clock = deadline.Clock(machine.walltime.seconds if machine.walltime else None)
    return door.Session(
        run=run,
        brought=brought,
        world=world,
        clock=clock,
        module=module,
        datamodule=datamodule,
        loaders=loaders,
        resume=None,
        **rest,
    )


def _carry_on(session: "Session", *, done: bool) -> Outcome:
    """Resume from the newest save, go through the stages, leave a last word in events.jsonl."""
    run, world = session.run, session.world
    found = stages.newest(session)
    if done and found is not None:
        return Outcome(run, "already", session.position.best, _kept_scores(run), world.rank)
    begun = stages.begin(session, found)
    try:
        stages.go_through(session)
    except Again as stop:
        run.log_event("stopped", rank=world.rank, samples=stages.samples_saved(run), reason=str(stop))
        if world.rank == 0:
            starts.end_a_chain(run, begun)
        raise
    if world.rank == 0:
        report(run)
    return Outcome(run, session.state, session.position.best, session.scores, world.rank)


def _kept_scores(run: Run) -> dict[str, dict[str, float]]:
    kept = {split: run.scores(split) for split in ("val", "test")}
    return {split: {n: v for n, v in found.items() if n != "about"} for split, found in kept.items() if found}


# --- images that Instar reads ----------------------------------------------------------------------------------------


def _manifest(run: Run, make: Callable[[], Manifest], world: World) -> Manifest:
    from instar import manifest as manifests

    def made() -> Manifest:
        found = make()
        if run.manifest_file.exists() and manifests.read(run.manifest_file).hash != found.hash:
            raise RunError(f"{found.root} changed under {run.path}. Bring back what was there, or name a new run=NAME")
        manifests.write(found, run.manifest_file)
        return found

    return starts.first_rank(world, made) or manifests.read(run.manifest_file)


def _read_manifest(run: Run) -> Manifest:
    from instar import manifest as manifests

    return manifests.read(run.manifest_file)


def _loaders(brought: Brought, rows: Manifest, world: World, machine: Machine) -> "Loaders":
    from instar.engine.lightning import session as door
    from instar.engine.loading import batches

    assert brought.data is not None, "loaders of ours need data"
    reader = batches.reader(brought.data, brought.augment, rows, machine)
    rest: dict[str, Any] = {"batch": brought.train.batch, "world": world, "machine": machine}
    train = batches.TrainBatches(reader, rows, seed=brought.seed, **rest)
    val, test = (batches.rows_of(reader, rows, split, **rest) for split in ("val", "test"))
    return door.Loaders(train, val, test)


def _device(machine: Machine) -> str:
    from instar.engine import planning

    return planning.device_of(machine.device)
