import numpy as np
import pytest
from sklearn import metrics
from sklearn.neighbors import KNeighborsClassifier

from instar.engine import mapping
from tests.report import made_map


@pytest.fixture(scope="module")
def blobs():
    made = made_map.embeddings(rows=150, classes=("a", "b", "c"), width=16)
    return made.feature["image"], made.label_N


@pytest.mark.parametrize("projection", ["tsne", "pca"])
def test_the_same_seed_gives_the_same_map_to_the_bit(blobs, projection):
    first, second = (mapping.make(blobs[0], seed=3, projection=projection, k=3) for _ in range(2))
    for name in ("place_P2", "component_PC", "cluster_P", "near_PM", "distance_PM"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("clusters", ["kmeans", "hdbscan", "dbscan"])
def test_blobs_become_clusters_and_the_largest_comes_first(blobs, clusters):
    made = mapping.make(blobs[0][10:], seed=0, projection="pca", clusters=clusters, k=3)
    label = blobs[1][10:]
    inside = made.cluster_P >= 0
    assert inside.mean() > 0.85
    assert metrics.adjusted_rand_score(label[inside], made.cluster_P[inside]) == 1.0
    sizes = np.bincount(made.cluster_P[inside])
    assert sizes.tolist() == sorted(sizes, reverse=True)


def test_without_a_number_the_clusters_that_are_furthest_apart_are_taken(blobs):
    assert mapping.make(blobs[0], seed=0, projection="pca").cluster_P.max() + 1 == 3


def test_components_are_those_of_a_plain_decomposition(blobs):
    component_PC, explained_C = mapping.components(blobs[0], seed=0)
    centred = blobs[0].astype(np.float64) - blobs[0].mean(axis=0, dtype=np.float64)
    singular = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose(explained_C, (singular**2 / (singular**2).sum())[: len(explained_C)], rtol=1e-5)
    distances = np.square(centred[:, None] - centred[None]).sum(axis=2)
    reached = np.square(component_PC[:, None] - component_PC[None]).sum(axis=2)
    np.testing.assert_allclose(reached, distances, rtol=1e-3, atol=1e-3)  # 16 components hold all of 16 features


def test_neighbours_are_the_nearest_and_never_the_point_itself(blobs):
    near_PM, distance_PM = mapping.neighbours(blobs[0])
    expected = np.sqrt(np.square(blobs[0][:, None] - blobs[0][None]).sum(axis=2))
    np.fill_diagonal(expected, np.inf)
    np.testing.assert_allclose(distance_PM, np.sort(expected, axis=1)[:, : mapping.NEIGHBOURS], rtol=1e-3)
    assert not (near_PM == np.arange(150)[:, None]).any()


def test_neighbour_accuracy_is_that_of_a_classifier_that_leaves_the_point_out(blobs):
    noisy = blobs[0] + np.random.default_rng(0).normal(size=blobs[0].shape).astype(np.float32) * 3
    made = mapping.make(noisy, seed=0, projection="pca", k=3)
    alone = np.full(150, -1)
    found = mapping.scores(made, blobs[1], alone, seed=0)["neighbour_accuracy"]
    near = KNeighborsClassifier(mapping.NEIGHBOURS)
    others = [np.delete(np.arange(150), point) for point in range(150)]
    right = [
        near.fit(made.component_PC[rest], blobs[1][rest]).predict(made.component_PC[[point]])[0] == blobs[1][point]
        for point, rest in enumerate(others)
    ]
    assert 0.4 < np.mean(right) < 1
    assert found == pytest.approx(np.mean(right), abs=0.06)  # they part ties in another way


def test_scores_are_those_of_the_library_and_purity_is_a_share():
    label_P, cluster_P = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 0, 0, 1, 1, -1])
    assert mapping.purity(label_P, cluster_P) == pytest.approx(4 / 6)


def test_equal_embeddings_are_named_together_the_largest_set_first():
    feature = np.arange(24, dtype=np.float32).reshape(8, 3)
    feature[[1, 5]] = feature[0]
    feature[7] = feature[2]
    assert [group.tolist() for group in mapping.identical(feature)] == [[0, 1, 5], [2, 7]]


@pytest.mark.parametrize("points", [1, 2, 3, 4, 6])
def test_a_few_points_make_a_map_too(points):
    feature = np.random.default_rng(0).normal(size=(points, 5)).astype(np.float32)
    made = mapping.make(feature, seed=0)
    assert made.place_P2.shape == (points, 2) and np.isfinite(made.place_P2).all()
    assert made.cluster_P.shape == (points,) and made.near_PM.shape == (points, min(mapping.NEIGHBOURS, points - 1))
    found = mapping.scores(made, np.full(points, -1), np.full(points, -1), seed=0)
    assert found["points"] == points


def test_a_collapsed_network_is_named_and_still_drawn():
    made = mapping.make(np.ones((30, 4), np.float32), seed=0, k=3)
    assert "It collapsed" in made.notes[0] and not made.place_P2.any() and made.cluster_P.max() == 0
    assert [len(group) for group in made.same] == [30]


def test_copies_do_not_spoil_a_map():
    feature = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    feature[:30] = feature[0]
    made = mapping.make(feature, seed=0, k=3)
    assert np.isfinite(made.place_P2).all() and made.notes == []
    assert mapping.typical(made, int(made.cluster_P[0]), most=5).tolist().count(0) <= 1


def test_the_partner_of_a_pair_is_found_and_a_stranger_is_not():
    near = made_map.embeddings(rows=80, classes=(), branches=2)
    both = np.concatenate([near.feature["image"], near.feature["other"]])
    partner = np.concatenate([np.arange(80, 160), np.arange(80)])
    label = np.full(160, -1)
    good = mapping.scores(mapping.make(both, seed=0, projection="pca", k=4), label, partner, seed=0)
    rolled = np.concatenate([near.feature["image"], np.roll(near.feature["other"], 1, axis=0)])
    bad = mapping.scores(mapping.make(rolled, seed=0, projection="pca", k=4), label, partner, seed=0)
    assert good["pair_retrieval_at_1"] > 0.95 and bad["pair_retrieval_at_1"] < 0.1
    assert "adjusted_rand" not in good and "neighbour_accuracy" not in good
