"""Every schedule on the shelf: a pure function of samples, and equal to PyTorch's scheduler where it has one."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from instar import plugins
from instar.plan import Progress

EPOCH, BATCH, EPOCHS = 130, 10, 12
TOTAL = EPOCH * EPOCHS


def at(samples, total=TOTAL):
    return Progress(samples=samples, epoch_samples=EPOCH, total=total, batch=BATCH)


def made(kind, **settings):
    module = plugins.load("schedules", kind)
    return module.Settings.model_validate({"kind": kind, **settings}), module.factor


def theirs(make, steps):
    """The factors that a scheduler of PyTorch gives before each of its steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("kind", plugins.kinds("schedules"))
def test_every_schedule_gives_a_share_from_start_to_end_and_past_it(kind):
    settings, factor = made(kind)
    history = [0.5, 0.6, 0.6, 0.6, 0.6, 0.6]
    shares = [factor(settings, at(samples), history) for samples in range(0, TOTAL + 2 * BATCH, BATCH)]
    assert all(math.isfinite(share) and 0 <= share <= 1 for share in shares)
    assert len({factor(settings, at(40), history) for _ in range(3)}) == 1


@pytest.mark.parametrize("kind", plugins.kinds("schedules"))
def test_every_schedule_is_saved_and_read_back_equal(kind):
    settings, _ = made(kind, warmup="5 %")
    again = type(settings).model_validate_json(settings.model_dump_json(), strict=True)
    assert again == settings
    assert str(again.warmup) == "5 %"


@pytest.mark.parametrize(
    ("kind", "ours", "make"),
    [
        ("step", {"every": "2 epochs", "factor": 0.75}, lambda o: lr_scheduler.StepLR(o, 2, 0.75)),
        ("multistep", {"milestones": ["4 epochs", "75 %"]}, lambda o: lr_scheduler.MultiStepLR(o, [4, 9], 0.1)),
        ("cosine", {"floor": 0.01}, lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS, 0.01)),
        ("constant", {}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    ],
)
def test_at_epoch_boundaries_the_rate_is_that_of_pytorch(kind, ours, make):
    settings, factor = made(kind, **ours)
    mine = [factor(settings, at(epoch * EPOCH), []) for epoch in range(EPOCHS)]
    assert mine == pytest.approx(theirs(make, EPOCHS), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("shape", "strategy"), [("cosine", "cos"), ("linear", "linear")])
def test_onecycle_is_that_of_pytorch_at_every_step(shape, strategy):
    settings, factor = made("onecycle", shape=shape, rise=0.25)
    steps = TOTAL // BATCH

    def make(optimizer):
        return lr_scheduler.OneCycleLR(
            optimizer, 1.0, total_steps=steps, pct_start=0.25, anneal_strategy=strategy, cycle_momentum=False
        )

    mine = [factor(settings, at(step * BATCH), []) for step in range(steps - 1)]
    assert mine == pytest.approx(theirs(make, steps - 1), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_plateau_is_that_of_pytorch_on_any_history(seed):
    draws = np.random.default_rng(seed)
    history = np.round(np.cumsum(draws.normal(0.01, 0.05, size=60)), 2).tolist()
    if seed % 4 == 0:
        history[17] = math.nan
    given = {"factor": 0.5, "patience": int(draws.integers(0, 4)), "cooldown": int(draws.integers(0, 3))}
    given["min_delta"] = float(draws.choice([0.0, 0.03]))
    settings, factor = made("plateau", floor=0.001, **given)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", 0.5, given["patience"], given["min_delta"], "abs", given["cooldown"], min_lr=0.001, eps=0
    )
    for count in range(1, len(history) + 1):
        scheduler.step(history[count - 1])
        assert factor(settings, at(0), history[:count]) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_a_schedule_in_samples_does_not_care_about_the_batch():
    settings, factor = made("step", every="260 samples", factor=0.5)
    small, large = (Progress(520, EPOCH, TOTAL, batch) for batch in (1, 130))
    assert factor(settings, small, []) == factor(settings, large, []) == 0.25


