"""From features to a map: places in a plane, clusters, neighbours, and how they agree with the classes.

Everything is a function of the features and the seed: one thread, because the order in which threads add is not, and
starting points drawn from the seed. scikit-learn does the work.
Legend: P points, D features, C leading components, M neighbours of a point, K classes.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from instar.errors import ConfigError

Projection = Literal["tsne", "umap", "pca"]
Clusters = Literal["kmeans", "hdbscan", "dbscan"]

COMPONENTS = 50  # that t-SNE, clusters and neighbours are made from: van der Maaten & Hinton 2008 take 30
NEIGHBOURS = 8
# Measured on 10,000 points, one thread: 33 s of processor time with these, 63 s with angle 0.5 and 750 steps.
STEPS, ANGLE = 600, 0.8
PERPLEXITY = 30.0
_SCORED = 5_000  # points that a silhouette is reckoned from
_TRIED = 2_000  # points that decide on the number of clusters
NOISE = -1


@dataclass(frozen=True, eq=False)
class Map:
    """Where points lie, and with whom.

    place_P2         float32, in the plane
    component_PC     float32, the leading components, at most COMPONENTS
    explained_C      share of all variance that each of them holds
    cluster_P        int32, the largest is 0; -1 for points of none
    near_PM          int32, the nearest points, the nearest first; never the point itself
    distance_PM      float32, how far they are
    same             points whose features are equal to the last bit, sets of two and more, the largest first
    notes            what a reader must know
    """

    place_P2: np.ndarray
    component_PC: np.ndarray
    explained_C: np.ndarray
    cluster_P: np.ndarray
    near_PM: np.ndarray
    distance_PM: np.ndarray
    same: list[np.ndarray]
    notes: list[str]


def make(
    feature_PD: np.ndarray,
    *,
    seed: int,
    projection: Projection = "tsne",
    clusters: Clusters = "kmeans",
    k: int | None = None,
    eps: float | None = None,
    perplexity: float = PERPLEXITY,
) -> Map:
    """The map of finite features.

    k     clusters of k-means; None to choose by silhouette
    eps   how near DBSCAN's points are; None for the distance that nine in ten points have to their fifth neighbour
    Raises ConfigError where umap is asked for and not installed.
    """
    points = len(feature_PD)
    same = identical(feature_PD)
    notes: list[str] = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about points that coincide; they are named
        component_PC, explained_C = components(feature_PD, seed=seed)
        distinct = points - sum(len(group) - 1 for group in same)
        if distinct == 1 and points > 1:
            notes.append(f"All {points} embeddings are equal: the network says the same of everything. It collapsed.")
        near_PM, distance_PM = neighbours(component_PC)
        cluster_P = clustered(component_PC, distance_PM, clusters=clusters, k=k, eps=eps, distinct=distinct, seed=seed)
        place_P2 = _placed(component_PC, projection, distinct=distinct, perplexity=perplexity, seed=seed)
    return Map(place_P2, component_PC, explained_C, cluster_P, near_PM, distance_PM, same, notes)


def identical(feature_PD: np.ndarray) -> list[np.ndarray]:
    """Points whose features are equal to the last bit: sets of two and more, the largest first."""
    if len(feature_PD) < 2:
        return []
    rows_P = np.ascontiguousarray(feature_PD).view(np.dtype((np.void, feature_PD.itemsize * feature_PD.shape[1])))[:, 0]
    order_P = np.argsort(rows_P, kind="stable")
    breaks = np.flatnonzero(rows_P[order_P][1:] != rows_P[order_P][:-1]) + 1
    groups = [np.sort(group) for group in np.split(order_P, breaks) if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def components(feature_PD: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The leading principal components of each point, and the share of variance that each holds."""
    from sklearn.decomposition import PCA

    points, width = feature_PD.shape
    most = min(COMPONENTS, points, width)
    centred_PD = feature_PD.astype(np.float64) - feature_PD.mean(axis=0, dtype=np.float64)
    if not centred_PD.any() or points == 1:
        return np.zeros((points, most), np.float32), np.zeros(most)
    solver = "randomized" if most < 0.8 * min(points, width) else "full"
    found = PCA(most, svd_solver=solver, random_state=seed).fit(centred_PD)
    return found.transform(centred_PD).astype(np.float32), found.explained_variance_ratio_


