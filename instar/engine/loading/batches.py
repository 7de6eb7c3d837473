"""Batches for a training loop that is not ours: pairs of pixels and labels, and a state of one integer.

Legend: B rows of a batch, C channels, H W pixels.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from instar import plugins
from instar.augment import Augment
from instar.engine import staging
from instar.engine.loading import loaders
from instar.engine.loading.order import Order
from instar.engine.ranks.world import World
from instar.experiment import Data
from instar.machine import Machine
from instar.manifest import Manifest

Pair = tuple[torch.Tensor, torch.Tensor]


def reader(data: Data, augment: Augment, rows: Manifest, machine: Machine) -> Any:
    """What turns a row into a sample."""
    return plugins.load("readers", data.reader.kind).open(
        data.reader, replace(rows, root=staging.near(rows.root, machine)), augment
    )


class TrainBatches:
    """The training rows for ever: an iteration goes on where the one before it stopped, `len` batches to an epoch.

    Its state is how many batches were given out, whatever the number of ranks and workers.
    """

    def __init__(self, reader: Any, rows: Manifest, *, seed: int, batch: int, world: World, machine: Machine):
        self.batch_size = batch
        self._reader, self._seed, self._world, self._machine = reader, seed, world, machine
        train = rows.rows("train")
        self._order = Order([train], [len(train)], seed=seed)
        self._given = 0
        self._stream: Iterator[Any] | None = None

    def __len__(self) -> int:
        return math.ceil(self._order.epoch_samples / self.batch_size)

    def __iter__(self) -> Iterator[Pair]:
        if self._stream is None:
            self._stream = loaders.train_stream(
                self._reader,
                self._order,
                start=self._given * self.batch_size,
                total=1 << 62,
                batch=self.batch_size,
                rank=self._world.rank,
                world=self._world.size,
                workers=_workers(self._machine, self._world),
                seed=self._seed,
                timeout=self._machine.timeout.seconds,
            )
        for batch in self._stream:
            self._given += 1
            yield _pair(batch)

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._given, self._stream = state["batches"], None


class EvalBatches:
    """The given rows once an iteration, those of this rank."""

    def __init__(self, reader: Any, rows: np.ndarray, *, batch: int, world: World, machine: Machine):
        self.batch_size = max(1, batch // world.size)
        self._reader, self._machine, self._world = reader, machine, world
        self._rows = rows[world.rank :: world.size]

    def __len__(self) -> int:
        return math.ceil(len(self._rows) / self.batch_size)

    def __iter__(self) -> Iterator[Pair]:
        for batch in loaders.eval_stream(
            self._reader,
            self._rows,
            batch=self.batch_size,
            workers=_workers(self._machine, self._world),
            timeout=self._machine.timeout.seconds,
        ):
            yield _pair(batch)


def rows_of(
    reader: Any, rows: Manifest, split: str, *, batch: int, world: World, machine: Machine
) -> EvalBatches | None:
    """Batches of a split; None where it has no rows."""
    found = rows.rows(split)
    return EvalBatches(reader, found, batch=batch, world=world, machine=machine) if len(found) else None


def _pair(batch: dict[str, Any]) -> Pair:
    """(image_BCHW, float32 of 0 to 1, or as the reader normalised it; label_B, or mask_BHW)."""
    image_BHWC = batch["image"]
    largest = 1 if image_BHWC.is_floating_point() else torch.iinfo(image_BHWC.dtype).max
    image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(torch.float32, copy=True).contiguous().div_(largest)
    # Copied: the arrays of a batch are used again.
    return image_BCHW, batch["mask" if "mask" in batch else "label"].long().clone()


def _workers(machine: Machine, world: World) -> int:
    if machine.workers != "auto":
        return int(machine.workers)
    cores = loaders.usable_cpus() // world.size
    return min(16, cores) if cores > 1 else 0
