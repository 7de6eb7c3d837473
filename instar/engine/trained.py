"""A run that was trained -> what it learnt, ready to be asked: learner, reader, plan, checkpoint."""

from dataclasses import dataclass
from typing import Any

from instar import experiment as experiments
from instar import manifest as manifests
from instar.engine import build, planning
from instar.engine.checkpoint import store
from instar.engine.ranks import world as worlds
from instar.errors import CheckpointError, RunError
from instar.experiment import Experiment
from instar.machine import Machine
from instar.manifest import Manifest
from instar.networks import Learner
from instar.plan import Plan
from instar.run import Run


@dataclass(frozen=True)
class Trained:
    """A trained network and all that is needed to show it a row.

    checkpoint   name of the checkpoint its weights are from
    samples      rows it had learnt from by then
    """

    experiment: Experiment
    manifest: Manifest
    plan: Plan
    learner: Learner
    reader: Any
    checkpoint: str
    samples: int


def load(run: Run, *, checkpoint: str, machine: Machine, devices: int) -> Trained:
    """The best or the latest state of a run, averaged weights where it keeps them.

    checkpoint   best, which is the latest where none was marked best; or latest
    Raises RunError or CheckpointError where something is missing.
    """
    experiment = experiments.load(run.path)
    if not run.manifest_file.exists():
        raise RunError(f"{run.path}: manifest.parquet is missing, so its rows are not known. Train again to make it.")
    manifest = manifests.read(run.manifest_file)
    found = (store.load_best(run.checkpoints) if checkpoint == "best" else None) or store.load(run.checkpoints)
    if found is None:
        raise CheckpointError(f"{run.path}: there is no checkpoint yet. Train first, with: instar train {run.path}")
    plan = planning.plan(experiment, manifest, machine, devices=devices)
    learner = build.learner(experiment, plan, empty=True)
    learner.module.load_state_dict(found.files.get("ema", found.files["model"]))
    reader = build.reader(experiment, manifest, machine)
    return Trained(experiment, manifest, plan, learner, reader, found.name, found.samples)


def alone(run: Run, machine: Machine) -> worlds.World:
    """A world of this process only, whatever launcher it runs under."""
    return worlds.join(worlds.Place(), folder=run.path, device=planning.device_of(machine.device))
