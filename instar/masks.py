"""Masks: what a model said about each pixel of each row of a split, as one Parquet file.

All that scores and reports need is in it: the predicted mask as PNG, how often each class was taken for which, and a
small picture of the image and of its true mask. Legend: N rows, K classes, H W pixels.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from instar import atomic
from instar.errors import DataError, RunError
from instar.predictions import texts

IGNORE = 255
"""The number in a mask of a pixel whose class nobody knows; no loss and no score counts it."""
MOST_CLASSES = 254

_BYTES = ("mask", "confusion", "image_preview", "truth_preview")
_SHARES = 4  # numbers that the boundary score is made of: predicted on the line, predicted, true on the line, true


@dataclass(frozen=True, eq=False)
class Masks:
    """The predicted masks of N rows.

    ids, paths            one name per row, unique, as in the manifest; and the file behind it
    known_N               whether the row could be read; scores leave the others out
    truth_N               uint64, a digest of the true mask, so that runs are compared on the same truth only
    loss_N                cross-entropy in nats, the mean over the pixels of the row
    confusion             for each row its pixels: bytes of int64 pairs (true class * K + predicted class, pixels)
    boundary_N4K          int64, pixels of boundaries: predicted near a true one, all predicted, true near a predicted
                          one, all true
    mask                  for each row a PNG of the predicted classes, b"" where it could not be read
    image_preview, truth_preview   small pictures of the image and of the true mask
    classes               names in the order of their numbers; any text
    meta                  plain JSON values: run, split, checkpoint, manifest hash
    Raises DataError where the parts do not fit each other.
    """

    ids: Sequence[str]
    paths: Sequence[str]
    known_N: np.ndarray
    truth_N: np.ndarray
    loss_N: np.ndarray
    confusion: Sequence[bytes]
    boundary_N4K: np.ndarray
    mask: Sequence[bytes]
    image_preview: Sequence[bytes]
    truth_preview: Sequence[bytes]
    classes: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        N, K = len(self.ids), len(self.classes)
        lengths = {
            len(part) for part in (self.paths, self.known_N, self.truth_N, self.loss_N, self.confusion, self.mask)
        }
        if lengths - {N} or self.boundary_N4K.shape != (N, _SHARES, K):
            raise DataError(f"{N} rows of {K} classes came with parts for {sorted(lengths)} rows; all must be equal")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def confusion_KK(self) -> np.ndarray:
        """How many pixels of each class (rows) were taken for each other one (columns), over all rows; int64."""
        K = len(self.classes)
        total = np.zeros(K * K, np.int64)
        for cell_C, count_C in self._cells():
            total[cell_C] += count_C
        return total.reshape(K, K)

    @cached_property
    def counts_N3K(self) -> np.ndarray:
        """For each row and class the pixels that are right, of the class, and taken for it; int64."""
        K = len(self.classes)
        counts = np.zeros((len(self), 3, K), np.int64)
        for row, (cell_C, count_C) in enumerate(self._cells()):
            true_C, predicted_C = np.divmod(cell_C, K)
            right_C = true_C == predicted_C
            np.add.at(counts[row, 0], true_C[right_C], count_C[right_C])
            np.add.at(counts[row, 1], true_C, count_C)
            np.add.at(counts[row, 2], predicted_C, count_C)
        return counts

    def predicted(self, row: int) -> np.ndarray:
        """The predicted class of each pixel of a row, uint8 HW."""
        return decoded(self.mask[row])

    def _cells(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for one in self.confusion:
            pairs_C2 = np.frombuffer(one, np.int64).reshape(-1, 2)
            yield pairs_C2[:, 0], pairs_C2[:, 1]


def of(
    columns: Mapping[str, Any], ids: Sequence[str], paths: Sequence[str], classes: tuple[str, ...], meta: dict[str, Any]
) -> Masks:
    """The masks out of what was kept of each row."""
    return Masks(
        ids=ids,
        paths=paths,
        known_N=columns["label"] >= 0,
        truth_N=columns["truth"].astype(np.uint64),
        loss_N=columns["loss"].astype(np.float32),
        confusion=list(columns["confusion"]),
        boundary_N4K=columns["boundary"],
        mask=list(columns["mask"]),
        image_preview=list(columns["image_preview"]),
        truth_preview=list(columns["truth_preview"]),
        classes=classes,
        meta=meta,
    )


def truths(masks: Masks) -> list[str | None]:
    """What is true of each row: a digest of its mask and the names of the classes; None where nobody knows."""
    names = "\n".join(masks.classes)
    pairs = zip(masks.truth_N.tolist(), masks.known_N.tolist(), strict=True)
    return [f"{truth:016x} {names}" if known else None for truth, known in pairs]


def encoded(class_HW: np.ndarray) -> bytes:
    """A mask as PNG; b"" for one without pixels."""
    if class_HW.size == 0:
        return b""
    buffer = io.BytesIO()
    Image.fromarray(class_HW).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def decoded(png: bytes) -> np.ndarray:
    """What `encoded` was given; uint8 HW."""
    if not png:
        return np.zeros((0, 0), np.uint8)
    return np.asarray(Image.open(io.BytesIO(png), formats=("PNG",)))


def write(masks: Masks, path: Path) -> None:
    """Write one Parquet file, whole or not at all; a file that was there before stays until the new one is complete."""
    table = pa.table(
        {
            "id": pa.array(texts(masks.ids), pa.string()),
            "path": pa.array(texts(masks.paths), pa.string()),
            "known": pa.array(np.asarray(masks.known_N, bool)),
            "truth": pa.array(masks.truth_N, pa.uint64()),
            "loss": pa.array(masks.loss_N, pa.float32()),
            "boundary": pa.FixedSizeListArray.from_arrays(
                pa.array(masks.boundary_N4K.reshape(-1)), _SHARES * len(masks.classes)
            ),
            **{name: pa.array(getattr(masks, name), pa.large_binary()) for name in _BYTES},
        }
    )
    about = {"masks": json.dumps(masks.classes), "meta": json.dumps(masks.meta)}
    table = table.replace_schema_metadata({f"instar.{key}": value for key, value in about.items()})
    with atomic.writing(path) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=False)


def read(path: Path) -> Masks:
    """Read what `write` wrote.

    Raises RunError where there is no such file, or where it is not a file of masks.
    """
    if not path.exists():
        raise RunError(f"{path}: no predictions yet. Write them with: instar evaluate {path.parent.parent.name}")
    try:
        table = pq.read_table(path, partitioning=None)
        about = table.schema.metadata or {}
        classes = tuple(json.loads(about[b"instar.masks"]))
        boundary = table["boundary"].combine_chunks().flatten().to_numpy()
        return Masks(
            ids=table["id"].to_pylist(),
            paths=table["path"].to_pylist(),
            known_N=table["known"].to_numpy(),
            truth_N=table["truth"].to_numpy(),
            loss_N=table["loss"].to_numpy(),
            boundary_N4K=boundary.reshape(len(table), _SHARES, len(classes)),
            **{name: table[name].to_pylist() for name in _BYTES},
            classes=classes,
            meta=json.loads(about[b"instar.meta"]),
        )
    except (pa.ArrowException, KeyError, ValueError, AttributeError) as error:
        raise RunError(
            f"{path}: is not a whole file of masks ({error}). Write it again with instar evaluate"
        ) from error
