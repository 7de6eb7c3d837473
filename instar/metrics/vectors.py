"""Vectors: whether a learner without labels learns anything. Pure functions of the vectors of some rows.

Legend: N rows, M rows at a time, D features.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from instar.metrics import intervals

NEIGHBOURS = 20  # that vote for a class
TOP = 5  # ranks that `retrieval_5` counts
_AT_ONCE = 1024  # rows whose similarities to all others are in memory at once
GONE = 0.01  # deviation of features that is as good as none, where losses and normalisations hold it near 1
COLLAPSED = 0.05  # of what is possible: vectors that are that close to being one


def unit(vector_ND: np.ndarray) -> np.ndarray:
    """The vectors at length 1, float32; one of no length stays as it is."""
    length_N1 = np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return (vector_ND / np.where(length_N1 > 0, length_N1, 1)).astype(np.float32)


def spread(vector_ND: np.ndarray) -> float:
    """Mean over features of the deviation of vectors at length 1, as a share of 1/sqrt(D), what scattered ones have."""
    return float(unit(vector_ND).std(0).mean() * np.sqrt(vector_ND.shape[1])) if len(vector_ND) else float("nan")


def deviation(vector_ND: np.ndarray) -> float:
    """Mean over features of their deviation, as they are."""
    return float(vector_ND.std(0, dtype=np.float64).mean()) if len(vector_ND) else float("nan")


def effective_rank(vector_ND: np.ndarray) -> float:
    """In how many directions the vectors differ: exp of the entropy of the shares of their singular values.

    Roy and Vetterli 2007, https://ieeexplore.ieee.org/document/7098875. 1 where all lie on one line, at most D.
    """
    centred_ND = vector_ND.astype(np.float64) - vector_ND.mean(0, dtype=np.float64)
    N, D = centred_ND.shape
    if N < 2:
        return float("nan")
    small = centred_ND.T @ centred_ND if D <= N else centred_ND @ centred_ND.T
    value_S = np.sqrt(np.clip(np.linalg.eigvalsh(small), 0, None))
    if value_S.sum() <= 1e-12 * max(1.0, float(np.abs(vector_ND).max())):
        return 1.0
    share_S = value_S[value_S > 0] / value_S.sum()
    return float(np.exp(-(share_S * np.log(share_S)).sum()))


def mean_cosine(vector_ND: np.ndarray) -> float:
    """The mean cosine of the angles between different rows: 0 where they are scattered, 1 where all are one."""
    N = len(vector_ND)
    if N < 2:
        return float("nan")
    total = unit(vector_ND).sum(0, dtype=np.float64)
    return float((total @ total - N) / (N * (N - 1)))


def ranks(query_ND: np.ndarray, found_ND: np.ndarray) -> np.ndarray:
    """For each row of `query_ND`, how many other rows of `found_ND` are at least as close as its own, int64.

    0 is a hit. Equals count against it: where all vectors are one, nothing is found.
    """
    queries, answers = unit(query_ND), unit(found_ND)
    rank_N = np.zeros(len(queries), np.int64)
    for rows in _blocks(len(queries)):
        close_MN = queries[rows] @ answers.T
        own_M = close_MN[np.arange(len(close_MN)), np.arange(rows.start, rows.stop)]
        rank_N[rows] = (close_MN >= own_M[:, None]).sum(1) - 1
    return rank_N


def margins(query_ND: np.ndarray, found_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of `query_ND`, how much closer its own of `found_ND` is than the closest other, and which that is.

    float32 cosines, 0 and below for a miss; and int64. Needs two rows.
    """
    queries, answers = unit(query_ND), unit(found_ND)
    margin_N, rival_N = np.zeros(len(queries), np.float32), np.zeros(len(queries), np.int64)
    for rows in _blocks(len(queries)):
        close_MN = queries[rows] @ answers.T
        at_M = np.arange(len(close_MN))
        own_M = close_MN[at_M, at_M + rows.start].copy()
        close_MN[at_M, at_M + rows.start] = -np.inf
        rival_N[rows] = close_MN.argmax(1)
        margin_N[rows] = own_M - close_MN[at_M, rival_N[rows]]
    return margin_N, rival_N


