"""Predictions: what a model said about each row of a split, as one Parquet file. All that scores and reports need.

N rows, K classes.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instar import atomic
from instar.errors import DataError, RunError

UNKNOWN = -1
COLUMNS = ("id", "path", "label", "prediction", "confidence", "probability")


@dataclass(frozen=True, eq=False)
class Predictions:
    """One probability per row and class, with the label where it is known.

    ids               one name per row, unique, as in the manifest
    paths             the file behind each row
    label_N           int32, number of the true class, or -1 where nobody knows it
    probability_NK    float32, 0 to 1, a row sums to 1
    classes           names in the order of the columns; any text
    meta              plain JSON values: run, split, checkpoint, manifest hash
    Raises DataError where the parts do not fit each other, or a probability is no number from 0 to 1.
    """

    ids: Sequence[str]
    paths: Sequence[str]
    label_N: np.ndarray
    probability_NK: np.ndarray
    classes: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_N", np.ascontiguousarray(self.label_N, dtype=np.int32))
        object.__setattr__(
            self,
            "probability_NK",
            np.ascontiguousarray(self.probability_NK, dtype=np.float32),
        )
        object.__setattr__(self, "classes", tuple(self.classes))
        _check(self)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def prediction_N(self) -> np.ndarray:
        """The most probable class, int32; the lower number where two are equally probable."""
        return self.probability_NK.argmax(axis=1).astype(np.int32)

    @cached_property
    def confidence_N(self) -> np.ndarray:
        """The probability of the predicted class, float32."""
        return np.take_along_axis(self.probability_NK, self.prediction_N[:, None], axis=1)[:, 0]

    @cached_property
    def known_N(self) -> np.ndarray:
        """Whether the label is known; all scores leave the other rows out and say how many they are."""
        return self.label_N != UNKNOWN

    @cached_property
    def correct_N(self) -> np.ndarray:
        """Whether the prediction is the label; false where the label is unknown."""
        return self.prediction_N == self.label_N


def stored_by(task: ModuleType) -> ModuleType:
    """The noun that predictions of a task are stored as: this one, an answer a row, unless it says otherwise."""
    return getattr(task, "stored", lambda: sys.modules[__name__])()


def of(
    columns: Mapping[str, np.ndarray],
    ids: Sequence[str],
    paths: Sequence[str],
    classes: tuple[str, ...],
    meta: dict[str, Any],
) -> Predictions:
    """The predictions out of the columns that were gathered."""
    return Predictions(ids, paths, columns["label"], columns["probability"], classes, meta)


def truths(predictions: Predictions) -> list[str | None]:
    """What is true of each row, whatever the numbers of the classes; None where nobody knows."""
    names = (*predictions.classes, None)  # -1, an unknown label, is the last
    return [names[label] for label in predictions.label_N.tolist()]


def write(predictions: Predictions, path: Path) -> None:
    """Write one Parquet file, whole or not at all; a file that was there before stays until the new one is complete."""
    N, K = predictions.probability_NK.shape
    table = pa.table(
        {
            "id": pa.array(texts(predictions.ids), pa.string()),
            "path": pa.array(texts(predictions.paths), pa.string()),
            "label": pa.array(predictions.label_N, pa.int32()),
            "prediction": pa.array(predictions.prediction_N, pa.int32()),
            "confidence": pa.array(predictions.confidence_N, pa.float32()),
            "probability": pa.FixedSizeListArray.from_arrays(pa.array(predictions.probability_NK.reshape(N * K)), K),
        }
    )
    # JSON with ASCII only: any class name survives, and metadata is bytes that no reader tries to decode another way.
    about = {
        "classes": json.dumps(predictions.classes),
        "meta": json.dumps(predictions.meta),
    }
    table = table.replace_schema_metadata({f"instar.{key}": value for key, value in about.items()})
    with atomic.writing(path) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=["label", "prediction"])


def read(path: Path) -> Predictions:
    """Read what `write` wrote.

    Raises RunError where there is no such file, or where it is not a predictions file.
    """
    if not path.exists():
        raise RunError(f"{path}: no predictions yet. Write them with: instar evaluate {path.parent.parent.name}")
    try:
        table = pq.read_table(path, columns=list(COLUMNS), partitioning=None)
        about = table.schema.metadata or {}
        classes = tuple(json.loads(about[b"instar.classes"]))
        probability = table["probability"].combine_chunks()
        return Predictions(
            ids=table["id"].to_pylist(),
            paths=table["path"].to_pylist(),
            label_N=table["label"].to_numpy(),
            probability_NK=probability.flatten().to_numpy().reshape(len(table), len(classes)),
            classes=classes,
            meta=json.loads(about[b"instar.meta"]),
        )
    except (pa.ArrowException, KeyError, ValueError, AttributeError) as error:
        raise RunError(
            f"{path}: is not a whole predictions file ({error}). Write it again with instar evaluate"
        ) from error


def texts(names: Sequence[str]) -> list[str]:
    """The texts with what cannot be UTF-8 written as \\udc80: Parquet holds Unicode only, a file system any bytes."""
    return [text.encode("utf-8", "backslashreplace").decode("utf-8") for text in names]


def _check(predictions: Predictions) -> None:
    N, K = len(predictions.ids), len(predictions.classes)
    label_N, probability_NK = predictions.label_N, predictions.probability_NK
    if K < 1 or probability_NK.shape != (N, K):
        raise DataError(f"probabilities have the shape {probability_NK.shape}; {N} rows of {K} classes need ({N}, {K})")
    if label_N.shape != (N,) or len(predictions.paths) != N:
        raise DataError(
            f"{N} rows came with {label_N.size} labels and {len(predictions.paths)} paths; all must be equal"
        )
    if N and (label_N.min() < UNKNOWN or label_N.max() >= K):
        raise DataError(
            f"labels go from {label_N.min()} to {label_N.max()}; {K} classes allow 0 to {K - 1}, or -1 for unknown"
        )
    # One pass each, without an array of N x K comparisons; NaN fails both.
    if N and not (probability_NK.min() >= 0 and probability_NK.max() <= 1 + 1e-3):
        bad = np.flatnonzero(~((probability_NK >= 0) & (probability_NK <= 1 + 1e-3)).all(axis=1))
        names = ", ".join(str(predictions.ids[row]) for row in bad[:3])
        raise DataError(f"{len(bad)} rows have probabilities that are not between 0 and 1, the first: {names}")
