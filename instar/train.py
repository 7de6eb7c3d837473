"""Experiment + Manifest -> Run. The same command again resumes.

Read top to bottom: find the folder, take the lease, make or compare what stands in it, build, train, say how it ended.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from instar import experiment as experiments
from instar import manifest as manifests
from instar import plan as plans
from instar import plugins
from instar.engine import build, checkpoint, deadline, faults, loaders, lease, planning, predict, rates
from instar.engine import loop as loops
from instar.engine import optimise as optimising
from instar.engine import world as worlds
from instar.engine.loop import Training
from instar.engine.metrics_log import MetricsLog
from instar.engine.parallel import parallel
from instar.engine.provenance import provenance
from instar.engine.step import Forward, Stepper
from instar.engine.syncnorm import convert as synchronise_norms
from instar.engine.view import Quiet, View
from instar.engine.watchdog import Watchdog
from instar.engine.world import World
from instar.errors import Again, InstarError, RunError
from instar.experiment import Experiment
from instar.manifest import Manifest
from instar.plan import Plan
from instar.run import Run, name_for, write_atomically
from instar.settings import dump
from instar.site import Site


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    state   finished, early (stopped early by its own rule), already (nothing was left to do) or dry
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
    """

    run_name: str | None = None
    runs_folder: Path = Path("runs")
    on_change: str | None = None
    accept: bool = False
    dry: bool = False


def train(
    experiment: Experiment,
    manifest: Callable[[], Manifest],
    *,
    site: Site,
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
    run = locate(experiment, options)
    place = worlds.find(os.environ)
    if options.dry:
        made = manifest()
        plan = planning.plan(experiment, made, site, devices=place.world)
        announce(run, plan, made)
        return Outcome(run, plan, "dry", {})
    run.path.mkdir(parents=True, exist_ok=True)
    with worlds.join(place, folder=run.path, device=_local_device(site, place)) as world:
        shown = view if view is not None and world.rank == 0 else Quiet()
        with lease.held(run.lease_file) if world.rank == 0 else lease.nobody() as held:
            ...


def locate(experiment: Experiment, options: Options) -> Run:
    """The run folder this experiment belongs in: its own from an earlier start, or one that is not there yet."""
    if options.run_name:
        path = Path(options.run_name)
        return Run(path if len(path.parts) > 1 else options.runs_folder / path)
    label = experiment.name or Path(experiment.data.root).resolve().name
    first = name_for(label, experiments.signature(experiment))
    number = 1
    while True:
        run = Run(options.runs_folder / (first if number == 1 else f"{first}-{number}"))
        if not run.experiment_file.exists() or not experiments.differences(_saved(run), experiment):
            return run
        number += 1
