"""Synthetic fields in the benchmark's own files: train/ validation/ test/ with data-*.h5, and stats.h5 beside them.

Legend: H W pixels, C channels.
"""

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from instar import fields
from instar.bench import weather
from instar.errors import DataError
from instar.run import write_atomically

MARK = "SYNTHETIC.json"
_APART = 2  # snapshots between two samples: half a day
_FIRST = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


def write(
    folder: Path,
    *,
    samples: int,
    height: int,
    width: int,
    seed: int = 0,
    told: Callable[[int], None] = lambda done: None,
) -> None:
    """Write `samples` fields, divided 80/10/10 as the benchmark divides; what is there already is left as it is.

    told   told how many are there
    Raises DataError where the folder holds other data.
    """
    asked = {"synthetic": True, "samples": samples, "height": height, "width": width, "seed": seed}
    _same_or_nothing(folder, asked)
    parts = _parts(samples)
    for part in ("train", "validation", "test"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_atomically(folder / MARK, json.dumps(asked) + "\n")
    sums = _Sums()
    for time in range(samples):
        data_HWC, class_HW = weather.sample(seed, time * _APART, height=height, width=width)
        if parts[time] == "train":
            sums.add(data_HWC)
        file = folder / parts[time] / name(time)
        if not file.exists():
            fields.write(file, {"climate/data": data_HWC, "climate/labels_0": class_HW})
        told(time + 1)
    sums.write(folder / "stats.h5")


def name(time: int) -> str:
    """The file of a sample, called by date and second of the day as the benchmark's are."""
    moment = _FIRST + datetime.timedelta(hours=6 * _APART * time)
    return f"data-{moment:%Y-%m-%d}-{moment.hour * 3600:05}-0.h5"


def is_synthetic(folder: Path) -> bool:
    """Whether these fields were made here."""
    return (folder / MARK).is_file()


def _same_or_nothing(folder: Path, asked: Mapping[str, object]) -> None:
    try:
        there = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder} holds something else than synthetic fields. Name a new folder.") from None
        return
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / MARK} cannot be read ({error}). Remove {folder}, or name a new one.") from error
    if there != asked:
        told = ", ".join(
            f"{key} {there.get(key)} instead of {value}" for key, value in asked.items() if there.get(key) != value
        )
        raise DataError(f"{folder} holds other synthetic fields: {told}. Name a new folder, or remove this one.")


def _parts(samples: int) -> list[str]:
    """Which part each sample is in: the benchmark's own division, by its own seed.

    Fields are shuffled before, so neighbours in time may stand in two parts: there as here.
    """
    numbers = np.arange(samples)
    np.random.RandomState(12345).shuffle(numbers)
    ends = [int(0.8 * samples), int(0.8 * samples) + int(0.1 * samples)]
    found = ["test"] * samples
    for place, number in enumerate(numbers.tolist()):
        found[number] = "train" if place < ends[0] else "validation" if place < ends[1] else "test"
    return found


class _Sums:
    """Count, mean, mean square and range of each channel over many fields."""

    def __init__(self) -> None:
        channels = len(weather.CHANNELS)
        self.count = 0
        self.sum_C, self.square_C = np.zeros(channels), np.zeros(channels)
        self.least_C, self.most_C = np.full(channels, np.inf), np.full(channels, -np.inf)

    def add(self, data_HWC: np.ndarray) -> None:
        self.count += data_HWC.shape[0] * data_HWC.shape[1]
        self.sum_C += data_HWC.sum((0, 1), dtype=np.float64)
        self.square_C += (data_HWC.astype(np.float64) ** 2).sum((0, 1))
        self.least_C, self.most_C = (
            np.minimum(self.least_C, data_HWC.min((0, 1))),
            np.maximum(self.most_C, data_HWC.max((0, 1))),
        )

    def write(self, file: Path) -> None:
        found = {
            "mean": self.sum_C / self.count,
            "sqmean": self.square_C / self.count,
            "minval": self.least_C,
            "maxval": self.most_C,
        }
        as_floats = {f"climate/{name}": values.astype(np.float32) for name, values in found.items()}
        fields.write(file, {"climate/count": np.array(self.count, np.float64), **as_floats})