def test_the_rate_of_cosine_never_rises():
    settings, factor = made("cosine")
    rates = [factor(settings, at(samples), []) for samples in range(0, TOTAL, BATCH)]
    assert all(later <= earlier for earlier, later in pairwise(rates))


# --- deepcam: counted in steps -------------------------------------------------------------------------------------


def rates(lr, steps, **settings):
    made_of, module = made("deepcam", **settings)[0], plugins.load("schedules", "deepcam")
    return [lr * module.share(made_of, step) for step in range(steps)]


def test_the_warm_up_is_that_of_a_published_log():
    # NVIDIA, hpc 3.0 on Eos, result_0: its learning rates after 60 and 118 calls of the scheduler (lr 0.0055).
    found = rates(0.0055, 1300, lr_warmup_steps=400, milestones=[800], decay_rate=0.1)
    assert found[60 - 1] == pytest.approx(0.0008249999373219907, rel=1e-6)
    assert found[118 - 1] == pytest.approx(0.0016224998980760574, rel=1e-6)
    assert found[399] == found[1199] == 0.0055
    assert found[1200] == pytest.approx(0.00055)  # 800 after the warm-up of 400


class Counted(lr_scheduler.LRScheduler):
    """The benchmark's rules, one call after another, written from their description and not from ours."""

    def __init__(self, optimizer, rule):
        self.rule = rule
        super().__init__(optimizer)

    def get_lr(self):
        return [
            self.rule(self.last_epoch + 1, group["lr"], base)
            for base, group in zip(self.base_lrs, self.optimizer.param_groups, strict=True)
        ]


@pytest.mark.parametrize("warmup", [1, 7, 20])
@pytest.mark.parametrize("most", [1.0, 3.0])
def test_multistep_is_the_recursion_of_the_reference_at_every_step(warmup, most):
    milestones, rate = [5, 30, 30, 41], 0.3

    def rule(count, before, base):
        if count <= warmup:
            return base * count / warmup if most == 1 else base * ((most - 1) * count / warmup + 1)
        return before * rate ** [at + warmup + 1 for at in milestones].count(count)

    ours = rates(1.0, 90, lr_warmup_steps=warmup, lr_warmup_factor=most, milestones=milestones, decay_rate=rate)
    assert ours == pytest.approx(theirs(lambda optimizer: Counted(optimizer, rule), 90), rel=1e-9)


def test_cosine_after_a_warm_up_is_the_recursion_of_the_reference_at_every_step():
    warmup, t_max, least = 10, 60, 0.05

    def rule(count, before, base):
        done = count - warmup
        if done <= 0:
            return base * count / warmup
        turn = math.pi / t_max
        return (1 + math.cos(turn * done)) / (1 + math.cos(turn * (done - 1))) * (before - least) + least

    steps = warmup + t_max - 1  # beyond the least rate the recursion divides by zero
    ours = rates(1.0, steps, type="cosine_annealing", lr_warmup_steps=warmup, t_max=t_max, eta_min=least)
    assert ours == pytest.approx(theirs(lambda optimizer: Counted(optimizer, rule), steps), rel=1e-6, abs=1e-9)


def test_without_a_warm_up_they_are_pytorchs_own_as_the_reference_starts_them():
    cosine = theirs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 50, 0.1), 50)
    assert rates(1.0, 50, type="cosine_annealing", t_max=50, eta_min=0.1) == pytest.approx(cosine, rel=1e-9)
    # The reference begins its multistep scheduler at 0 and not at -1, so it is one call ahead.
    ahead = theirs(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [4, 20], 0.1), 41)[1:]
    assert rates(1.0, 40, milestones=[4, 20]) == pytest.approx(ahead, rel=1e-9)


def test_two_warm_ups_are_one_too_many():
    with pytest.raises(ValueError, match="both warm up"):
        made("deepcam", warmup="5 %", lr_warmup_steps=3)
