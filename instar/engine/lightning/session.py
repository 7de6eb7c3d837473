"""A module somebody brought, inside a run folder of ours: Lightning's Trainer turns it.

What Lightning does not do, or not safely, is done from its hooks: signals set a flag and the state is saved at the end
of a step (Lightning's own handler saves wherever the signal finds it); a save holds the generators, and the place in
the epoch, of every rank, so that an ordinary loader takes up in the middle of one.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping

from instar.brought import Brought
from instar.engine import deadline, definition
from instar.engine.checkpoint import foreign
from instar.engine.lightning import words
from instar.engine.lightning.ranks import places
from instar.engine.lightning.resumable import installed
from instar.engine.lightning.watch import Patience, Watch
from instar.engine.metrics_log import MetricsLog
from instar.engine.ranks.watchdog import Watchdog
from instar.engine.ranks.world import World
from instar.engine.view import View
from instar.errors import ConfigError
from instar.run import Run


@dataclass
class Position:
    """Where a training stands, as a save remembers it.

    batches   over all epochs
    best      the best evaluation: metric, value, samples, epoch
    """

    batches: int = 0
    best: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaders:
    """Loaders of ours, for a module that is to learn from images Instar reads."""

    train: Any
    val: Any
    test: Any


@dataclass
class Session:
    """One start of one rank: everything that Lightning's hooks need, and the stages that a user's own function calls.

    plan      told, once the loaders are known, what follows from them; rank 0 writes it down
    held      whether the lease is still ours
    resume    the save that training takes up; None at the beginning
    """

    run: Run
    brought: Brought
    world: World
    clock: deadline.Clock
    watchdog: Watchdog
    metrics: MetricsLog
    view: View
    plan: Callable[[dict[str, Any]], None]
    held: Callable[[], bool]
    module: LightningModule
    datamodule: LightningDataModule | None
    loaders: Loaders | None
    resume: Path | None
    position: Position = field(default_factory=Position)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    state: str = ""

    def fit(self) -> None:
        """Train from where the run stands. Raises Again when it was stopped and saved."""
        watch = Watch(self)
        with words.quiet(), words.blaming(self, "training"):
            trainer = self._trainer(watch)
            if self.brought.train.compile:
                self.module.compile()
            given = installed(self, watch)
            file = self.resume / foreign.FILE if self.resume and self.resume.is_dir() else self.resume
            trainer.fit(self.module, **given, ckpt_path=file, weights_only=self._weights_only(file))
        self.state = "early" if watch.stopped_early else "finished"

    def validate(self, checkpoint: str = "best") -> dict[str, float]:
        """Score a checkpoint on the validation loader."""
        return self._scored("val", checkpoint)

    def test(self, checkpoint: str = "best") -> dict[str, float]:
        """Score a checkpoint on the test loader."""
        return self._scored("test", checkpoint)

    def _scored(self, split: str, checkpoint: str) -> dict[str, float]:
        file = self.checkpoint(checkpoint)
        with words.quiet(), words.blaming(self, f"scoring the {split} rows"):
            trainer = self._trainer(Patience(self))
            score = trainer.validate if split == "val" else trainer.test
            source: dict[str, Any] = {"datamodule": self.datamodule} if self.datamodule is not None else {}
            if self.loaders is not None:
                source = {"dataloaders": self.loaders.val if split == "val" else self.loaders.test}
            found = score(self.module, **source, ckpt_path=file, weights_only=self._weights_only(file), verbose=False)
        self.scores[split] = {name: float(value) for one in found for name, value in one.items()}
        return self.scores[split]

    def checkpoint(self, which: str) -> Path:
        """The file of a checkpoint: best (or the latest, where nothing is monitored), latest, or a path."""
        if which not in ("best", "latest"):
            return Path(which)
        found = foreign.best(self.run.checkpoints) if which == "best" else None
        found = found or foreign.newest(self.run.checkpoints)[0]
        if found is None:
            raise ConfigError(f"{self.run.path}: there is no checkpoint yet. Train first.")
        return found / foreign.FILE

    def has(self, split: str) -> bool:
        """Whether the module can be scored on a split."""
        step = {"val": "validation_step", "test": "test_step"}[split]
        if getattr(type(self.module), step) is getattr(LightningModule, step):
            return False
        if self.loaders is not None:
            return getattr(self.loaders, split) is not None
        name = f"{split}_dataloader"
        return any(
            getattr(type(source), name, None) is not getattr(base, name)
            for source, base in ((self.module, LightningModule), (self.datamodule, LightningDataModule))
            if source is not None
        )

    def warm(self, path: Path) -> None:
        """Begin with the weights of a run or a file."""
        file = path
        if path.is_dir():
            found = foreign.best(path / "checkpoints") or foreign.newest(path / "checkpoints")[0]
            if found is None:
                raise ConfigError(f"train.warm_start: {path} is no run with a checkpoint")
            file = found / foreign.FILE
        if file.is_dir():
            raise ConfigError(
                f"train.warm_start: {file} is a folder of the parts of several ranks. Make one file of it: "
                f"python -m lightning.pytorch.utilities.consolidate_checkpoint {shlex.quote(str(file))}"
            )
        weights = opened(file, trust=self.brought.task.trust)
        weights = weights.get("state_dict", weights)
        strict = self.brought.train.warm_start_strict
        try:
            lacking = self.module.load_state_dict(weights, strict=strict)
        except RuntimeError as error:
            hint = " Write train.warm_start_strict=false to take what fits in name." if strict else ""
            raise ConfigError(f"train.warm_start: {file} does not fit: {words.first(error)}{hint}") from error
        for what, names in (("not in the file", lacking.missing_keys), ("not in the module", lacking.unexpected_keys)):
            if names:
                self.view.note(f"warm start: {len(names)} weights are {what}: {', '.join(names[:3])} …")

    def _weights_only(self, file: Path | None) -> bool | None:
        if file is None:
            return None
        opened(file, trust=self.brought.task.trust, look=True)
        return not self.brought.task.trust

    def _trainer(self, watch: Callback) -> Trainer:
        given = dict(self.brought.trainer)
        world = self.world
        local, nodes, ranks = places(world)
        several = world.size > 1
        if world.device.type == "cuda" and not several:
            local = [world.device.index or 0]
        stop = self.brought.train.stop_early
        callbacks: list[Callback] = [watch]
        if stop is not None and isinstance(watch, Watch):
            train = self.brought.train
            assert train.monitor and train.monitor_mode, "checked with the settings"
            callbacks.append(EarlyStopping(train.monitor, mode=train.monitor_mode, verbose=False, **dict(stop)))
        strategy = str(given.get("strategy", ""))
        if not several and strategy.partition("_")[0] == "ddp":
            if isinstance(watch, Watch):
                self.view.note(f"trainer.strategy={strategy} is for several processes; this one is alone, without it")
            del given["strategy"]
        rank_zero_only.rank = world.rank  # type: ignore[attr-defined]
        defaults: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
        defaults |= {"strategy": "ddp"} if several else {}
        with words.refused():
            return Trainer(
                **(defaults | given),
                accelerator="gpu" if world.device.type == "cuda" else "cpu",
                devices=local,
                num_nodes=nodes,
                callbacks=callbacks,
                logger=False,
                enable_checkpointing=None,
                default_root_dir=self.run.path,
                # Left to find them itself, Lightning would initialise MPI, which ends a process that no mpirun started.
                plugins=[ranks],
            )


def made(brought: Brought) -> tuple[LightningModule, LightningDataModule | None]:
    """The module and its datamodule, made from seeded generators; raises ConfigError where they cannot be."""
    with words.quiet():
        if brought.train.matmul is not None:
            torch.set_float32_matmul_precision(brought.train.matmul)
        seed_everything(brought.seed, workers=True, verbose=False)
        data = brought.task.datamodule
        datamodule = definition.make(data, LightningDataModule, "task.datamodule") if data is not None else None
        return definition.make(brought.task, LightningModule, "task"), datamodule


def opened(file: Path, *, trust: bool, look: bool = False) -> dict[str, Any]:
    """What a checkpoint file holds, its tensors on the CPU; nothing in it is run unless it is trusted.

    look   only make sure that it can be read
    """
    if not file.exists():
        raise ConfigError(f"there is no checkpoint {file}")
    if file.is_dir():  # shards, which the strategy reads itself
        return {}
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(file))
    try:
        return dict(torch.load(file, map_location="cpu", weights_only=not trust, mmap=True if look else None))
    except Exception as error:
        if trust:
            raise ConfigError(f"{file} cannot be read: {words.first(error)}") from error
        raise ConfigError(
            f"{file} holds more than tensors and plain values, and reading that can run code: {words.first(error)}. "
            f"If it is your own, write task.trust=true"
        ) from error
