"""Speed, and when it is time for the ranks to ask one another."""

import math
import time
from dataclasses import dataclass

from instar.engine import deadline
from instar.engine.saving import note_saves
from instar.engine.step import Batch
from instar.engine.training import Training

_AGREE_SECONDS = 0.5  # how long a signal may wait for the next agreement
_LOOK_SECONDS = 0.05  # how long a clock or the end of a save may wait where there is nobody to agree with


@dataclass(frozen=True)
class Agreed:
    """What all ranks do next."""

    stop: bool
    save: bool


class Pace:
    """Measures how fast steps are, and says at which of them the ranks agree on stopping and saving."""

    def __init__(self, training: Training):
        self._training = training
        every = training.settings.every
        self._every_seconds = every.seconds if every.is_time else math.inf
        self._every_samples = math.inf if every.is_time else max(1, every.samples(**training.lengths()))
        self._alone = training.world.size == 1
        self._interval = 1
        self._since = 0
        self._look_at = 0.0
        self._saved_at = time.monotonic()
        self._saved_samples = 0
        self.restart(training.standing.samples)

    def restart(self, samples: int) -> None:
        self._begun, self._from, self._worked = time.monotonic(), samples, 0.0
        self._steps = 0
        self._worker_seconds, self._worker_rows = 0.0, 0

    def stepped(self, samples: int, batch: Batch) -> None:
        self._since += 1
        self._steps += 1
        self._worker_seconds += batch["seconds"]
        self._worker_rows += batch["row"].numel()
        self._training.view.step(samples)

    def due(self) -> bool:
        """Whether this step boundary is one at which ranks agree; the same on every rank.

        One that is alone needs no agreement: it acts where there is something to act on, and looks at clocks sometimes.
        """
        if not self._alone:
            return self._since >= self._interval
        if deadline.received() is not None or self._save_due_by_samples():
            return True
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_SECONDS
        return True

    def agree(self) -> Agreed:
        training = self._training
        self._since = 0
        if training.checkpoints is not None:
            note_saves(training)
        stop = deadline.reason(training.clock) is not None
        seconds = (time.monotonic() - self._begun) / self._steps if self._steps else 0.0
        if training.world.size == 1:
            return self._decided(stop, self._save_due())
        stopping, saving, slowest = training.world.agree([float(stop), float(self._save_due()), seconds])
        self._interval = max(1, min(64, int(_AGREE_SECONDS / slowest))) if slowest else 1
        return self._decided(bool(stopping), bool(saving))

    def _decided(self, stop: bool, save: bool) -> Agreed:
        if save or stop:
            self._saved_at, self._saved_samples = time.monotonic(), self._training.standing.samples
        return Agreed(stop, save)

    def _save_due(self) -> bool:
        by_time = self._training.world.rank == 0 and time.monotonic() - self._saved_at >= self._every_seconds
        return by_time or self._save_due_by_samples()

    def _save_due_by_samples(self) -> bool:
        return self._training.standing.samples - self._saved_samples >= self._every_samples

    def speeds(self) -> dict[str, float]:
        """Images per second of all ranks, and what the loader could do, since the last evaluation."""
        seconds = time.monotonic() - self._begun
        rows = self._training.standing.samples - self._from
        plan = self._training.plan
        busy = self._worker_seconds / max(1, plan.workers)
        ceiling = self._worker_rows / busy * plan.devices if busy > 0 else 0.0
        return {
            "images_per_second": round(rows / seconds, 2) if seconds > 0 else 0.0,
            "loader_ceiling": round(ceiling, 1),
            "time": round(time.time(), 3),
        }
