"""What training a LightningModule inside a run costs beyond Lightning's Trainer alone: the same module, side by side.

    python -m benchmarks.lightning [steps]

Both train the same small convolutional network on the same loader; the first steps are left out. Turns alternate, and
the best of each side counts: what else a machine does only ever adds. Processor time, so that others matter less.
"""

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from instar import brought, fit
from instar.machine import Machine

_WARM = 20
_TURNS = 4
measured: list[float] = []


class Timed(LightningModule):
    """Logs a loss at every step, as most do."""

    def __init__(self, steps=200):
        super().__init__()
        self.steps = steps
        layers = [torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, padding=1)]
        self.network = torch.nn.Sequential(
            *layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 10)
        )
        self.times = []

    def train_dataloader(self):
        images = torch.rand(32 * self.steps, 3, 16, 16)
        return DataLoader(TensorDataset(images, torch.zeros(len(images), dtype=torch.long)), 32, shuffle=True)

    def training_step(self, batch, batch_idx):
        self.times.append(time.process_time())
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def on_train_end(self):
        measured.append((self.times[-1] - self.times[_WARM]) / (len(self.times) - 1 - _WARM))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sides: dict[str, list[float]] = {"lightning": [], "instar": []}
    for _ in range(_TURNS):
        for side, turn in (("lightning", _alone), ("instar", _inside)):
            turn(steps)
            sides[side].append(measured.pop())
    best = {side: min(times) for side, times in sides.items()}
    facts = {f"{side}_us_a_step": round(1e6 * seconds, 1) for side, seconds in best.items()}
    print(json.dumps({**facts, "ratio": round(best["instar"] / best["lightning"], 4), "goal": 1.01, "steps": steps}))


def _alone(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(Timed(steps))


def _inside(steps: int) -> None:
    task = {
        "kind": "lightning_module",
        "module": "benchmarks.lightning",
        "definition": "Timed",
        "args": {"steps": steps},
    }
    # The class of this very process, so that its times end up here.
    sys.modules["benchmarks.lightning"] = sys.modules[__name__]
    recipe = brought.load({"task": task, "trainer": {"max_epochs": 1}})
    with tempfile.TemporaryDirectory() as folder:
        fit.fit(recipe, machine=Machine(device="cpu"), run_name="run", runs_folder=Path(folder))


if __name__ == "__main__":
    main()
