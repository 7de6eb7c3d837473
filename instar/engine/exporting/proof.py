"""The proof: real rows through PyTorch and through the exported file, compared number by number.

Legend: N rows, K classes, H W pixels, D features. `ours` is what PyTorch said, `theirs` what the exported file said.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from instar.contract import CLASSES, EMBEDDING, Contract
from instar.metrics import counts, intervals, pixels

Outputs = Mapping[str, np.ndarray]
_NOTHING = 1e-6


@dataclass(frozen=True)
class Gate:
    """What an exported file must hold to.

    agreement   least share of rows (pixels) with the same most probable class
    moved       most that answers may move, as a share of how far the answers to different rows lie apart
    drop        most of the score that may be lost
    """

    agreement: float
    moved: float
    drop: float


GATES = {
    "float32": Gate(agreement=0.99, moved=0.05, drop=0.01),
    "fp16": Gate(agreement=0.98, moved=0.05, drop=0.01),
    "int8": Gate(agreement=0.90, moved=0.35, drop=0.03),
}


def compared(
    contract: Contract, ours: Iterable[Outputs], theirs: Iterable[Outputs], truth: Sequence[Any]
) -> dict[str, Any]:
    """All numbers of the comparison, as plain values.

    truth   of each row: the number of its class (-1: unknown), or its mask; None where there is none
    """
    if contract.answers == CLASSES:
        return _of_classes(contract, list(ours), list(theirs), np.array(truth, np.int64))
    if contract.answers == EMBEDDING:
        return _of_embeddings(list(ours), list(theirs))
    return _of_pixels(contract, ours, theirs, truth)


def failures(found: Mapping[str, Any], gate: Gate) -> list[str]:
    """In which ways the answers are too different, one sentence each; nothing where they are the same."""
    said = []
    if not found["agreement"] >= gate.agreement:
        said.append(f"only {100 * found['agreement']:.1f} % of the answers agree, {100 * gate.agreement:g} % must")
    # On the scale of the answers themselves: a network that hardly tells its rows apart must not pass by that.
    if not found["moved"] <= gate.moved * found["spread"] + _NOTHING:
        share = found["moved"] / max(found["spread"], _NOTHING)
        said.append(
            f"answers moved by {100 * share:.1f} % of what lies between different rows, {100 * gate.moved:g} % may be"
        )
    if found.get("difference") and not -found["difference"][0] <= gate.drop:
        said.append(
            f"{found['metric']} fell by {-100 * found['difference'][0]:.1f} points, {100 * gate.drop:g} may be lost"
        )
    return said


def _of_classes(contract: Contract, ours: list[Outputs], theirs: list[Outputs], label_N: np.ndarray) -> dict[str, Any]:
    our_NK, their_NK = (np.stack([one["probability"] for one in some]).astype(np.float64) for some in (ours, theirs))
    our_N, their_N, K = our_NK.argmax(1), their_NK.argmax(1), len(contract.labels)
    known_N = label_N >= 0
    found = {
        **_distances(our_NK, their_NK),
        "agreement": float((our_N == their_N).mean()),
        "spread": _spread(our_NK),
        "metric": "accuracy",
        **_paired(our_N[known_N] == label_N[known_N], their_N[known_N] == label_N[known_N]),
        "classes": [
            [
                contract.labels[k],
                int((label_N == k).sum()),
                *(_right(said_N, label_N, k) for said_N in (our_N, their_N)),
            ]
            for k in range(K)
        ],
    }
    if "plain" in theirs[0]:
        plain_N = np.stack([one["plain"] for one in theirs]).argmax(1)
        found["plain"] = {
            "agreement": float((our_N == plain_N).mean()),
            **_paired(our_N[known_N] == label_N[known_N], plain_N[known_N] == label_N[known_N]),
        }
    return found


def _of_pixels(
    contract: Contract, ours: Iterable[Outputs], theirs: Iterable[Outputs], truth: Sequence[Any]
) -> dict[str, Any]:
    """One row at a time: a row's probabilities may be as large as all else together."""
    rows, before = [], None
    K = len(contract.labels)
    counted: list[list[np.ndarray]] = [[], []]
    for our, their, mask_HW in zip(ours, theirs, truth, strict=True):
        our_PK, shape = our["probability"].reshape(K, -1).T, our["mask"].shape
        their_PK = _planes(their["probability"], shape).reshape(K, -1).T
        agree = float((our["mask"] == _masked(their["mask"], shape)).mean())
        spread = 0.0 if before is None or before.shape != our_PK.shape else _moved(before, our_PK)
        rows.append({**_distances(our_PK, their_PK), "agreement": agree, "spread": spread})
        before = our_PK
        for some, said in zip(counted, (our, their), strict=True):
            some.append(_confusion(_masked(said["mask"], mask_HW.shape), mask_HW, K))
    found: dict[str, Any] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    found["dp_max"] = max(row["dp_max"] for row in rows)
    spreads = [row["spread"] for row in rows[1:] if row["spread"]]
    found["spread"] = float(np.mean(spreads)) if spreads else 1.0
    ours_N3K, theirs_N3K = (pixels.counts_of(np.stack(some)) for some in counted)
    scores = [pixels.mean_iou(one_N3K.sum(0)) for one_N3K in (ours_N3K, theirs_N3K)]
    bounds = [pixels.intervals(one_N3K)["mean_iou"] for one_N3K in (ours_N3K, theirs_N3K)]
    iou_2K = [pixels.iou(one_N3K.sum(0)).tolist() for one_N3K in (ours_N3K, theirs_N3K)]
    return {
        **found,
        "metric": "mean IoU",
        "ours": [scores[0], *bounds[0]],
        "theirs": [scores[1], *bounds[1]],
        "difference": [scores[1] - scores[0]],
        "classes": [[contract.labels[k], int(ours_N3K[:, 1, k].sum()), iou_2K[0][k], iou_2K[1][k]] for k in range(K)],
    }