def neighbours(component_PC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other points of each, and how far they are."""
    from sklearn.neighbors import NearestNeighbors

    points = len(component_PC)
    most = min(NEIGHBOURS, points - 1)
    if most < 1:
        return np.zeros((points, 0), np.int32), np.zeros((points, 0), np.float32)
    # Without a question, scikit-learn leaves each point out of its own neighbours, also among identical ones.
    distance_PM, near_PM = NearestNeighbors(n_neighbors=most, algorithm="brute").fit(component_PC).kneighbors()
    return near_PM.astype(np.int32), distance_PM.astype(np.float32)


def clustered(
    component_PC: np.ndarray,
    distance_PM: np.ndarray,
    *,
    clusters: Clusters,
    k: int | None,
    eps: float | None,
    distinct: int,
    seed: int,
) -> np.ndarray:
    """The cluster of each point, int32, the largest first; -1 for points of none."""
    from sklearn.cluster import DBSCAN, HDBSCAN, KMeans

    points = len(component_PC)
    if distinct == 1:
        return np.zeros(points, np.int32)
    if clusters == "kmeans":
        k = min(k, distinct) if k is not None else _number_of_clusters(component_PC, distinct=distinct, seed=seed)
        found_P = KMeans(k, n_init=4, random_state=seed).fit_predict(component_PC)
    elif clusters == "hdbscan":
        # Densities thin out with every dimension: ten of them keep the clusters and most of the variance.
        least = max(2, min(points, max(5, points // 200)))
        found_P = HDBSCAN(min_cluster_size=least, copy=True).fit_predict(component_PC[:, :10])
    else:
        at = min(4, distance_PM.shape[1] - 1)
        within = eps if eps is not None else max(float(np.quantile(distance_PM[:, at], 0.9)), 1e-9)
        found_P = DBSCAN(eps=within, min_samples=min(5, points)).fit_predict(component_PC)
    return _largest_first(found_P)


def scores(mapped: Map, label_P: np.ndarray, partner_P: np.ndarray, *, seed: int) -> dict[str, Any]:
    """How good the clusters are, and how they agree with the classes.

    label_P     class of each point, -1 where unknown
    partner_P   the other point of the same row, -1 where there is none
    silhouette, class_silhouette (-1 to 1), adjusted_rand, normalised_mutual_information, purity and neighbour_accuracy
    (0 to 1; the class that most of a point's neighbours have), pair_retrieval_at_1 (how often the nearest point of the
    other branch is the partner): only those that mean something here.
    """
    from sklearn import metrics

    found: dict[str, Any] = {"points": len(label_P), "clusters": int(mapped.cluster_P.max(initial=-1) + 1)}
    found["in_no_cluster"] = int((mapped.cluster_P == NOISE).sum())
    found["identical"] = sum(len(group) for group in mapped.same)
    with threadpool_limits(1):
        found |= _silhouette("silhouette", mapped.component_PC, mapped.cluster_P, seed)
        known_P = label_P >= 0
        if len(np.unique(label_P[known_P])) > 1:
            label, cluster = label_P[known_P], mapped.cluster_P[known_P]
            found |= _silhouette("class_silhouette", mapped.component_PC, label_P, seed)
            found["adjusted_rand"] = float(metrics.adjusted_rand_score(label, cluster))
            found["normalised_mutual_information"] = float(metrics.normalized_mutual_info_score(label, cluster))
            found["purity"] = purity(label, cluster)
            if mapped.near_PM.shape[1]:
                said_P = _most_common(mapped.near_PM, label_P, partner_P)
                found["neighbour_accuracy"] = float((said_P == label_P)[known_P].mean())
        if (partner_P >= 0).any():
            found["pair_retrieval_at_1"] = _retrieved(mapped.component_PC, partner_P)
    return found


def purity(label_P: np.ndarray, cluster_P: np.ndarray) -> float:
    """Share of the points that are of the most frequent class of their cluster; points of no cluster are never."""
    count_QK = np.zeros((cluster_P.max(initial=0) + 1, label_P.max(initial=0) + 1), np.int64)
    inside_P = cluster_P >= 0
    np.add.at(count_QK, (cluster_P[inside_P], label_P[inside_P]), 1)
    return float(count_QK.max(axis=1).sum() / max(1, len(label_P)))


def typical(mapped: Map, cluster: int, *, most: int) -> np.ndarray:
    """Points of a cluster that show what it is: the nearest to its middle, without copies of one another."""
    inside = np.flatnonzero(mapped.cluster_P == cluster)
    middle_C = mapped.component_PC[inside].mean(axis=0)
    far_I = np.square(mapped.component_PC[inside] - middle_C).sum(axis=1)
    copies = {int(point) for group in mapped.same for point in group[1:]}
    ordered = inside[np.argsort(far_I, kind="stable")]
    return np.array([point for point in ordered.tolist() if point not in copies][:most], np.int64)


def _placed(
    component_PC: np.ndarray, projection: Projection, *, distinct: int, perplexity: float, seed: int
) -> np.ndarray:
    points = len(component_PC)
    flat_P2 = np.zeros((points, 2), np.float32)
    flat_P2[:, : min(2, component_PC.shape[1])] = component_PC[:, :2]
    if projection == "pca" or distinct < 5:
        return flat_P2
    if projection == "umap":
        return _umap(component_PC, seed=seed)
    from sklearn.manifold import TSNE

    perplexity = min(perplexity, (points - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", max_iter=STEPS, angle=ANGLE, random_state=seed, n_jobs=1)
    return model.fit_transform(component_PC).astype(np.float32)


def _umap(component_PC: np.ndarray, *, seed: int) -> np.ndarray:
    try:
        import umap
    except ImportError as error:
        raise ConfigError("projection=umap needs the package umap-learn: pip install 'instar[umap]'") from error
    near = max(2, min(15, len(component_PC) - 1))
    init = "spectral" if len(component_PC) > 20 else "random"
    model = umap.UMAP(n_neighbors=near, random_state=seed, n_jobs=1, init=init)
    return np.asarray(model.fit_transform(component_PC), np.float32)


def _number_of_clusters(component_PC: np.ndarray, *, distinct: int, seed: int) -> int:
    """The number, from 2 to 12, whose clusters are furthest apart."""
    from sklearn.cluster import KMeans

    tried_TC = _drawn(component_PC, _TRIED, seed)
    most = min(12, distinct - 1, len(np.unique(tried_TC, axis=0)) - 1)
    found = {}
    for k in range(2, most + 1):
        cluster_T = KMeans(k, n_init=1, random_state=seed).fit_predict(tried_TC)
        found[k] = _silhouette("value", tried_TC, cluster_T, seed).get("value", -1.0)
    return max(found, key=lambda k: found[k]) if found else min(2, distinct)


def _silhouette(name: str, component_PC: np.ndarray, group_P: np.ndarray, seed: int) -> dict[str, float]:
    """How far groups are apart, by name; nothing where there is one group, or only points."""
    from sklearn.metrics import silhouette_score

    inside_P = np.flatnonzero(group_P >= 0)
    scored = _drawn(inside_P, _SCORED, seed)
    groups = len(np.unique(group_P[scored]))
    if not 1 < groups < len(scored):
        return {}
    return {name: float(silhouette_score(component_PC[scored], group_P[scored]))}


def _most_common(near_PM: np.ndarray, label_P: np.ndarray, partner_P: np.ndarray) -> np.ndarray:
    """The most frequent class among each point's neighbours, its partner left out; the nearest decides a tie."""
    label_PM = np.where(near_PM == partner_P[:, None], NOISE, label_P[near_PM])
    votes_PM = (label_PM[:, :, None] == label_PM[:, None, :]).sum(axis=2) * (label_PM >= 0)
    return np.take_along_axis(label_PM, votes_PM.argmax(axis=1)[:, None], axis=1)[:, 0]


def _retrieved(component_PC: np.ndarray, partner_P: np.ndarray) -> float:
    """How often the point of the other branch that is nearest to a point is that of the same row."""
    from sklearn.neighbors import NearestNeighbors

    first = np.flatnonzero(partner_P > np.arange(len(partner_P)))
    second = partner_P[first]
    right = []
    for asked, among in ((first, second), (second, first)):
        near = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(component_PC[among])
        right.append(near.kneighbors(component_PC[asked], return_distance=False)[:, 0] == np.arange(len(first)))
    return float(np.mean(right))


def _largest_first(found_P: np.ndarray) -> np.ndarray:
    """Clusters numbered by size, the largest 0; of equally large ones the one whose first point comes first."""
    numbers, first, size = np.unique(found_P[found_P >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first, -size))
    new = np.full(int(numbers.max(initial=-1)) + 2, NOISE, np.int32)  # the last is that of -1
    new[numbers[order]] = np.arange(len(order))
    return new[found_P]


def _drawn(values: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the values, in their order."""
    if len(values) <= most:
        return values
    return values[np.sort(np.random.default_rng(seed).choice(len(values), most, replace=False))]


def drawn_rows(rows: int, most: int, *, seed: int) -> np.ndarray:
    """Which rows a map shows: all, or as many as it holds, in their order."""
    return _drawn(np.arange(rows), most, seed)
