"""What every schedule can be told, and how it reads a length."""

from typing import Annotated

from pydantic import Field

from instar.plan import Progress
from instar.settings import Settings, Span, Training

Factor = Annotated[float, Field(gt=0, lt=1)]
AboveZero = Annotated[float, Field(gt=0)]


class ScheduleSettings(Settings):
    """How training begins, whatever the schedule."""

    warmup: Training = Span(0, "%")
    """How long the rate rises in a straight line from nothing, on top of the schedule."""
    decay_to: AboveZero | None = None
    """Weight decay at the end: from `optim.weight_decay` it goes there along half a cosine. Null: it stays."""


def length(span: Span, progress: Progress) -> int:
    """A stretch of this training in samples."""
    return span.samples(epoch_samples=progress.epoch_samples, batch=progress.batch, total=progress.total)
