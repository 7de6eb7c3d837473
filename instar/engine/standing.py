"""What training knows about itself besides its tensors: a small record that goes into every checkpoint."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Standing:
    """What training knows about itself besides its tensors.

    samples      global rows consumed; the only position there is
    evaluated_at position of the newest evaluation
    history      the watched metric at every evaluation so far, which plateau schedules and early stopping read
    best         the best evaluation: {"value", "samples", "epoch", "metric"}
    rate_scale   what roll-backs multiplied the learning rate with
    rollbacks    how many there were
    rate_policy  how the schedule follows a changed length: {"kind", "samples", "total"}
    """

    samples: int = 0
    evaluated_at: int = 0
    history: list[float] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    rate_scale: float = 1.0
    rollbacks: int = 0
    rate_policy: dict[str, Any] = field(default_factory=dict)
