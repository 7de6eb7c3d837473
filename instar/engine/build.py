"""Experiment + Plan + Manifest -> the things that run: learner, reader, order, forward module."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from instar import plugins
from instar.engine import staging
from instar.engine.loading.order import Order, key_of
from instar.engine.loading.sharded import Sharded
from instar.engine.ranks.world import World
from instar.errors import ConfigError
from instar.experiment import Experiment, Train
from instar.machine import Machine
from instar.manifest import Manifest
from instar.networks import Encoder, Learner
from instar.plan import Plan


def learner(
    experiment: Experiment, plan: Plan, *, empty: bool = False, told: Callable[[str], None] = lambda sentence: None
) -> Learner:
    """The learner on its device, initialised as a function of the seed and of given weights alone.

    empty   its weights come from a checkpoint, so none are looked for: a node without network can go on
    told    told, one sentence each, what of given weights did not fit
    """
    torch.manual_seed(key_of((experiment.seed, 3)) >> 1)
    task = plugins.load("tasks", experiment.task.kind)
    of_task = getattr(task, "networks", None)
    if of_task is None:
        encoder: Any = _encoder(experiment, experiment.model, plan, load=not empty, told=told)
    else:
        encoder = {
            branch: _encoder(experiment, model, plan, load=not empty, told=told, features_of=branch)
            for branch, model in of_task(experiment.task, experiment.model).items()
        }
    made = task.learner(experiment.task, encoder, plan)
    memory_format = torch.channels_last if plan.channels_last else torch.contiguous_format
    made.module.to(device=plan.device, memory_format=memory_format)
    made.counts = {name: count.to(plan.device) for name, count in made.counts.items()}
    learnt: Learner = made
    return learnt


def _encoder(
    experiment: Experiment,
    model: Any,
    plan: Plan,
    *,
    load: bool,
    told: Callable[[str], None],
    features_of: str | None = None,
) -> Encoder:
    """The network that answers for classes, or gives the features of one branch of a row."""
    channels = plan.other_channels if features_of == "other" else plan.channels
    size = plan.other_size if features_of == "other" else plan.size
    classes = len(plan.classes) if features_of is None else None
    encoder: Encoder = plugins.load("models", model.kind).build(
        model, channels=channels, classes=classes, size=size, load=load
    )
    for sentence in encoder.unmatched:
        told(sentence)
    if plan.offset_C is not None and plan.scale_C is not None:
        # Numbers that are no pixels have nothing to do with those that a network's weights were trained with.
        encoder = replace(encoder, mean=plan.offset_C, std=plan.scale_C)
    elif not experiment.augment.normalise:
        encoder = replace(encoder, mean=(0.0,) * channels, std=(1.0,) * channels)
    return encoder


def reader(
    experiment: Experiment,
    manifest: Manifest,
    machine: Machine,
    *,
    mine: np.ndarray | None = None,
    told: Callable[[str], None] = lambda sentence: None,
) -> Any:
    """What turns a row into a sample; raises ConfigError where it does not give what the task needs.

    Packed data are brought near first, where the machine says so.
    mine   rows that this node reads, where the others need not be near; None for all
    told   told, one sentence each, what was done
    """
    shelf = plugins.load("readers", experiment.data.reader.kind)
    task = plugins.load("tasks", experiment.task.kind)
    missing = task.needs - shelf.gives
    if missing:
        raise ConfigError(
            f"task {experiment.task.kind!r} needs {', '.join(sorted(missing))}, which reader "
            f"{experiment.data.reader.kind!r} does not give (it gives {', '.join(sorted(shelf.gives))})."
        )
    files = None if mine is None else manifest.table["file"].take(mine)
    rows = replace(manifest, root=staging.near(manifest.root, machine, files=files, told=told))
    crops = getattr(task, "crops", None)
    if crops is None:
        return shelf.open(experiment.data.reader, rows, experiment.augment)
    return shelf.open(experiment.data.reader, rows, experiment.augment, crops(experiment.task))


def keep(experiment: Experiment, *, whole: bool) -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None:
    """What is kept of the predictions of a batch: to be stored (`whole`), or to be measured; None for all of them."""
    kept = getattr(plugins.load("tasks", experiment.task.kind), "kept", None)
    return None if kept is None else partial(kept, whole=whole, settings=experiment.task)


def order(manifest: Manifest, plan: Plan, settings: Train, world: World) -> Order | Sharded:
    """The order of the training rows: over all of them, or over a part for each node or rank."""
    rows = manifest.rows("train")
    if settings.shuffle != "global":
        holder_R = _holders(world) if settings.shuffle == "node" else list(range(world.size))
        if len(rows) < max(holder_R) + 1:
            raise ConfigError(
                f"train.shuffle={settings.shuffle} divides {len(rows)} training rows among {max(holder_R) + 1}. Write "
                f"train.shuffle=global."
            )
        return Sharded(rows, holder_R, batch=plan.batch, seed=plan.seed, oversampling=settings.oversampling)
    targets = manifest.targets[rows]
    by_class = np.argsort(targets, kind="stable")
    rows_of_class = [_as_range(part) for part in np.split(rows[by_class], np.cumsum(plan.class_counts_K)[:-1])]
    return Order(rows_of_class, plan.quotas_K, seed=plan.seed)


def rows_of_node(order: Order | Sharded, manifest: Manifest, world: World) -> np.ndarray | None:
    """The rows that this node's ranks read: its part of those to train on, and all that are scored. None for all."""
    if isinstance(order, Order):
        return None
    node_R = _holders(world)
    trained = [
        order.rows_of(rank if order.holders == world.size else node)
        for rank, node in enumerate(node_R)
        if node == node_R[world.rank]
    ]
    return np.unique(np.concatenate([*trained, manifest.rows("val"), manifest.rows("test")]))


def _holders(world: World) -> list[int]:
    """The number of the node that each rank is on, from 0."""
    hosts = [process.host for process in world.processes] or [""]
    numbers = {host: number for number, host in enumerate(dict.fromkeys(hosts))}
    return [numbers[host] for host in hosts]


def _as_range(rows: np.ndarray) -> np.ndarray | range:
    """Ascending rows, as a range where none is missing."""
    whole = len(rows) > 0 and int(rows[-1]) - int(rows[0]) == len(rows) - 1
    return range(int(rows[0]), int(rows[-1]) + 1) if whole else rows
