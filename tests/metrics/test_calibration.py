import numpy as np
import pytest
from sklearn import metrics as truth
from sklearn.calibration import calibration_curve

from instar.errors import DataError
from instar.metrics import calibration

N, K = 500, 5


def drawn(classes=K, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, classes, N), generator.dirichlet(np.full(classes, 0.3), N)


def test_reliability_is_scikit_learns():
    label_N, probability_NK = drawn()
    confidence_N, correct_N = (
        probability_NK.max(axis=1),
        probability_NK.argmax(axis=1) == label_N,
    )
    table = calibration.reliability(confidence_N, correct_N)
    accuracy, confidence = calibration_curve(correct_N, confidence_N, n_bins=15)
    filled = table.count_M > 0
    np.testing.assert_allclose(table.accuracy_M[filled], accuracy)
    np.testing.assert_allclose(table.confidence_M[filled], confidence)
    assert table.count_M.sum() == N


def test_calibration_error_is_the_formula_of_the_paper():
    confidence_N, correct_N = (
        np.array([0.95, 0.95, 0.55, 0.58]),
        np.array([True, False, True, True]),
    )
    # two bins hold rows: |0.5 - 0.95| and |1 - 0.565|, half the rows in each
    assert calibration.expected_calibration_error(confidence_N, correct_N, bins=10) == pytest.approx(
        0.5 * 0.45 + 0.5 * 0.435
    )


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin_and_none_is_lost():
    table = calibration.reliability(np.array([0.0, 0.5, 1.0]), np.array([True, True, True]), bins=2)
    assert table.count_M.tolist() == [2, 1]


def test_perfect_confidence_has_no_error():
    assert calibration.expected_calibration_error(np.ones(4), np.ones(4, bool)) == 0


@pytest.mark.parametrize(
    "confidence_N, words",
    [([0.5, 0.5], "2 confidences"), ([np.nan], "0 and 1"), ([1.2], "0 and 1")],
)
def test_what_is_no_confidence_is_refused(confidence_N, words):
    with pytest.raises(DataError, match=words):
        calibration.expected_calibration_error(np.array(confidence_N), np.array([True]))


@pytest.mark.parametrize("classes", [2, K])
def test_log_loss_is_scikit_learns(classes):
    label_N, probability_NK = drawn(classes)
    probability_NK[:3] = np.eye(classes)[(label_N[:3] + 1) % classes]  # sure and wrong
    theirs = truth.log_loss(label_N, probability_NK, labels=np.arange(classes))
    assert calibration.log_loss(label_N, probability_NK) == pytest.approx(theirs)


@pytest.mark.parametrize("classes", [2, K])
def test_brier_score_is_scikit_learns(classes):
    label_N, probability_NK = drawn(classes)
    theirs = truth.brier_score_loss(label_N, probability_NK, labels=np.arange(classes), scale_by_half=False)
    assert calibration.brier(label_N, probability_NK) == pytest.approx(theirs)


def test_float32_gives_the_scores_of_float64():
    label_N, probability_NK = drawn()
    single_NK = probability_NK.astype(np.float32)
    assert calibration.brier(label_N, single_NK) == pytest.approx(calibration.brier(label_N, probability_NK), abs=1e-6)


def test_no_rows_score_zero():
    none_N, none_NK = np.zeros(0, int), np.zeros((0, 3), np.float32)
    assert calibration.log_loss(none_N, none_NK) == calibration.brier(none_N, none_NK) == 0
    assert calibration.expected_calibration_error(none_N, none_N) == 0
