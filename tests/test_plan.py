"""Plan and Progress: numbers in samples."""

import pytest

from instar.engine import rates
from instar.errors import RunError
from instar.plan import Progress


def cosine(progress, history):
    import math

    return 0.5 * (1 + math.cos(math.pi * progress.share))


def test_progress_speaks_of_steps_epochs_and_shares():
    progress = Progress(samples=300, epoch_samples=200, total=1000, batch=50)
    assert (progress.step, progress.epoch, progress.share) == (6, 1.5, 0.3)


def test_a_longer_training_asks_what_the_rate_is_to_do_and_says_what_each_choice_means():
    now = Progress(500, 100, 2000, 10)
    with pytest.raises(
        RunError, match=r"was 0\.5 x optim\.lr; stretch makes it 0\.8536 .* tail .* 0\.5 .* restart makes it 1 x"
    ):
        rates.choose(None, before=1000, now=now, factor=cosine, history=[], previous={})


def test_a_longer_training_says_what_becomes_of_a_weight_decay_that_moves():
    now = Progress(500, 100, 2000, 10)
    with pytest.raises(RunError, match=r"weight decay was 0\.5; it becomes stretch 0\.8536, tail 0\.5, restart 1\."):
        rates.choose(
            None,
            before=1000,
            now=now,
            factor=lambda progress, history: 1.0,
            history=[],
            previous={},
            decay=lambda progress: cosine(progress, []),
        )


@pytest.mark.parametrize(
    ("policy", "at_500", "at_end"),
    [("stretch", 0.853553, 0.0), ("tail", 0.5, 0.0), ("restart", 1.0, 0.0)],
)
def test_policies(policy, at_500, at_end):
    now = Progress(500, 100, 2000, 10)
    chosen = rates.choose(policy, before=1000, now=now, factor=cosine, history=[], previous={})
    assert cosine(rates.through(chosen, now), []) == pytest.approx(at_500, abs=1e-6)
    assert cosine(rates.through(chosen, Progress(2000, 100, 2000, 10)), []) == pytest.approx(at_end, abs=1e-6)
