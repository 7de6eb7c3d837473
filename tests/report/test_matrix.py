import numpy as np

from instar.report import matrix
from instar.report.blocks import Confusion


def laid_out(count_KK):
    K = len(count_KK)
    return matrix.laid_out(Confusion(tuple("abcdefgh"[:K]), np.array(count_KK), tuple(range(10, 10 + K))))


def test_cells_know_their_classes_and_empty_ones_are_nothing():
    layout = laid_out([[8, 2], [0, 5]])
    (name, rows, cells), (_, _, below) = layout.rows
    assert (name, rows) == ("a", 10) and below[0] is None
    assert (cells[0].right, cells[1].right) == (True, False)
    assert (cells[1].count, cells[1].share, cells[1].name, cells[1].predicted) == (2, 0.2, "10-11", "b")


def test_a_rare_mistake_can_be_seen_and_a_common_one_is_stronger():
    cells = laid_out([[989, 1, 10], [0, 5, 0], [0, 0, 5]]).rows[0][2]
    assert 18 < cells[1].strength < cells[2].strength < 100


def test_the_most_frequent_confusions_come_first_and_hits_are_none():
    pairs = laid_out([[9, 3, 0], [4, 9, 0], [0, 3, 1]]).pairs
    assert [(pair.true, pair.predicted, pair.count) for pair in pairs] == [("b", "a", 4), ("c", "b", 3), ("a", "b", 3)]


def test_many_classes_have_small_cells_without_numbers():
    few, many = (
        laid_out(np.eye(3, dtype=int)),
        matrix.laid_out(Confusion(tuple(map(str, range(200))), np.eye(200, dtype=int), tuple(range(200)))),
    )
    assert (few.numbers, few.size) == (True, "large") and (many.numbers, many.size) == (False, "dot")
