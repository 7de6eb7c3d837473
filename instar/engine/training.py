"""One rank's training: everything the loop turns, in one place."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instar.engine import deadline
from instar.engine.checkpoint import store as checkpoint
from instar.engine.judge import Judge
from instar.engine.loading.order import Order
from instar.engine.loading.sharded import Sharded
from instar.engine.metrics_log import MetricsLog
from instar.engine.observer import Nobody, Observer
from instar.engine.ranks.watchdog import Watchdog
from instar.engine.ranks.world import World
from instar.engine.standing import Standing
from instar.engine.step import Batch, Stepper
from instar.engine.view import View
from instar.experiment import Train
from instar.plan import Plan, Progress
from instar.run import Run


@dataclass
class Training:
    """One rank's training: everything the loop turns.

    open_stream   batches of this rank from a position on
    evaluate      scores of the validation split; every rank calls it, rank 0 gets them
    set_rate      puts the learning rate of a position into the optimiser, and the weight decay where it moves; returns
                  them by the names they are logged under
    describe      the name of a row, for people
    observer      told of what a benchmark log is made of
    judge         says after an evaluation whether a trial of a search goes on; None where it is none
    alarms        from a line of validation scores to what a person must know of it now
    metric, mode  which score chooses the best checkpoint, and whether more ("max") or less ("min") of it is better
    saved_at      position of the newest save; -1 before the first
    """

    run: Run
    plan: Plan
    settings: Train
    stepper: Stepper
    order: Order | Sharded
    world: World
    watchdog: Watchdog
    checkpoints: checkpoint.Checkpoints | None
    metrics: MetricsLog
    clock: deadline.Clock
    view: View
    open_stream: Callable[[int], Iterator[Batch]]
    evaluate: Callable[[], dict[str, float]]
    set_rate: Callable[[Progress, Standing], dict[str, float]]
    describe: Callable[[Any], str]
    metric: str
    mode: str
    alarms: Callable[[dict[str, Any]], list[str]] = lambda line: []
    observer: Observer = field(default_factory=Nobody)
    judge: Judge | None = None
    standing: Standing = field(default_factory=Standing)
    saved_at: int = -1

    def where(self) -> dict[str, Any]:
        """Step, samples and epoch, as every line of metrics.jsonl begins."""
        samples = self.standing.samples
        return {
            "step": samples // self.plan.batch,
            "samples": samples,
            "epoch": round(samples / self.plan.epoch_samples, 4),
        }

    def lengths(self) -> dict[str, int]:
        """What a Span needs to become samples."""
        plan = self.plan
        return {"epoch_samples": plan.epoch_samples, "batch": plan.batch, "total": plan.total_samples}

    def names_of_step(self, position: int) -> list[str]:
        """The names of the rows of the step at a position, in the order of all ranks."""
        positions = np.arange(position, position + self.plan.batch)
        return [self.describe(row) for row in self.order.draw(positions).row_N.tolist()]
