import numpy as np
import pytest
from sklearn import metrics as truth

from instar.metrics import counts


def drawn(classes=6, rows=300, seed=0):
    generator = np.random.default_rng(seed)
    label_N = generator.integers(0, classes, rows)
    prediction_N = np.where(generator.random(rows) < 0.7, label_N, generator.integers(0, classes, rows))
    return label_N, prediction_N


CASES = {
    "usual": (*drawn(), 6),
    "two classes": (*drawn(2), 2),
    "a class without rows": (np.array([0, 0, 2, 2]), np.array([0, 2, 2, 0]), 3),
    "a class without rows that is predicted": (
        np.array([0, 0, 2, 2]),
        np.array([0, 1, 2, 1]),
        3,
    ),
    "a class never predicted": (np.array([0, 1, 2, 1]), np.array([0, 0, 2, 2]), 3),
    "all wrong": (np.array([0, 1, 2]), np.array([1, 2, 0]), 3),
    "all right": (np.array([0, 1, 2]), np.array([0, 1, 2]), 3),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    label_N, prediction_N, classes = CASES[request.param]
    return (
        label_N,
        prediction_N,
        classes,
        counts.confusion(label_N, prediction_N, classes),
    )


def test_confusion_matrix_is_scikit_learns(case):
    label_N, prediction_N, classes, confusion_KK = case
    np.testing.assert_array_equal(
        confusion_KK,
        truth.confusion_matrix(label_N, prediction_N, labels=np.arange(classes)),
    )


def test_scores_of_each_class_are_scikit_learns(case):
    label_N, prediction_N, classes, confusion_KK = case
    ours = counts.per_class(confusion_KK)
    theirs = truth.precision_recall_fscore_support(label_N, prediction_N, labels=np.arange(classes), zero_division=0)
    for mine, other in zip(
        (ours.precision_K, ours.recall_K, ours.f1_K, ours.support_K),
        theirs,
        strict=True,
    ):
        np.testing.assert_allclose(mine, other)


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_averages_are_scikit_learns(case, average):
    label_N, prediction_N, _, confusion_KK = case
    ours = counts.per_class(confusion_KK)
    mean = {"macro": counts.macro, "weighted": counts.weighted}[average]
    theirs = truth.precision_recall_fscore_support(label_N, prediction_N, average=average, zero_division=0)[:3]
    assert [mean(score_K, ours) for score_K in (ours.precision_K, ours.recall_K, ours.f1_K)] == pytest.approx(theirs)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_accuracies_are_scikit_learns(case):
    label_N, prediction_N, _, confusion_KK = case
    assert counts.accuracy(confusion_KK) == pytest.approx(truth.accuracy_score(label_N, prediction_N))
    assert counts.balanced_accuracy(confusion_KK) == pytest.approx(truth.balanced_accuracy_score(label_N, prediction_N))


def test_macro_f1_of_many_matrices_at_once_is_that_of_each():
    matrices = [counts.confusion(*drawn(seed=seed), 6) for seed in range(5)]
    at_once = counts.macro_f1(
        np.array([np.diagonal(matrix) for matrix in matrices]),
        np.array([matrix.sum(axis=1) for matrix in matrices]),
        np.array([matrix.sum(axis=0) for matrix in matrices]),
    )
    one_by_one = [counts.macro(found.f1_K, found) for found in map(counts.per_class, matrices)]
    assert at_once.tolist() == pytest.approx(one_by_one)


def test_rows_without_a_label_are_left_out():
    label_N, prediction_N = np.array([0, -1, 1, -1]), np.array([0, 1, 0, 0])
    assert counts.confusion(label_N, prediction_N, 2).tolist() == [[1, 0], [1, 0]]


def test_counts_of_two_halves_sum_to_the_whole():
    label_N, prediction_N = drawn()
    halves = [counts.confusion(label_N[half::2], prediction_N[half::2], 6) for half in (0, 1)]
    np.testing.assert_array_equal(halves[0] + halves[1], counts.confusion(label_N, prediction_N, 6))


def test_nothing_scores_zero_and_not_nan():
    empty_KK = np.zeros((3, 3), np.int64)
    assert counts.accuracy(empty_KK) == counts.balanced_accuracy(empty_KK) == 0
    assert counts.macro(counts.per_class(empty_KK).f1_K, counts.per_class(empty_KK)) == 0
