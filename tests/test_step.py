"""What a step leaves behind: sums over rows, whether the numbers come as means or row by row."""

import torch

from instar.engine.step import Totals


def test_means_of_rows_are_those_of_means_to_the_last_bit():
    draws = torch.Generator().manual_seed(0)
    means, rows = Totals(), Totals()
    for position, length in enumerate([7, 7, 5, 7, 1]):
        loss = torch.rand((), generator=draws, dtype=torch.float64)
        right_B = torch.rand(length, generator=draws) < 0.4
        score_B = torch.rand(length, generator=draws, dtype=torch.float64)
        of_means = {"total": loss, "accuracy": right_B.float().mean(), "score": score_B.mean()}
        means.add(of_means, length, position=position)
        rows.add({"total": loss, "accuracy": right_B, "score": score_B}, length, position=position)
    assert means.with_rows() == rows.with_rows()
    assert means.with_rows()[3] == 27


def test_the_first_step_that_was_not_finite_is_found():
    totals = Totals()
    for position, loss in enumerate([1.0, float("inf"), float("nan")]):
        totals.add({"total": torch.tensor(loss), "accuracy": torch.tensor([True, False])}, 2, position=8 * position)
    assert totals.first_not_finite() == 8
    assert totals.first_not_finite() is None
