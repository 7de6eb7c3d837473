"""What training a LightningModule inside a run costs beyond Lightning's Trainer: the same module, side by side.

    python -m benchmarks.own_module [steps]

Three trainings of the same small convolutional network go on in turn, five steps each and on one core, so that whatever
else the machine does meets all of them: the Trainer with all that keeps anything switched off, the Trainer as it comes
(a CSV log and a checkpoint, which a run has too), and a run. Processor time of their threads; the median of the
differences between neighbouring turns counts.

Where the network's weights happen to lie alone makes a few percent of such a step. So the same is measured with a
network that does next to nothing, over five times as many steps: `added_us` is what a run adds to each, `added_share`
that beside the real step.
"""

import json
import logging
import os
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from instar import brought, fit
from instar.machine import Machine

_TURN = 5
_WARM = 5
SIDES = ("lightning", "as_it_comes", "instar")


class Turns:
    """Lets the sides go on one after the other, and notes the processor time of each turn."""

    def __init__(self) -> None:
        self._order = deque(SIDES)
        self._changed = threading.Condition()
        self._begun = 0.0
        self.seconds: dict[str, list[float]] = {side: [] for side in SIDES}

    def await_one(self, side: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._order[0] == side)
        self._begun = time.thread_time()

    def over(self, side: str) -> None:
        self.seconds[side].append((time.thread_time() - self._begun) / _TURN)
        with self._changed:
            self._order.rotate(-1)
            self._changed.notify_all()
        self.await_one(side)

    def leave(self, side: str) -> None:
        with self._changed:
            self._order.remove(side)
            self._changed.notify_all()


turns = Turns()


class Timed(LightningModule):
    """Logs a loss at every step, as most do."""

    def __init__(self, side, steps=200, channels=32, pixels=16, batch=32):
        super().__init__()
        self.side, self.steps, self.pixels, self.batch = side, steps, pixels, batch
        layers = [torch.nn.Conv2d(3, channels, 3, padding=1), torch.nn.ReLU()]
        layers += [torch.nn.Conv2d(channels, channels, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        self.network = torch.nn.Sequential(*layers, torch.nn.Linear(channels, 10))

    def train_dataloader(self):
        images = torch.rand(self.batch * self.steps, 3, self.pixels, self.pixels)
        labels = torch.zeros(len(images), dtype=torch.long)
        return DataLoader(TensorDataset(images, labels), self.batch, shuffle=True)

    def training_step(self, batch, batch_idx):
        if batch_idx and batch_idx % _TURN == 0:
            turns.over(self.side)
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the same core for all
    # The class of this very process, so that its times end up here.
    sys.modules["benchmarks.own_module"] = sys.modules[__name__]
    real = _measured({"steps": steps})
    least = _measured({"steps": 5 * steps, "channels": 1, "pixels": 1, "batch": 1})
    facts = {f"{side}_us_a_step": round(1e6 * median(seconds), 1) for side, seconds in real.items()}
    facts["ratio"] = round(1 + _added(real, "lightning") / median(real["lightning"]), 4)
    facts["ratio_as_it_comes"] = round(1 + _added(real, "as_it_comes") / median(real["as_it_comes"]), 4)
    facts["added_us"] = round(1e6 * _added(least, "lightning"), 1)
    facts["added_us_as_it_comes"] = round(1e6 * _added(least, "as_it_comes"), 1)
    facts["added_share"] = round(_added(least, "lightning") / median(real["lightning"]), 4)
    print(json.dumps({**facts, "goal": 1.01, "steps": steps}))


def _added(seconds: dict[str, list[float]], peer: str) -> float:
    """Seconds a step that a run adds to a peer's, of turns that followed one another."""
    return median(ours - theirs for ours, theirs in zip(seconds["instar"], seconds[peer], strict=True))


def _measured(arguments: dict[str, int]) -> dict[str, list[float]]:
    """Seconds of processor time a step, by side and turn."""
    global turns
    turns = Turns()
    threads = [threading.Thread(target=_train, args=(side, arguments)) for side in SIDES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {side: seconds[_WARM:] for side, seconds in turns.seconds.items()}


def _train(side: str, arguments: dict[str, Any]) -> None:
    turns.await_one(side)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _SIDES[side]({**arguments, "side": side}, folder)
    finally:
        turns.leave(side)


def _alone(arguments: dict[str, Any], folder: str) -> None:
    _fit(arguments, folder, logger=False, enable_checkpointing=False)


def _as_it_comes(arguments: dict[str, Any], folder: str) -> None:
    _fit(arguments, folder, logger=CSVLogger(folder), enable_checkpointing=True)


def _fit(arguments: dict[str, Any], folder: str, *, logger: Any, enable_checkpointing: bool) -> None:
    Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=enable_checkpointing,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    ).fit(Timed(**arguments))


def _inside(arguments: dict[str, Any], folder: str) -> None:
    task = {"kind": "lightning_module", "module": "benchmarks.own_module", "definition": "Timed", "args": arguments}
    recipe = brought.load({"task": task, "trainer": {"max_epochs": 1}})
    fit.fit(recipe, machine=Machine(device="cpu"), run_name="run", runs_folder=Path(folder))


_SIDES = {"lightning": _alone, "as_it_comes": _as_it_comes, "instar": _inside}

if __name__ == "__main__":
    main()
