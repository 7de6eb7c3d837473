"""Numbers that are none, and samples that cannot be read: noticed, named, and never saved."""

from instar.engine.training import Training
from instar.errors import LearningError


class RollBack(Exception):
    """The loss or a gradient of the step at `position` was not finite on some rank."""

    def __init__(self, position: int):
        self.position = position


def check_numbers(training: Training) -> None:
    """Roll back, or give up, where a loss or gradient since the last check was not finite on any rank."""
    position = training.stepper.first_not_finite()
    worst = training.world.agree([-1.0 if position is None else float(2**52 - position)])[0]
    if worst >= 0:
        raise RollBack(int(2**52 - worst))


class BadSamples:
    """Counts the different rows that could not be read, names each once, and ends the run above a share."""

    def __init__(self, training: Training):
        self._training = training
        self._rows: set[int] = set()

    def note(self, bad: list[tuple[int, str]]) -> None:
        training = self._training
        for row, why in bad:
            if row in self._rows:
                continue
            self._rows.add(row)
            name = training.describe(row)
            training.run.log_event(
                "bad_sample",
                rank=training.world.rank,
                samples=training.standing.samples,
                row=row,
                path=name,
                reason=why,
            )
            training.view.note(f"bad sample {name}: {why}; another row of its class took its place")
        share = len(self._rows) * training.world.size / training.plan.train_rows
        if share > training.settings.max_bad and len(self._rows) > 1:
            raise LearningError(
                f"{len(self._rows)} of {training.plan.train_rows} training images cannot be read, more than "
                f"train.max_bad = {training.settings.max_bad:.1%}. They are named in {training.run.events_file}. "
                f"Mend or remove them, or raise train.max_bad."
            )
