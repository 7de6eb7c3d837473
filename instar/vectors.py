"""Vectors: what a learner without labels made of each row of a split, as one Parquet file: a vector a branch.

N rows, D features.
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
from instar.errors import RunError
from instar.predictions import texts

UNKNOWN = -1
_PREFIX = "vector "
_PREVIEW = "preview "


@dataclass(frozen=True, eq=False)
class Vectors:
    """One vector per row and branch.

    ids, paths   name and first file of each row
    label_N      int32, number of its class, -1 where nobody knows it or the row could not be read
    vector_ND    float32, by the name of the branch: image, other, or again (how the image looks in training)
    classes      names in the order of their numbers
    preview      JPEGs of what the network saw, by the name of the branch; b"" where a row could not be read, and
                 nothing at all in older files
    meta         plain JSON values: run, split, checkpoint, manifest hash
    """

    ids: Sequence[str]
    paths: Sequence[str]
    label_N: np.ndarray
    vector_ND: dict[str, np.ndarray]
    classes: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    preview: Mapping[str, Sequence[bytes]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def known_N(self) -> np.ndarray:
        """Whether a row could be read; all scores leave the others out."""
        return self.label_N != UNKNOWN


def of(
    columns: Mapping[str, np.ndarray],
    ids: Sequence[str],
    paths: Sequence[str],
    classes: tuple[str, ...],
    meta: dict[str, Any],
) -> Vectors:
    """The vectors out of the columns that were gathered."""
    found = {name: column for name, column in columns.items() if column.ndim == 2}
    preview = {name.removeprefix(_PREVIEW): list(one) for name, one in columns.items() if name.startswith(_PREVIEW)}
    return Vectors(ids, paths, columns["label"].astype(np.int32), found, tuple(classes), meta, preview)


def truths(vectors: Vectors) -> list[str | None]:
    """The class of each row; None where nobody knows."""
    names = (*vectors.classes, None)
    return [names[label] for label in vectors.label_N.tolist()]


def write(vectors: Vectors, path: Path) -> None:
    """Write one Parquet file, whole or not at all."""
    columns: dict[str, Any] = {
        "id": pa.array(texts(vectors.ids), pa.string()),
        "path": pa.array(texts(vectors.paths), pa.string()),
        "label": pa.array(vectors.label_N, pa.int32()),
    }
    for name, one_ND in vectors.vector_ND.items():
        flat = pa.array(np.ascontiguousarray(one_ND, np.float32).reshape(-1))
        columns[_PREFIX + name] = pa.FixedSizeListArray.from_arrays(flat, max(1, one_ND.shape[1]))
    columns |= {_PREVIEW + name: pa.array(one, pa.binary()) for name, one in vectors.preview.items()}
    about = {"classes": json.dumps(vectors.classes), "instar.meta": json.dumps(vectors.meta)}
    with atomic.writing(path) as file:
        pq.write_table(pa.table(columns).replace_schema_metadata(about), file, compression="zstd")


def read(path: Path) -> Vectors:
    """Read what `write` wrote; raises RunError where it is not a whole file of vectors."""
    try:
        table = pq.read_table(path, partitioning=None)
        about = table.schema.metadata or {}
        found = {}
        for name in table.column_names:
            if name.startswith(_PREFIX):
                column = table[name].combine_chunks()
                flat = column.values.to_numpy(zero_copy_only=False)
                found[name.removeprefix(_PREFIX)] = flat.reshape(len(table), column.type.list_size)
        return Vectors(
            table["id"].to_pylist(),
            table["path"].to_pylist(),
            table["label"].to_numpy().astype(np.int32),
            found,
            tuple(json.loads(about[b"classes"])),
            json.loads(about[b"instar.meta"]),
            {
                name.removeprefix(_PREVIEW): table[name].to_pylist()
                for name in table.column_names
                if name.startswith(_PREVIEW)
            },
        )
    except (OSError, pa.ArrowException, KeyError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: is not a whole file of vectors ({error}). Write it again: instar evaluate") from error