def _of_embeddings(ours: list[Outputs], theirs: list[Outputs]) -> dict[str, Any]:
    """Agreement is the share of rows whose nearest other row is the same; moved is one minus the cosine."""
    our_ND, their_ND = (np.stack([one["embedding"] for one in some]).astype(np.float64) for some in (ours, theirs))
    difference_ND = np.abs(our_ND - their_ND)
    cosine_NN = _unit(our_ND) @ _unit(our_ND).T
    apart = ~np.eye(len(our_ND), dtype=bool)
    return {
        "agreement": float((_nearest(our_ND) == _nearest(their_ND)).mean()),
        "dp_max": float(difference_ND.max()),
        "dp_mean": float(difference_ND.mean()),
        "moved": float(1 - (_unit(our_ND) * _unit(their_ND)).sum(1).mean()),
        "spread": float(1 - cosine_NN[apart].mean()) if len(our_ND) > 1 else 1.0,
    }


def _distances(our_NK: np.ndarray, their_NK: np.ndarray) -> dict[str, float]:
    difference_NK = np.abs(our_NK - their_NK)
    worst = float(difference_NK.max())
    mean = float(difference_NK.mean(dtype=np.float64))
    return {"dp_max": worst, "dp_mean": mean, "moved": _moved(our_NK, their_NK)}


def _moved(first_NK: np.ndarray, second_NK: np.ndarray) -> float:
    """Total variation: how much probability went from one class to another, 0 to 1, in the mean over rows."""
    return float(0.5 * np.abs(first_NK - second_NK).sum(1, dtype=np.float64).mean())


def _spread(our_NK: np.ndarray) -> float:
    """How far the answers to two rows lie apart, in the mean over all pairs of rows; 1 where there is one row only.

    Of sorted numbers, the i-th of N is subtracted N - 1 - i times in the sum of all distances, and added i times.
    """
    N = len(our_NK)
    if N < 2:
        return 1.0
    weight_N = 2 * np.arange(N) - (N - 1)
    return float((weight_N @ np.sort(our_NK.astype(np.float64), axis=0)).sum() / (N * (N - 1)))


def _paired(ours_N: np.ndarray, theirs_N: np.ndarray) -> dict[str, Any]:
    """Accuracy of both with 95 % intervals, and the difference on the same rows; nothing where no label is known."""
    rows = len(ours_N)
    if rows == 0:
        return {}
    right = [int(ours_N.sum()), int(theirs_N.sum())]
    gained, lost = int((theirs_N & ~ours_N).sum()), int((ours_N & ~theirs_N).sum())
    return {
        "ours": [right[0] / rows, *intervals.share(right[0], rows)],
        "theirs": [right[1] / rows, *intervals.share(right[1], rows)],
        "difference": [(gained - lost) / rows, *intervals.difference(gained, lost, rows)],
    }


def _right(said_N: np.ndarray, label_N: np.ndarray, k: int) -> float | None:
    of_class_N = label_N == k
    return float((said_N[of_class_N] == k).mean()) if of_class_N.any() else None


def _masked(mask_HW: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask at another size, each pixel the nearest."""
    if mask_HW.shape == tuple(shape):
        return mask_HW
    return np.asarray(Image.fromarray(mask_HW).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def _planes(probability_KHW: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Probabilities at another size."""
    if probability_KHW.shape[1:] == tuple(shape):
        return probability_KHW
    size, way = (shape[1], shape[0]), Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(np.float32(plane)).resize(size, way)) for plane in probability_KHW])


def _confusion(said_HW: np.ndarray, true_HW: np.ndarray, K: int) -> np.ndarray:
    label = true_HW.astype(np.int64).ravel()
    return counts.confusion(np.where(label < K, label, -1), said_HW.ravel(), K)


def _unit(feature_ND: np.ndarray) -> np.ndarray:
    return feature_ND / np.maximum(np.linalg.norm(feature_ND, axis=1, keepdims=True), 1e-12)


def _nearest(feature_ND: np.ndarray) -> np.ndarray:
    cosine_NN = _unit(feature_ND) @ _unit(feature_ND).T
    np.fill_diagonal(cosine_NN, -np.inf)
    return cosine_NN.argmax(1)