def neighbours_accuracy(vector_ND: np.ndarray, label_N: np.ndarray, *, neighbours: int = NEIGHBOURS) -> float:
    """The share of rows whose nearest others vote for their own class, each vote weighed by exp(cosine / 0.07).

    Each row is left out of its own vote. Wu et al. 2018, https://arxiv.org/abs/1805.01978, as DINO's eval_knn.
    """
    unit_ND = unit(vector_ND)
    count = min(neighbours, len(unit_ND) - 1)
    if count < 1:
        return float("nan")
    right = 0
    classes = int(label_N.max()) + 1
    for rows in _blocks(len(unit_ND)):
        close_MN = unit_ND[rows] @ unit_ND.T
        close_MN[np.arange(len(close_MN)), np.arange(rows.start, rows.stop)] = -np.inf
        nearest_MK = np.argpartition(-close_MN, count - 1, axis=1)[:, :count]
        weight_MK = np.exp(np.take_along_axis(close_MN, nearest_MK, 1).astype(np.float64) / 0.07)
        vote_MC = np.zeros((len(close_MN), classes))
        for place in range(count):
            np.add.at(vote_MC, (np.arange(len(close_MN)), label_N[nearest_MK[:, place]]), weight_MK[:, place])
        right += int((vote_MC.argmax(1) == label_N[rows]).sum())
    return right / len(unit_ND)


def pair(vector_ND: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """The two vectors of each row that ought to be close; None where there is one only."""
    second = "other" if "other" in vector_ND else "again"
    return (vector_ND["image"], vector_ND[second]) if {"image", second} <= vector_ND.keys() else None


def summary(vector_ND: Mapping[str, np.ndarray], label_N: np.ndarray) -> dict[str, float]:
    """What is watched: retrieval, spread, effective rank, mean cosine, and kNN accuracy where there are classes.

    `retrieval` is the share of rows whose second vector is the closest to the first of all rows', and the other way
    round, averaged. Of two branches the worse one is told: one that collapses is enough.
    """
    own = {name: one for name, one in vector_ND.items() if name != "again"}
    found: dict[str, float] = {}
    if (both := pair(vector_ND)) is not None and len(label_N):
        rank_2N = np.concatenate([ranks(*both), ranks(*both[::-1])])
        found |= {"retrieval": float((rank_2N == 0).mean()), f"retrieval_{TOP}": float((rank_2N < TOP).mean())}
    found["std"] = min((deviation(one) for one in own.values()), default=float("nan"))
    found["spread"] = min((spread(one) for one in own.values()), default=float("nan"))
    found["effective_rank"] = min((effective_rank(one) for one in own.values()), default=float("nan"))
    found["cosine"] = max((mean_cosine(one) for one in own.values()), default=float("nan"))
    if len(np.unique(label_N)) > 1:
        found["knn"] = float(np.mean([neighbours_accuracy(one, label_N) for one in own.values()]))
    return found


def scores(vector_ND: Mapping[str, np.ndarray], label_N: np.ndarray, classes: int) -> dict[str, object]:
    """All scores of the rows of a split, with intervals."""
    known_N = label_N >= 0
    known = {name: one[known_N] for name, one in vector_ND.items()}
    found: dict[str, object] = {"rows": int(known_N.sum()), "unread": int((~known_N).sum())}
    if not known_N.any():
        return found
    found |= summary(known, label_N[known_N])
    both = pair(known)
    if both is not None:
        N = len(both[0])
        hits = int(sum((ranks(*way) == 0).sum() for way in (both, both[::-1])))
        found["chance"] = 1 / N
        found["intervals"] = {"retrieval": list(intervals.share(hits, 2 * N))}
        for name, way in (("forward", both), ("backward", both[::-1])):
            found[f"retrieval_{name}"] = float((ranks(*way) == 0).mean())
    return found


def collapsed(score: Mapping[str, float]) -> str:
    """Why the scores say that vectors have become one or nearly; '' where they have not."""
    names = ("std", "spread", "cosine", "effective_rank")
    std, apart, cosine, rank = (float(score.get(name, float("nan"))) for name in names)
    if std < GONE or apart < COLLAPSED or cosine > 1 - COLLAPSED**2:
        told = f"std {std:.2g}, spread {apart:.2g} of 1, mean cosine {cosine:.2g}"
        return f"all rows have nearly the same vector ({told})"
    if rank < 1.5:
        return f"vectors differ along one line only (effective rank {rank:.2g})"
    return ""


def _blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _AT_ONCE):
        yield slice(start, min(rows, start + _AT_ONCE))
