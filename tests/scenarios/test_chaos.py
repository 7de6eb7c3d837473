"""The short form of `make chaos`: killed at random moments and resumed, a training ends as if nobody had touched it."""

import sys

import pytest

from tests.scenarios import chaos

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills whole process groups")


@pytest.mark.parametrize(
    ("ranks", "kills", "epochs", "window"),
    [
        (1, 3, 120, 1.0),
        pytest.param(1, 20, 400, 2.0, marks=pytest.mark.scenario),
        pytest.param(2, 8, 400, 3.0, marks=pytest.mark.scenario),
    ],
)
def test_killed_at_random_moments_it_ends_as_if_undisturbed(monkeypatch, ranks, kills, epochs, window):
    # `make chaos` holds to ten seconds; these tests also run where others keep the processors busy.
    monkeypatch.setattr(chaos, "PATIENCE", 60.0)
    tally = chaos.chaos(kills=kills, ranks=ranks, seed=1, epochs=epochs, window=window)
    assert tally.slips == []
    assert sum(tally.kills.values()) == kills
