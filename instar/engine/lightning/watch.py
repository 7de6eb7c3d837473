"""What happens at the end of a step: counting, measuring, saving and stopping, from Lightning's hooks."""

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping

from instar.engine import deadline, faults
from instar.engine.lightning import gathered, saves, words
from instar.engine.lightning.pace import Pace
from instar.engine.lightning.resumable import Resumable, promise
from instar.errors import Again, ConfigError

if TYPE_CHECKING:
    from instar.engine.lightning.session import Session


class Patience(Callback):
    """Keeps our signal handlers in their place; scoring ends between two batches where one came."""

    def __init__(self, session: "Session"):
        self.session = session

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        deadline.take_back()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        deadline.take_back()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        deadline.take_back()

    def on_test_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._leave_where_told()

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._leave_where_told()

    def _leave_where_told(self) -> None:
        faults.point("evaluate.batch")
        self.session.watchdog.at(self.session.position.batches, "evaluating")
        told = deadline.reason(self.session.clock) is not None
        if any(self.session.world.agree([float(told)])):
            raise Again(deadline.reason(self.session.clock) or "another rank was told to stop")


class Watch(Patience, Checkpoint):
    """Counts, measures, saves and stops, each at the end of a step. A `Checkpoint`, so its hooks come after all others.

    A state is saved only where Lightning can take it up as if nothing had happened: at the end of a step that neither
    an evaluation nor the end of the epoch follows. An epoch that has no such step is saved at its end. So an evaluation
    that is broken off goes back to before it: one step, and what the save before it was not worth.
    """

    def __init__(self, session: "Session"):
        super().__init__(session)
        self.loader: Resumable | None = None
        self.kept: dict[str, Any] | None = None
        self.epoch = 0
        self.epoch_is_over = False
        self.carried: dict[str, Any] = {}
        self.stopped_early = False
        self._rows = 1
        self._epoch_batches = 0
        self._log = 50
        self._pace = Pace(session)
        self._since = (time.monotonic(), 0)
        self._could_save = False
        self._tried: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.loader is None else self.loader.capture()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = state_dict

    # --- beginning -------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        deadline.take_back()
        session = self.session
        loop = trainer.fit_loop
        session.position.batches = loop.epoch_loop.batch_progress.total.ready
        loaders = [] if loop._combined_loader is None else loop._combined_loader.flattened
        self._rows = (_batch_size(loaders[0]) if loaders else 1) * (1 if session.loaders else session.world.size)
        length = trainer.num_training_batches
        if length == float("inf") and trainer.max_steps == -1:
            raise ConfigError(
                f"{words.place_of(session, 'train_dataloader')}train_dataloader gives a loader without a length, so "
                f"an epoch has no end: write trainer.max_steps=N, or trainer.limit_train_batches=N"
            )
        total = (trainer.max_epochs or 0) * length if (trainer.max_epochs or -1) > 0 else float("inf")
        if trainer.max_steps != -1:
            total = min(total, trainer.max_steps * trainer.accumulate_grad_batches)
        self._epoch_batches = int(length if length != float("inf") else total)
        self._log = trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        self._pace.begin(epoch_batches=self._epoch_batches, total_batches=total, rows=self._rows)
        self._enter(trainer, loop.epoch_loop.batch_progress.current.ready)
        self._since = (time.monotonic(), session.position.batches)
        gathered.restore_metrics(pl_module, self.carried.get("metrics", {}))
        if session.world.rank == 0:
            session.plan(
                {
                    "epoch_samples": self._epoch_batches * self._rows,
                    "total_samples": int(total) * self._rows if total != float("inf") else 0,
                    "batch": self._rows * trainer.accumulate_grad_batches,
                    "steps": int(total) if total != float("inf") else 0,
                    "precision": str(trainer.precision),
                    "strategy": type(trainer.strategy).__name__,
                    "parameters": sum(weight.numel() for weight in pl_module.parameters()),
                    "promise": ""
                    if session.loaders
                    else "; ".join(dict.fromkeys(filter(None, (promise(one, session.world.size) for one in loaders)))),
                }
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._could_save = False
        self._enter(trainer, 0)

    def _enter(self, trainer: Trainer, batch: int) -> None:
        """An epoch goes on after so many batches."""
        self.epoch = trainer.current_epoch
        self.epoch_is_over = False
        self._pace.look_ahead(trainer, batch)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.session.watchdog.at(self.session.position.batches, "step")

    # --- every step ------------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        position = self.session.position
        if self.carried:
            gathered.merge_results(trainer.fit_loop.epoch_loop._results, self.carried.get("results", {}))
            self.carried = {}
        position.batches += 1
        if self._tried:
            self._look_for_monitor(trainer)
        self.session.view.step(position.batches * self._rows)
        if position.batches % self._log == 0:
            self._log_step(trainer, outputs)
        faults.point("step.end")
        stop, save = self._pace.asked(batch_idx + 1)
        if (stop or save) and self._is_resumable(trainer, batch_idx):
            self._could_save = True
            self._act(trainer, stop)

    def _look_for_monitor(self, trainer: Trainer) -> None:
        """Say after the first step, rather than after an epoch, that what is watched may never be logged."""
        known = self._tried | _names(trainer.fit_loop.epoch_loop)
        self._tried = set()
        monitor = self.session.brought.train.monitor
        if monitor is not None and monitor not in known:
            self.session.view.note(words.not_logged_yet(monitor, sorted(known)))

    def _is_resumable(self, trainer: Trainer, batch_idx: int) -> bool:
        loop = trainer.fit_loop
        return not (
            (batch_idx + 1) % trainer.accumulate_grad_batches
            or trainer.is_last_batch
            or batch_idx + 1 == trainer.num_training_batches
            or (loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher))
        )

    def _act(self, trainer: Trainer, stop: bool) -> None:
        self._save(trainer)
        if stop:
            why = deadline.reason(self.session.clock) or "another rank was told to stop"
            self.session.run.log_event("signal", rank=self.session.world.rank, samples=self._samples(), reason=why)
            raise Again(why)

    def _log_step(self, trainer: Trainer, outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        told = {"loss": float(loss)} if isinstance(loss, torch.Tensor) and loss.numel() == 1 else {}
        now, batches = time.monotonic(), self.session.position.batches
        speed = (batches - self._since[1]) * self._rows / max(1e-9, now - self._since[0])
        self._since = (now, batches)
        rates = {"lr": trainer.optimizers[0].param_groups[0]["lr"]} if trainer.optimizers else {}
        self._write("train", {**_numbers(trainer._logger_connector.metrics["log"]), **told, **rates}, speed)
        self.session.view.losses(self.session.metrics.last)

    def _write(self, kind: str, values: dict[str, float], speed: float | None = None, **more: Any) -> None:
        where = {"step": self.session.position.batches, "samples": self._samples(), "epoch": self._epochs()}
        pace = {"images_per_second": round(speed, 1)} if speed else {}
        self.session.metrics.write({"time": round(time.time(), 3), "kind": kind, **where, **values, **pace, **more})

    def _samples(self) -> int:
        return self.session.position.batches * self._rows

    def _epochs(self) -> float:
        return round(self.session.position.batches / max(1, self._epoch_batches), 4)

    # --- evaluations and the ends of epochs --------------------------------------------------------------------------

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            self._tried = set(trainer.callback_metrics)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        values = _numbers(trainer._logger_connector.metrics["log"])
        self._judge(trainer, values, kind="val", watched=not self._is_of_training(trainer))
        self._pace.look_ahead(trainer, trainer.fit_loop.epoch_loop.batch_progress.current.ready)
        self._since = (time.monotonic(), self.session.position.batches)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_is_over = True
        if trainer.enable_validation:
            values = _numbers(trainer._logger_connector.metrics["log"])
            if self._is_of_training(trainer):
                self._judge(trainer, values, kind="epoch")
            elif values:
                self._write("epoch", values)
        else:
            self._judge(trainer, _numbers(trainer._logger_connector.metrics["log"]), kind="val")
        if not self._could_save and not self._has_steps_to_save(trainer):
            stop, save = self._pace.asked(0)
            if stop or save:
                self._act(trainer, stop)

    def _has_steps_to_save(self, trainer: Trainer) -> bool:
        length, every = trainer.num_training_batches, trainer.val_check_batch or float("inf")
        return length > trainer.accumulate_grad_batches and (every > trainer.accumulate_grad_batches)

    def _is_of_training(self, trainer: Trainer) -> bool:
        """Whether what is watched is logged by training steps, so that it is known at the end of their epoch only."""
        loop, monitor = trainer.fit_loop.epoch_loop, self.session.brought.train.monitor
        return monitor in _names(loop) and monitor not in _names(loop.val_loop)

    def _judge(self, trainer: Trainer, values: dict[str, float], *, kind: str, watched: bool = True) -> None:
        """Write an evaluation down, and keep its weights where it is the best of what is watched."""
        session, train = self.session, self.session.brought.train
        improved = False
        if watched and train.monitor is not None:
            known = _numbers(trainer.callback_metrics)
            if train.monitor not in known:
                raise ConfigError(words.never_logged(session, train.monitor, list(known)))
            value, before = known[train.monitor], session.position.best.get("value")
            improved = not math.isnan(value) and (
                before is None or (value >= before if train.monitor_mode == "max" else value <= before)
            )
            if improved:
                session.position.best = {
                    "metric": train.monitor,
                    "value": value,
                    "samples": self._samples(),
                    "epoch": self._epochs(),
                }
        # The page and the live line show a loss, whatever the module calls it.
        loss = next((value for name, value in values.items() if "loss" in name), None)
        self._write(kind, {**values, **({} if loss is None else {"loss": loss})}, best=improved)
        session.view.epoch(session.metrics.last, best=improved)
        if improved:
            saves.keep_best(session, trainer, samples=self._samples())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        stopping = [one for one in callbacks if isinstance(one, EarlyStopping)]
        self.stopped_early = bool(stopping) and bool(trainer.should_stop)
        self.epoch_is_over = True
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._pace.saved(saves.save(self.session, trainer, samples=self._samples(), epochs=self._epochs()))

    def running(self) -> dict[str, Any]:
        """What the metrics of this epoch have gathered so far, on this rank."""
        loop = self.session.module.trainer.fit_loop.epoch_loop
        return {
            "metrics": gathered.metric_states(self.session.module),
            "results": gathered.result_states(loop._results),
        }


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if not isinstance(value, torch.Tensor) or value.numel() == 1
    }


def _names(loop: Any) -> set[str]:
    """What a loop of Lightning's has logged in this epoch, as the module called it."""
    found = [one.meta for one in (loop._results or {}).values()]
    return {one.name for one in found} | {f"{one.name}_{of}" for one in found if one.forked for of in ("step", "epoch")}


def _batch_size(loader: Any) -> int:
    for holder in (loader, getattr(loader, "batch_sampler", None)):
        size = getattr(holder, "batch_size", None)
        if isinstance(size, int):
            return size
    return 1
