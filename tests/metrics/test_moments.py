"""Moments: NumPy's numbers, and the same to the last bit in any order and division."""

import numpy as np
import pytest

from instar.metrics import moments


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    made = [
        (random.normal(250, 3, (40, 50, 3)) * 10.0 ** random.integers(-2, 3, 3)).astype(np.float32) for _ in range(7)
    ]
    made[2][3:9, 4, 1] = np.nan
    made[5][0, 0, 2] = np.inf
    made[6][..., 0] = np.nan
    return made


def test_they_are_numpys_without_what_is_no_number(arrays):
    found = moments.together([moments.of_array(array) for array in arrays])
    for channel in range(3):
        every = np.concatenate([array[..., channel].ravel() for array in arrays]).astype(np.float64)
        values = every[np.isfinite(every)]
        assert found.count[channel] == len(values)
        assert found.missing[channel] == len(every) - len(values)
        assert found.mean[channel] == pytest.approx(values.mean(), rel=1e-12)
        assert found.std[channel] == pytest.approx(values.std(), rel=1e-9)
        assert (found.least[channel], found.most[channel]) == (values.min(), values.max())


def test_order_does_not_change_a_bit(arrays):
    parts = [moments.of_array(array) for array in arrays]
    whole = moments.together(parts)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(parts))
        assert moments.together([parts[number] for number in order]) == whole


@pytest.mark.parametrize("axis", [-1, 0, 1, None])
def test_channels_may_be_anywhere(arrays, axis):
    found = moments.of_array(arrays[0], axis=axis)
    assert len(found.count) == (1 if axis is None else arrays[0].shape[axis])
    assert sum(found.count) == arrays[0].size


def test_blocks_give_what_one_sum_gives(arrays, monkeypatch):
    whole = moments.of_array(arrays[0])
    monkeypatch.setattr(moments, "_BLOCK", 100)
    parts = moments.of_array(arrays[0])
    assert parts.count == whole.count and parts.mean == pytest.approx(whole.mean, rel=1e-13)
    assert parts.squares == pytest.approx(whole.squares, rel=1e-10)


def test_whole_numbers_and_nothing_at_all():
    found = moments.of_array(np.array([[[255, 0], [1, 0]]], np.uint8))
    assert found.mean == (128.0, 0.0) and found.std == (127.0, 0.0)
    empty = moments.of_array(np.zeros((0, 3, 2), np.float32))
    assert empty.count == (0, 0) and np.isnan(empty.mean).all()
    with pytest.raises(ValueError, match="2 and 3 channels"):
        moments.together([found, moments.of_array(np.zeros((1, 1, 3)))])
