"""When a step is to save, and when to stop: asked at the end of every step, so all that can be is worked out before."""

import math
import time
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from instar.engine import deadline

if TYPE_CHECKING:
    from instar.engine.lightning.session import Session

# A save before an evaluation, which cannot be broken off, is worth it where more work than so many saves is behind it.
_WORTH = 50
_WORTH_SECONDS = 1.0
_NEVER = math.inf


class Pace:
    """Asked at the end of a step, on all ranks, whether to stop and whether to save."""

    def __init__(self, session: "Session"):
        self._session = session
        self._several = session.world.size > 1
        self._by_time = session.brought.train.every.is_time
        self._every: float = _NEVER
        self._due = _NEVER
        self._saved_at = time.monotonic()
        self._save_seconds: float | None = None
        self._last_before: float = 0

    def begin(self, *, epoch_batches: int, total_batches: float, rows: int) -> None:
        """Count from now; lengths in batches, and how many rows a batch has."""
        every = self._session.brought.train.every
        if self._by_time:
            self._every = every.seconds
        else:
            total = int(total_batches) if total_batches != math.inf else 0
            samples = every.samples(epoch_samples=epoch_batches * rows, batch=rows, total=total * rows)
            self._every = max(1, samples // rows)
        self._saved_at = time.monotonic()
        self._due = self._next()

    def look_ahead(self, trainer: Trainer, batch: int) -> None:
        """Find the last step to save at before the evaluation that follows `batch`, of those of this epoch."""
        every = trainer.val_check_batch if trainer.enable_validation else None
        overall = trainer.check_val_every_n_epoch is None
        self._last_before = last_before_an_evaluation(
            batch,
            epoch=trainer.num_training_batches,
            every=every or _NEVER,
            accumulate=trainer.accumulate_grad_batches,
            earlier=trainer.fit_loop.epoch_loop.batch_progress.total.ready - batch if overall else 0,
        )

    def asked(self, batch: int) -> tuple[bool, bool]:
        """Whether to stop, and whether to save, after this batch of the epoch, from 1; 0 at an epoch's end."""
        session = self._session
        stop = deadline.reason(session.clock) is not None
        save = (time.monotonic() if self._by_time else session.position.batches) >= self._due
        if batch == self._last_before and not save:
            save = time.monotonic() - self._saved_at > max(_WORTH_SECONDS, _WORTH * (self._save_seconds or 0.0))
        if not self._several:
            return stop, save
        told = session.world.agree([float(stop), float(save)])
        return bool(told[0]), bool(told[1])

    def saved(self, seconds: float) -> None:
        """Learn that the state was saved, and how long it took; a process's first save is slower than all others."""
        self._save_seconds = 0.0 if self._save_seconds is None else seconds
        self._session.clock.saved(seconds)
        self._saved_at = time.monotonic()
        self._due = self._next()

    def _next(self) -> float:
        """When a save is due again; a step that cannot be saved leaves that to the one after it."""
        if self._by_time:
            return self._saved_at + self._every
        return (self._session.position.batches // self._every + 1) * self._every


def last_before_an_evaluation(batch: int, *, epoch: float, every: float, accumulate: int, earlier: int = 0) -> float:
    """The last batch of an epoch, from 1, after which Lightning can be taken up before the next evaluation; 0 for none.

    batch        those of the epoch that are behind
    epoch        batches of an epoch, at whose end no state is saved either
    every        from evaluation to evaluation
    accumulate   batches whose gradients make a step
    earlier      batches of earlier epochs, where evaluations are counted over all
    """
    following = epoch if every == _NEVER else min(epoch, ((earlier + batch) // every + 1) * every - earlier)
    return (following - 1) // accumulate * accumulate if following != _NEVER else 0
