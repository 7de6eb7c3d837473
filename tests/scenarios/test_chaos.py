"""The short form of `make chaos`: killed at random moments and resumed, a training ends as if nobody had touched it."""

import json
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
    assert tally.struck == kills and tally.runs >= 1


def test_a_difference_is_a_verdict_and_an_exit_code(monkeypatch, capsys):
    """The judge can say no: a run whose metrics differ by one digit is lost."""

    def disturb(recipe, run, *, tally, **_):
        newest = run / "checkpoints" / "samples-1"
        newest.mkdir(parents=True)
        (newest.parent / "latest").write_text("samples-1\n")
        (newest / "model.safetensors").write_bytes(b"the same weights")
        (run / "metrics.jsonl").write_text(json.dumps({"loss": 0.5 + (run.name != "undisturbed"), "time": 1}))

    monkeypatch.setattr(chaos, "disturb", disturb)
    monkeypatch.setattr(sys, "argv", ["chaos", "--kills", "5"])
    assert chaos.main() == 1
    printed = capsys.readouterr().out
    assert "LOST: disturbed 1: metrics.jsonl differs" in printed
    assert printed.splitlines()[-1].startswith("SOMETHING WAS LOST: 0 kills on 1 process, 0 runs equal by hash")
