import time

import numpy as np
import pytest
from sklearn.metrics import f1_score

from instar.metrics import counts, intervals


def drawn(rows, classes=4, seed=0):
    generator = np.random.default_rng(seed)
    label_N = generator.integers(0, classes, rows)
    return label_N, np.where(generator.random(rows) < 0.8, label_N, generator.integers(0, classes, rows))


def resampled(label_N, prediction_N, score, times=2000):
    """The interval the slow way: rows drawn one by one."""
    generator = np.random.default_rng(1)
    rows = generator.integers(0, len(label_N), (times, len(label_N)))
    return np.quantile([score(label_N[row], prediction_N[row]) for row in rows], [0.025, 0.975])


def test_interval_of_accuracy_is_that_of_drawing_rows():
    label_N, prediction_N = drawn(200)
    slow = resampled(label_N, prediction_N, lambda label, prediction: np.mean(label == prediction))
    np.testing.assert_allclose(intervals.share(int((label_N == prediction_N).sum()), 200), slow, atol=0.011)


def test_interval_of_macro_f1_is_that_of_drawing_rows():
    label_N, prediction_N = drawn(60)

    def score(label_N, prediction_N):
        return f1_score(label_N, prediction_N, average="macro", zero_division=0)

    fast = intervals.macro_f1_share(counts.confusion(label_N, prediction_N, 4))
    np.testing.assert_allclose(fast, resampled(label_N, prediction_N, score, times=300), atol=0.03)


def test_interval_of_a_difference_is_that_of_drawing_rows_in_pairs():
    generator = np.random.default_rng(0)
    first_N = generator.random(200) < 0.8
    second_N = np.where(generator.random(200) < 0.15, generator.random(200) < 0.9, first_N)
    gained, lost = int((second_N & ~first_N).sum()), int((first_N & ~second_N).sum())
    slow = resampled(first_N, second_N, lambda first, second: second.mean() - first.mean())
    np.testing.assert_allclose(intervals.difference(gained, lost, 200), slow, atol=0.011)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(400):
        low, high = intervals.share(int(generator.binomial(300, 0.8)), 300, seed=seed)
        held += low <= 0.8 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_the_same_counts_give_the_same_interval():
    confusion_KK = counts.confusion(*drawn(100), 4)
    assert intervals.macro_f1_share(confusion_KK) == intervals.macro_f1_share(confusion_KK)
    assert intervals.share(80, 100) == intervals.share(80, 100) != intervals.share(80, 100, seed=1)


def test_the_interval_of_everything_right_and_of_nothing():
    assert intervals.share(50, 50) == (1, 1)
    assert intervals.difference(0, 0, 0) == intervals.difference(0, 0, 9) == (0, 0)
    assert intervals.share(0, 0) == intervals.macro_f1_share(np.zeros((3, 3), int)) == (0, 0)


def test_a_class_that_was_not_drawn_is_left_out_of_its_resample():
    # Class 1 has one row and is always right: whether it is drawn or not, macro-F1 stays 1.
    assert intervals.macro_f1_share(np.array([[20, 0, 0], [0, 1, 0], [0, 0, 0]])) == (
        1,
        1,
    )


def test_pieces_give_what_one_piece_gives_in_distribution(monkeypatch):
    confusion_KK = counts.confusion(*drawn(500), 4)
    whole = intervals.macro_f1_share(confusion_KK)
    monkeypatch.setattr(intervals, "DRAWS", 64)
    assert intervals.macro_f1_share(confusion_KK) == pytest.approx(whole, abs=1e-9)


def test_a_million_rows_cost_little_more_than_a_hundred():
    confusion_KK = counts.confusion(*drawn(1_000_000, classes=10), 10)
    start = time.process_time()
    low, high = intervals.macro_f1_share(confusion_KK)
    assert time.process_time() - start < 2
    assert high - low < 0.003
