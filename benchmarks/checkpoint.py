"""Checkpoints of timm's resnet50 with AdamW (307 MB, 803 tensors), side by side with what else one could do.

    python benchmarks/checkpoint.py [--rounds 9] [--folder DISK] [--only stall durable load]

stall     what a training step waits for: state_dict, flatten and save, against one memory copy of the same bytes, DCP's
          async_save, and torch.save
durable   until the checkpoint survives a power cut, sha256 sums included, against `cp` and fsync of as many bytes
load      back into tensors, against torch.load of a file that torch.save wrote
"""

import argparse
import logging
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed.checkpoint as dcp
from _side_by_side import Case, report, rounds

from instar.engine.checkpoint import store as checkpoint
from instar.engine.checkpoint.store import Checkpoints

After = Callable[[], None]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments.add_argument(
        "--only", nargs="+", choices=["stall", "durable", "load"], default=["stall", "durable", "load"]
    )
    given = arguments.parse_args()
    for quiet in ("torch.distributed", "torch.distributed.checkpoint"):
        logging.getLogger(quiet).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torch.distributed")
    model, optimizer = training()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        measure(model, optimizer, Path(name), number=given.rounds, only=given.only)


def training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model and an optimiser after one step, so that all its state exists."""
    torch.manual_seed(0)
    model = timm.create_model("resnet50")
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


def measure(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: Path, *, number: int, only: list[str]
) -> None:
    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    with Checkpoints(folder / "ours") as checkpoints:
        ours = Ours(model, optimizer, checkpoints)
        ours.save()()  # memory is reserved once a run
        bytes_ = checkpoint.size(ours.files())
        print(f"{bytes_ / 1e6:.1f} MB, {torch.get_num_threads()} threads, torch {torch.__version__}")
        if "stall" in only:
            measure_stall(ours, state, folder, bytes_, number)
        if "durable" in only:
            measure_durable(ours, folder, bytes_, number)
    if "load" in only:
        measure_load(state, folder, number)


def measure_stall(ours: "Ours", state: Callable[[], dict[str, Any]], folder: Path, bytes_: int, number: int) -> None:
    cases: dict[str, Case] = {
        "one memory copy": memory_copy(bytes_),
        "instar": ours.save,
        "DCP async_save": lambda: dcp_async(state(), folder / "dcp"),
        "torch.save": lambda: torch_save(state(), folder / "torch.pt"),
    }
    stall = rounds(cases, rounds=number)
    report("checkpoint stall", stall, "one memory copy", {"instar": 1.2})
    report("checkpoint stall beside DCP async_save", stall, "DCP async_save", {"instar": 1.0})
    report("checkpoint stall beside torch.save", stall, "torch.save", {"instar": 1 / 12})


def measure_durable(ours: "Ours", folder: Path, bytes_: int, number: int) -> None:
    (folder / "source").write_bytes(os.urandom(1 << 20) * (bytes_ >> 20))
    cases: dict[str, Case] = {
        "cp and fsync": lambda: copy_and_sync(folder / "source", folder / "copy"),
        "instar": ours.save_durably,
    }
    report("checkpoint durable", rounds(cases, rounds=number), "cp and fsync", {"instar": 1.1})


def measure_load(state: Callable[[], dict[str, Any]], folder: Path, number: int) -> None:
    torch.save(state(), folder / "torch.pt")
    cases: dict[str, Case] = {
        "torch.load": lambda: forget(torch.load(folder / "torch.pt", weights_only=True)),
        "torch.load mmap": lambda: forget(torch.load(folder / "torch.pt", weights_only=True, mmap=True)),
        "instar": lambda: forget(checkpoint.load(folder / "ours", verify=False)),
        "instar verified": lambda: forget(checkpoint.load(folder / "ours")),
    }
    report("checkpoint load", rounds(cases, rounds=number), "torch.load", {"instar": 0.1})


class Ours:
    """The cases that save with instar."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, checkpoints: Checkpoints):
        self._model, self._optimizer, self._checkpoints = model, optimizer, checkpoints
        self._saves = 0

    def files(self) -> dict[str, dict[str, torch.Tensor]]:
        tensors, self._rest = checkpoint.flatten_optimizer(self._optimizer)
        return {"model": self._model.state_dict(), "optimizer": tensors}

    def save(self) -> After:
        self._saves += 1
        self._checkpoints.save(self.files(), {"optimizer": self._rest}, samples=self._saves)
        return self._settle

    def save_durably(self) -> After:
        self.save()
        self._checkpoints.wait()
        return self._settle

    def _settle(self) -> None:
        self._checkpoints.wait()
        for saved in self._checkpoints.poll():
            saved.check()
        os.sync()


def memory_copy(bytes_: int) -> Case:
    source, target = torch.ones(bytes_, dtype=torch.uint8), torch.zeros(bytes_, dtype=torch.uint8)
    return lambda: forget(target.copy_(source))


def dcp_async(state: dict[str, Any], folder: Path) -> After:
    future = dcp.async_save(state, checkpoint_id=folder, no_dist=True)

    def settle() -> None:
        future.result()  # type: ignore[union-attr]
        shutil.rmtree(folder)
        os.sync()

    return settle


def torch_save(state: dict[str, Any], path: Path) -> After:
    torch.save(state, path)
    return os.sync


def copy_and_sync(source: Path, target: Path) -> After:
    subprocess.run(["cp", source, target], check=True)
    for path in (target, target.parent):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def settle() -> None:
        target.unlink()
        os.sync()

    return settle


def forget(value: object) -> None:
    """Let go of it inside the clock: unmapping belongs to loading."""


if __name__ == "__main__":
    main()
