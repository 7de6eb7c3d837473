"""Every balancer on the shelf: whole draws that sum to the epoch, none for what is not there."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from instar import plugins

# From 1 to 21,321 rows a class, and one class that has none.
COUNTS_K = np.array([39, 21321, 656, 0, 1, 7, 7], dtype=np.int64)
KINDS = plugins.kinds("balancers")


def quotas(kind, counts_K, epoch_samples):
    return plugins.load("balancers", kind).quotas(np.asarray(counts_K), epoch_samples)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epoch_samples", [1, 3, 100, 22031, 10**9 + 7])
def test_draws_are_whole_and_sum_to_the_epoch(kind, epoch_samples):
    drawn_K = quotas(kind, COUNTS_K, epoch_samples)
    assert drawn_K.dtype == np.int64
    assert drawn_K.sum() == epoch_samples
    assert (drawn_K >= 0).all()
    assert drawn_K[COUNTS_K == 0].sum() == 0


@pytest.mark.parametrize("seed", range(5))
def test_without_balance_an_epoch_is_every_row_once(seed):
    counts_K = np.random.default_rng(seed).integers(0, 10**6, size=163)
    for kind in ("none", "weights"):
        assert np.array_equal(quotas(kind, counts_K, int(counts_K.sum())), counts_K)


def test_oversampling_draws_every_class_equally_often():
    drawn_K = quotas("oversample", COUNTS_K, int(COUNTS_K.sum()))
    present_K = drawn_K[COUNTS_K > 0]
    assert present_K.max() - present_K.min() <= 1


def test_sqrt_draws_in_proportion_to_the_root():
    assert quotas("sqrt", [100, 400, 900], 60).tolist() == [10, 20, 30]


def test_no_draw_is_further_than_one_from_its_exact_share():
    exact_K = COUNTS_K / COUNTS_K.sum() * 1000
    assert np.abs(quotas("none", COUNTS_K, 1000) - exact_K).max() < 1


def test_class_weights_are_the_balanced_ones_of_scikit_learn():
    label_N = np.repeat(np.arange(len(COUNTS_K)), COUNTS_K)
    theirs = compute_class_weight("balanced", classes=np.unique(label_N), y=label_N)
    ours_K = plugins.load("balancers", "weights").class_weights(COUNTS_K)
    assert ours_K[COUNTS_K > 0] == pytest.approx(theirs)
    assert ours_K[3] == 0
    assert ours_K[label_N].mean() == pytest.approx(1)
