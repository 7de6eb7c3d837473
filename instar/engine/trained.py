"""What a run has learnt, brought back from its folder: the learner with the weights of a checkpoint."""

from dataclasses import dataclass, replace
from typing import Any

import instar
from instar import experiment as experiments
from instar import manifest as manifests
from instar import plan as plans
from instar import plugins
from instar.contract import CLASSES, EMBEDDING, PIXELS, Contract
from instar.engine import build, planning
from instar.engine.checkpoint import store
from instar.engine.ranks import world as worlds
from instar.errors import CheckpointError, RunError
from instar.experiment import Experiment
from instar.machine import Machine
from instar.manifest import Manifest
from instar.networks import Learner, train_mode
from instar.plan import Plan
from instar.run import Run


@dataclass(frozen=True, eq=False)
class Trained:
    """A learner ready to answer, and what it was made of.

    checkpoint   the name of the state its weights are of
    """

    run: Run
    experiment: Experiment
    plan: Plan
    learner: Learner
    checkpoint: str


@dataclass(frozen=True, eq=False)
class WithRows:
    """A learner, and the rows it can be shown.

    checkpoint   the name of the state its weights are of
    samples      rows it had learnt from by then
    """

    experiment: Experiment
    manifest: Manifest
    plan: Plan
    learner: Learner
    reader: Any
    checkpoint: str
    samples: int


def load(run: Run, *, checkpoint: str = "best", device: str = "cpu") -> Trained:
    """The learner of a run in float32, ready to answer. Needs no data and no manifest.

    checkpoint   best or latest
    Raises RunError or CheckpointError where there is nothing to load.
    """
    if not run.experiment_file.exists():
        raise RunError(f"{run.path}: there is no run in this folder. See: instar runs")
    experiment = experiments.load(run.path)
    found = checkpoint_of(run, checkpoint)
    plan = replace(plans.read(run.plan_file), device=device, devices=1, precision="fp32", channels_last=False)
    learner = build.learner(experiment, plan, empty=True)
    learner.module.load_state_dict(weights_of(found))
    train_mode(learner.module, training=False)
    return Trained(run, experiment, plan, learner, found.name)


def with_rows(run: Run, *, checkpoint: str, machine: Machine, devices: int) -> WithRows:
    """The learner of a run, and a reader of its rows, on a machine.

    checkpoint   best or latest
    Raises RunError or CheckpointError where something is missing.
    """
    experiment, rows, found = experiments.load(run.path), manifest(run), checkpoint_of(run, checkpoint)
    plan = planning.plan(experiment, rows, machine, devices=devices)
    learner = build.learner(experiment, plan, empty=True)
    learner.module.load_state_dict(weights_of(found))
    reader = build.reader(experiment, rows, machine)
    return WithRows(experiment, rows, plan, learner, reader, found.name, found.samples)


def alone(run: Run, machine: Machine) -> worlds.World:
    """A world of this process only, whatever launcher it runs under."""
    return worlds.join(worlds.Place(), folder=run.path, device=planning.device_of(machine.device))


def checkpoint_of(run: Run, which: str) -> Any:
    """The best checkpoint, or the latest where none was marked best (a run without validation rows)."""
    best = store.load_best(run.checkpoints) if which == "best" else None
    found = best or store.load(run.checkpoints)
    if found is None:
        raise CheckpointError(f"{run.path}: there is no checkpoint yet. Train first, with: instar train {run.path}")
    return found


def weights_of(checkpoint: Any) -> Any:
    """The weights that are evaluated: their average over training where there is one."""
    return checkpoint.files.get("ema", checkpoint.files["model"])


def contract(trained: Trained) -> Contract:
    """What the learner takes and answers: evaluation's pixels, nothing of which it prepares itself."""
    import torch

    experiment, plan, reader = trained.experiment, trained.plan, trained.experiment.data.reader
    dtype = torch.float32 if is_field(experiment) else torch.uint8
    side = -(-plan.size // 32) * 32
    with torch.inference_mode():
        image_BHWC = torch.zeros(1, side, side, plan.channels, dtype=dtype, device=plan.device)
        shapes = {name: tuple(value.shape) for name, value in trained.learner.answer(image_BHWC).items()}
    answers = EMBEDDING if "embedding" in shapes else CLASSES if len(shapes["probability"]) == 2 else PIXELS
    size = None if answers == PIXELS else plan.size
    colour = getattr(plugins.load("readers", reader.kind), "colour", lambda name: (255, 255, 255))
    return Contract(
        answers=answers,
        labels=() if answers == EMBEDDING else plan.classes,
        channels=plan.channels,
        dtype="float32" if is_field(experiment) else "uint8",
        height=size,
        width=size,
        batch=None,
        inside=False,
        crop=experiment.augment.crop,
        resize=experiment.augment.resize,
        size=plan.size,
        background=colour(getattr(reader, "background", "white")),
        span=getattr(reader, "span", None),
        run=trained.run.name,
        checkpoint=trained.checkpoint,
        made_by=f"instar {instar.__version__}",
    )


def is_field(experiment: Experiment) -> bool:
    """Whether rows are fields of numbers, and no pictures."""
    return bool(getattr(plugins.load("readers", experiment.data.reader.kind), "numbers", False))


def manifest(run: Run) -> Manifest:
    """The rows of a run. Raises RunError where its manifest is gone."""
    if not run.manifest_file.exists():
        raise RunError(f"{run.path}: manifest.parquet is missing, so its rows are not known. Train again to make it.")
    return manifests.read(run.manifest_file)
