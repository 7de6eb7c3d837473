"""Experiment x Manifest x Machine -> Plan.

Legend: K classes.
"""

from typing import Any

import numpy as np
import torch

from instar import plugins
from instar.engine.loading.loaders import usable_cpus
from instar.errors import ConfigError, DataError
from instar.experiment import Experiment, Train
from instar.machine import Machine
from instar.manifest import Manifest
from instar.plan import Plan


def plan(experiment: Experiment, manifest: Manifest, machine: Machine, *, devices: int) -> Plan:
    """Every number that follows; raises ConfigError or DataError where the parts do not fit together.

    devices   how many processes train together
    """
    settings = experiment.train
    train_rows = manifest.rows("train")
    if len(train_rows) == 0:
        raise DataError(f"{manifest.root}: no row is left for training. Lower data.split.test and data.split.val.")
    counts_K = np.bincount(manifest.targets[train_rows], minlength=len(manifest.classes)).astype(np.int64)
    balance = getattr(experiment.task, "balance", "none")
    balancer = plugins.load("balancers", balance)
    quotas_K = balancer.quotas(counts_K, int(counts_K.sum()))
    weights = getattr(balancer, "class_weights", None)
    # A task may weigh its classes by something else than rows, such as pixels.
    of_task = getattr(plugins.load("tasks", experiment.task.kind), "class_weights", None)
    weights_K = weights(counts_K).tolist() if weights else of_task(experiment.task, manifest) if of_task else None
    epoch_samples = int(quotas_K.sum())
    batch = settings.batch
    if batch < devices:
        raise ConfigError(f"train.batch is {batch}, fewer than the {devices} processes. Write at least {devices}.")
    micro = _micro(settings, -(-batch // devices), experiment.task)
    channels, size = _seen(experiment, manifest)
    steps = max(1, -(-round(settings.epochs * epoch_samples) // batch))
    device = device_of(machine.device)
    if settings.compile == "graphs" and device != "cuda":
        raise ConfigError(f"train.compile=graphs is for CUDA, but this trains on {device}. Write train.compile=true.")
    if settings.shuffle != "global" and not np.array_equal(quotas_K, counts_K):
        raise ConfigError(
            f"train.shuffle={settings.shuffle} divides the rows, and task.balance={balance} draws from all of them. "
            f"Write train.shuffle=global, or task.balance=none."
        )
    precision = _precision(settings.precision, device)
    return Plan(
        classes=manifest.classes,
        channels=channels["image"],
        size=size["image"],
        train_rows=len(train_rows),
        val_rows=len(manifest.rows("val")),
        test_rows=len(manifest.rows("test")),
        class_counts_K=tuple(counts_K.tolist()),
        quotas_K=tuple(quotas_K.tolist()),
        class_weights_K=None if weights_K is None else tuple(weights_K),
        epoch_samples=epoch_samples,
        total_samples=steps * batch,
        batch=batch,
        micro=micro,
        devices=devices,
        workers=_workers(machine, devices),
        device=device,
        precision=precision,
        channels_last=_channels_last(settings, device, precision),
        manifest_hash=manifest.hash,
        seed=experiment.seed,
        offset_C=_numbers(manifest, "offset"),
        scale_C=_numbers(manifest, "scale"),
        other_channels=channels.get("other", 0),
        other_size=size.get("other", 0),
    )


def _micro(settings: Train, rows: int, task: Any) -> int:
    """Rows a rank takes at once; raises ConfigError where a batch is to be cut that its task must see whole."""
    if (
        settings.micro is not None
        and settings.micro < rows
        and not getattr(plugins.load("tasks", task.kind), "CUTS", True)
    ):
        raise ConfigError(
            f"train.micro is {settings.micro}, but task {task.kind} compares all rows of a batch with each other, so "
            f"the {rows} of a device cannot be cut. Leave it out, or write a smaller train.batch, or use more devices."
        )
    return min(settings.micro or rows, rows)


def _seen(experiment: Experiment, manifest: Manifest) -> tuple[dict[str, int], dict[str, int]]:
    """Channels of each picture of a row, and its height and width."""
    settings, size = experiment.data.reader, experiment.augment.size
    reader = plugins.load("readers", settings.kind)
    if "other" in reader.gives:
        return reader.channels(settings, manifest), reader.sizes(settings, size)
    return {"image": _channels(settings.channels, manifest)}, {"image": size}


def _channels(wanted: Any, manifest: Manifest) -> int:
    """How many channels a sample has: as the reader is set, or as was found in the files."""
    return wanted if isinstance(wanted, int) else int(manifest.statistics["channels"])


def _numbers(manifest: Manifest, name: str) -> tuple[float, ...] | None:
    """One number a channel, where the reader says how its numbers are normalised."""
    found = manifest.statistics.get(name)
    return None if found is None else tuple(found)


def _workers(machine: Machine, devices: int) -> int:
    if machine.workers != "auto":
        return int(machine.workers)
    # The training itself wants a core. With a single core, a worker process only adds copies.
    cores = usable_cpus() // devices
    return min(16, cores) if cores > 1 else 0


def device_of(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch sees no CUDA device here. Write device=cpu, or check nvidia-smi.")
    return wanted


def _precision(wanted: str, device: str) -> str:
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "fp32"


def _channels_last(settings: Train, device: str, precision: str) -> bool:
    if settings.parallel == "fsdp":  # divides no weights that lie in memory like that
        return False
    # Measured: on the CPU channels-last makes fp32 convolutions slower and bf16 ones faster.
    return precision != "fp32" if settings.channels_last == "auto" else bool(settings.channels_last)
