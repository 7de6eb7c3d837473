"""Plan: what follows from Experiment x Manifest x Machine. Printed and saved, never written back into the settings.

Legend: K classes.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from instar.errors import RunError


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands, in samples. Schedules are functions of this and of nothing else that moves.

    samples         global rows consumed before the step that is being taken
    epoch_samples   rows of one epoch
    total           rows of the whole training, a multiple of `batch`
    batch           rows of one global step
    """

    samples: int
    epoch_samples: int
    total: int
    batch: int

    @property
    def step(self) -> int:
        return self.samples // self.batch

    @property
    def epoch(self) -> float:
        return self.samples / self.epoch_samples

    @property
    def share(self) -> float:
        """Share of the training that is behind us, 0 to 1."""
        return self.samples / self.total


@dataclass(frozen=True)
class Plan:
    """Every number a run needs that the recipe does not state.

    class_counts_K   training rows of each class
    quotas_K         draws of each class in one epoch; they sum to epoch_samples
    class_weights_K  weights of the loss, None without them
    micro            rows a rank puts through the network at once
    offset_C, scale_C   (x - offset) / scale is what the network sees of each channel; None where its numbers are pixels
    other_channels, other_size   of the second picture, where a row is two; 0 where it is one
    """

    classes: tuple[str, ...]
    channels: int
    size: int
    train_rows: int
    val_rows: int
    test_rows: int
    class_counts_K: tuple[int, ...]
    quotas_K: tuple[int, ...]
    class_weights_K: tuple[float, ...] | None
    epoch_samples: int
    total_samples: int
    batch: int
    micro: int
    devices: int
    workers: int
    device: str
    precision: str
    channels_last: bool
    manifest_hash: str
    seed: int
    offset_C: tuple[float, ...] | None = None
    scale_C: tuple[float, ...] | None = None
    other_channels: int = 0
    other_size: int = 0

    @property
    def steps(self) -> int:
        return self.total_samples // self.batch

    @property
    def rows_per_rank(self) -> int:
        """The most rows one rank handles in one step."""
        return -(-self.batch // self.devices)

    def progress(self, samples: int) -> Progress:
        return Progress(samples, self.epoch_samples, self.total_samples, self.batch)

    def epochs_ended(self, samples: int) -> int:
        """Whole epochs that lie behind `samples`."""
        return samples // self.epoch_samples


def write(plan: Plan, path: Path) -> None:
    from instar.run import write_atomically

    write_atomically(path, json.dumps(asdict(plan), indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Plan:
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: the plan of this run cannot be read ({error}). Train again to make it.") from error
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
    return Plan(**fields)
