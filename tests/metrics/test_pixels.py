"""Scores of pixels against scikit-learn and brute force; boundaries against nearest neighbours."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score
from sklearn.neighbors import NearestNeighbors

from instar.masks import IGNORE
from instar.metrics import pixels

K = 4


def masks(rows=6, height=17, width=23, classes=K, seed=0):
    random = np.random.default_rng(seed)
    true_NHW = random.integers(0, classes, (rows, height, width))
    noise = random.random(true_NHW.shape) < 0.3
    return true_NHW, np.where(noise, random.integers(0, classes, true_NHW.shape), true_NHW)


def confusions(true_NHW, predicted_NHW, classes=K):
    pairs = zip(true_NHW, predicted_NHW, strict=True)
    return np.stack([confusion_matrix(t.ravel(), p.ravel(), labels=range(classes)) for t, p in pairs])


def test_iou_of_each_class_and_their_mean_are_those_of_scikit_learn():
    true_NHW, predicted_NHW = masks()
    total_3K = pixels.counts_of(confusions(true_NHW, predicted_NHW)).sum(0)
    theirs = jaccard_score(true_NHW.ravel(), predicted_NHW.ravel(), average=None)
    assert pixels.iou(total_3K) == pytest.approx(theirs)
    assert pixels.mean_iou(total_3K) == pytest.approx(theirs.mean())


def test_a_class_that_is_nowhere_is_left_out_of_the_mean_over_all_pixels():
    true_NHW, predicted_NHW = masks(classes=3)
    total_3K = pixels.counts_of(confusions(true_NHW, predicted_NHW)).sum(0)
    theirs = jaccard_score(true_NHW.ravel(), predicted_NHW.ravel(), average="macro")
    assert pixels.mean_iou(total_3K) == pytest.approx(theirs)


def test_the_iou_of_a_row_is_that_of_deepcam_where_nothing_over_nothing_is_one():
    def deepcam(true_HW, predicted_HW):  # utils/metric.py of the benchmark, in words: TP / (TP + FP + FN), or 1
        found = []
        for k in range(K):
            union = ((true_HW == k) | (predicted_HW == k)).sum()
            found.append(((true_HW == k) & (predicted_HW == k)).sum() / union if union else 1.0)
        return np.mean(found)

    true_NHW, predicted_NHW = masks(classes=3)  # the fourth class is in no row
    theirs = [deepcam(t, p) for t, p in zip(true_NHW, predicted_NHW, strict=True)]
    assert pixels.sample_iou(pixels.counts_of(confusions(true_NHW, predicted_NHW))) == pytest.approx(theirs)
    nothing = np.zeros((1, 3, K), np.int64)
    assert pixels.sample_iou(nothing).tolist() == [1.0]


def test_counts_of_rows_add_up_in_any_order():
    counts_N3K = pixels.counts_of(confusions(*masks(rows=9)))
    shuffled = counts_N3K[np.random.default_rng(0).permutation(9)]
    assert pixels.summary(counts_N3K)["mean_iou"] == pixels.summary(shuffled)["mean_iou"]
    assert pixels.summary(counts_N3K)["sample_iou"] == pytest.approx(pixels.summary(shuffled)["sample_iou"])


@pytest.mark.parametrize("allowed", [0.5, 1.0, 2.5, 6.0])
def test_boundary_counts_are_those_of_nearest_neighbours(allowed):
    def outline(inside_HW):
        padded = np.pad(inside_HW, 1, mode="edge")
        near = [padded[1 + y : padded.shape[0] - 1 + y, 1 + x : padded.shape[1] - 1 + x]
                for y, x in ((0, 1), (0, -1), (1, 0), (-1, 0))]  # fmt: skip
        return np.argwhere(inside_HW & ~np.all(near, axis=0))

    def near(some, others):
        distance, _ = NearestNeighbors(n_neighbors=1).fit(others).kneighbors(some)
        return int((distance <= allowed + 1e-9).sum())

    row_H1, column_1W = np.ogrid[:40, :50]
    true_HW = ((row_H1 - 18) ** 2 + (column_1W - 20) ** 2 < 150).astype(np.uint8)
    predicted_HW = ((row_H1 - 20) ** 2 + (column_1W - 24) ** 2 < 180).astype(np.uint8)
    found = pixels.boundary_counts(predicted_HW, true_HW, 2, pixels=allowed)
    for k in (0, 1):
        ours, theirs = outline(predicted_HW == k), outline(true_HW == k)
        assert found[:, k].tolist() == [near(ours, theirs), len(ours), near(theirs, ours), len(theirs)]


def test_boundary_f1_is_one_for_the_truth_and_nothing_for_what_is_far_away():
    true_HW = np.zeros((30, 30), np.uint8)
    true_HW[5:10, 5:10] = 1
    assert pixels.boundary_f1(pixels.boundary_counts(true_HW, true_HW, 2, pixels=1)).tolist() == [1, 1]
    assert pixels.boundary_f1(pixels.boundary_counts(true_HW[::-1], true_HW, 2, pixels=1)).tolist() == [0, 0]


def test_what_nobody_knows_has_no_boundary():
    true_HW = np.zeros((20, 20), np.uint8)
    true_HW[:, 10:] = IGNORE
    predicted_HW = np.where(np.arange(20) < 10, 0, 1).astype(np.uint8)[None].repeat(20, 0)
    assert pixels.boundary_counts(predicted_HW, true_HW, 2, pixels=2).sum() == 0


def test_dice_in_the_scores_is_the_f1_of_scikit_learn():
    true_NHW, predicted_NHW = masks()
    total_3K = pixels.counts_of(confusions(true_NHW, predicted_NHW)).sum(0)
    ours = 2 * total_3K[0] / (total_3K[1] + total_3K[2])
    assert ours == pytest.approx(f1_score(true_NHW.ravel(), predicted_NHW.ravel(), average=None))


def test_intervals_hold_the_score_and_shrink_with_more_images():
    few, many = (pixels.counts_of(confusions(*masks(rows=rows))) for rows in (6, 96))
    widths = []
    for counts_N3K in (few, many):
        found = pixels.intervals(counts_N3K)
        score = pixels.summary(counts_N3K)
        for name, (low, high) in found.items():
            assert low <= score[name] <= high
        widths.append(found["mean_iou"][1] - found["mean_iou"][0])
    assert widths[1] < widths[0] / 2
