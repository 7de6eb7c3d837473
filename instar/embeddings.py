"""Embeddings: what a network makes of each row of a split, as one Parquet file. All that a map needs.

Legend: N rows, D features.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instar import atomic
from instar.errors import DataError, RunError
from instar.experiment import Experiment
from instar.predictions import texts

BRANCHES = ("image", "other")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """One row of features for each row of a split, and for each branch of a network that looks at two things.

    ids        one name per row, unique, as in the manifest
    paths      the file behind each row
    others     the second file, '' where there is none
    splits     the split of each row
    groups     the group of each row, '' where there is none
    label_N    int32, number of the class, or -1 where nobody knows it
    feature    float32 N x D by the name of its branch; not a number where the row could not be read
    classes    names in the order of their numbers; any text
    meta       plain JSON values: run, split, checkpoint, manifest hash, unreadable rows
    Raises DataError where the parts do not fit each other.
    """

    ids: Sequence[str]
    paths: Sequence[str]
    others: Sequence[str]
    splits: Sequence[str]
    groups: Sequence[str]
    label_N: np.ndarray
    feature: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts_N = (self.paths, self.others, self.splits, self.groups)
        columns: list[Any] = [*texts_N, self.label_N, *self.feature.values()]
        lengths = {len(self.ids), *(len(column) for column in columns)}
        if len(lengths) != 1 or not self.feature:
            raise DataError(
                f"embeddings need columns of one length and one branch at least, not {sorted(lengths)} rows"
            )

    def __len__(self) -> int:
        return len(self.ids)


def names_of(experiment: Experiment) -> dict[str, str]:
    """What people call the branches, where the reader has names for the two files of a row: RGB and thermal."""
    return dict(zip(BRANCHES, getattr(experiment.data.reader, "names", BRANCHES), strict=True))


def write(embeddings: Embeddings, path: Path) -> None:
    """Write one Parquet file, whole or not at all."""
    columns: dict[str, pa.Array] = {
        name: pa.array(texts(column), pa.string())
        for name, column in (
            ("id", embeddings.ids),
            ("path", embeddings.paths),
            ("other", embeddings.others),
            ("split", embeddings.splits),
            ("group", embeddings.groups),
        )
    }
    columns["label"] = pa.array(embeddings.label_N, pa.int32())
    for branch, feature_ND in embeddings.feature.items():
        flat = pa.array(np.ascontiguousarray(feature_ND, np.float32).reshape(-1))
        columns[f"{branch}_features"] = pa.FixedSizeListArray.from_arrays(flat, feature_ND.shape[1])
    about = {"classes": embeddings.classes, "meta": embeddings.meta, "branches": list(embeddings.feature)}
    write_table(pa.table(columns), path, about=about)


def read(path: Path) -> Embeddings:
    """Read what `write` wrote. Raises RunError where there is no such file, or where it is not whole."""
    if not path.exists():
        raise RunError(f"{path}: no embeddings yet. Write them with: instar embed {path.parent.parent.name}")
    try:
        table = pq.read_table(path, partitioning=None)
        about = {name: json.loads((table.schema.metadata or {})[f"instar.{name}".encode()]) for name in _ABOUT}
        return Embeddings(
            **{name: table[column].to_pylist() for name, column in _TEXTS.items()},
            label_N=table["label"].to_numpy(),
            feature={branch: _matrix(table[f"{branch}_features"]) for branch in about["branches"]},
            classes=tuple(about["classes"]),
            meta=about["meta"],
        )
    except (pa.ArrowException, KeyError, ValueError, AttributeError) as error:
        raise RunError(
            f"{path}: is not a whole file of embeddings ({error}). Write it again with instar embed"
        ) from error


def write_table(table: pa.Table, path: Path, *, about: Mapping[str, Any]) -> None:
    """Write a table with JSON beside its schema, whole or not at all; a file that was there stays until then."""
    # JSON with ASCII only: any class name survives.
    table = table.replace_schema_metadata({f"instar.{key}": json.dumps(value) for key, value in about.items()})
    with atomic.writing(path) as file:
        pq.write_table(table, file, compression="zstd")


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    width = column.type.list_size
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(column), width)


_ABOUT = ("classes", "meta", "branches")
_TEXTS = {"ids": "id", "paths": "path", "others": "other", "splits": "split", "groups": "group"}
