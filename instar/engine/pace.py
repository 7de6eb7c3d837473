"""Speed, and when it is time for the ranks to ask one another."""

import time
from dataclasses import dataclass

from instar.engine import deadline
from instar.engine.saving import note_saves
from instar.engine.step import Batch
from instar.engine.training import Training

_AGREE_SECONDS = 0.5  # how long a signal may wait for the next agreement


@dataclass(frozen=True)
class Agreed:
    """What all ranks do next."""

    stop: bool
    save: bool


class Pace:
    """Measures how fast steps are, and says at which of them the ranks agree on stopping and saving."""

    def __init__(self, training: Training):
        self._training = training
        self._every = training.settings.every
        self._interval = 1
        self._since = 0
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
        self._worker_rows += len(batch["row"])
        self._training.view.step(samples)

    def due(self) -> bool:
        """Whether this step boundary is one at which ranks agree; the same on every rank."""
        return self._since >= self._interval

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
        if self._every.is_time:
            return self._training.world.rank == 0 and time.monotonic() - self._saved_at >= self._every.seconds
        length = max(1, self._every.samples(**self._training.lengths()))
        return self._training.standing.samples - self._saved_samples >= length

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
