import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from instar.metrics import ranking

N, K = 400, 7


def drawn(seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, K, N), generator.dirichlet(np.full(K, 0.5), N).astype(np.float32)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_is_scikit_learns(k):
    label_N, probability_NK = drawn()
    theirs = top_k_accuracy_score(label_N, probability_NK, k=k, labels=np.arange(K))
    assert ranking.top_k(ranking.ranks(label_N, probability_NK), k) == pytest.approx(theirs)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_ties_are_scikit_learns_with_the_classes_in_reverse(k):
    # Of equals scikit-learn takes the last class first; we take the first, as argmax does.
    label_N, probability_NK = drawn()
    coarse_NK = np.round(probability_NK, 1)
    theirs = top_k_accuracy_score(K - 1 - label_N, coarse_NK[:, ::-1], k=k, labels=np.arange(K))
    assert ranking.top_k(ranking.ranks(label_N, coarse_NK), k) == pytest.approx(theirs)


def test_top_one_is_accuracy_where_all_classes_are_equal():
    label_N, even_NK = np.array([0, 1, 2]), np.full((3, 3), 1 / 3, np.float32)
    assert ranking.ranks(label_N, even_NK).tolist() == [0, 1, 2]
    assert ranking.top_k(ranking.ranks(label_N, even_NK), 1) == pytest.approx(1 / 3)


def test_ranks_do_not_depend_on_the_size_of_a_piece(monkeypatch):
    label_N, probability_NK = drawn()
    whole = ranking.ranks(label_N, probability_NK)
    monkeypatch.setattr(ranking, "ELEMENTS", 10)
    np.testing.assert_array_equal(ranking.ranks(label_N, probability_NK), whole)


def test_no_rows_score_zero():
    assert ranking.top_k(ranking.ranks(np.zeros(0, int), np.zeros((0, 3), np.float32)), 1) == 0
