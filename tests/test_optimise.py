"""The optimizer's surroundings: groups, rates, clipping, loss scaling and averages."""

import timeit
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from instar import plugins
from instar.engine.optimise import Ema, Optimise, doubts, groups, moving_decay, rate, set_decay, set_rate
from instar.plan import Progress


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def image_BCHW():
    return torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def settings_of(shelf, kind, **given):
    return plugins.load(shelf, kind).Settings.model_validate({"kind": kind, **given})


def at(samples, total=1000, batch=10):
    return Progress(samples=samples, epoch_samples=100, total=total, batch=batch)


# --- groups --------------------------------------------------------------------------------------------------------


def test_biases_and_normalisation_weights_are_not_decayed():
    decayed, free = groups(network(), settings_of("optimizers", "adamw", weight_decay=0.1))
    assert [weight.ndim for weight in decayed["params"]] == [4, 2]
    assert [weight.ndim for weight in free["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_decay_all_decays_all():
    (group,) = groups(network(), settings_of("optimizers", "adamw", weight_decay=0.1, decay_all=True))
    assert len(group["params"]) == 6
    assert group["weight_decay"] == 0.1


def test_what_a_network_wants_spared_is_spared():
    class Spared(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.zeros(1, 4, 8))
            self.layer = nn.Linear(8, 8, bias=False)

        def no_weight_decay(self):
            return {"position"}

    decayed, free = groups(Spared(), settings_of("optimizers", "adamw"))
    assert [tuple(weight.shape) for weight in decayed["params"]] == [(8, 8)]
    assert [tuple(weight.shape) for weight in free["params"]] == [(1, 4, 8)]


def test_frozen_weights_are_in_no_group():
    module = network()
    module[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in groups(module, settings_of("optimizers", "sgd"))) == 4


# --- rates ---------------------------------------------------------------------------------------------------------


def test_warm_up_rises_in_a_straight_line_from_above_nothing_to_the_whole_rate():
    optim, schedule = settings_of("optimizers", "sgd", lr=0.1), settings_of("schedules", "constant", warmup="4 steps")
    rates = [rate(optim, schedule, at(samples)) for samples in (0, 10, 20, 30, 40, 50)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_the_rate_is_put_into_every_group_and_given_back():
    optim, schedule = settings_of("optimizers", "adamw", lr=0.1), settings_of("schedules", "cosine")
    optimizer = Optimise(network(), optim).optimizer
    assert set_rate(optimizer, optim, schedule, at(500), scale=0.5) == pytest.approx(0.025)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.025])


@pytest.mark.parametrize("kind", plugins.kinds("schedules"))
def test_setting_the_rate_costs_microseconds(kind):
    optim, schedule = settings_of("optimizers", "adamw"), settings_of("schedules", kind, warmup="5 %")
    optimizer, history = Optimise(network(), optim).optimizer, [0.1 * step for step in range(20)]
    set_rate(optimizer, optim, schedule, at(0), history)
    once = partial(set_rate, optimizer, optim, schedule, at(500), history)
    assert min(timeit.repeat(once, number=20, repeat=20)) / 20 < 50e-6  # measured: 1 to 3 us


def test_weight_decay_moves_along_half_a_cosine_where_there_is_any():
    """`cosine_scheduler` of DINO's utils.py, written out: an array over all steps."""
    optim, schedule = settings_of("optimizers", "adamw", weight_decay=0.04), settings_of("schedules", "constant")
    optimizer, moving = Optimise(network(), optim).optimizer, schedule.model_copy(update={"decay_to": 0.4})
    theirs = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * np.arange(100) / 100))
    decay = moving_decay(optim, moving)
    assert [set_decay(optimizer, decay(at(10 * step))) for step in range(100)] == pytest.approx(list(theirs))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(theirs[-1]), 0.0]
    assert moving_decay(optim, schedule) is None


def test_a_milestone_or_a_warm_up_beyond_the_end_is_doubted():
    never = settings_of("schedules", "multistep", milestones=["5 epochs", "30 epochs"])
    assert "30 epochs" in doubts(never, at(0))[0]
    assert "5 epochs" not in doubts(never, at(0))[0]
    assert "warmup" in doubts(settings_of("schedules", "cosine", warmup="20 epochs"), at(0))[0]
    for kind in plugins.kinds("schedules"):
        assert doubts(settings_of("schedules", kind, warmup="5 %"), at(0)) == []


# --- steps ---------------------------------------------------------------------------------------------------------


def stepped(*, scale_loss_by=1.0, precision="fp32", **given):
    """The weights after one step of plain gradient descent, and what the step gave back."""
    module = network()
    optimise = Optimise(module, settings_of("optimizers", "sgd", momentum=0.0, **given), precision=precision)
    optimise.zero()
    optimise.backward(module(image_BCHW()).square().sum() * scale_loss_by)
    norm = optimise.step()
    return torch.cat([weight.detach().flatten() for weight in module.parameters()]), norm


def test_clipping_limits_the_norm_of_the_whole_gradient():
    before = torch.cat([weight.detach().flatten() for weight in network().parameters()])
    after, norm = stepped(lr=1.0, clip=0.5)
    assert float((after - before).norm()) == pytest.approx(0.5, rel=1e-4)
    assert float(norm) > 0.5


def test_without_a_limit_no_norm_is_computed():
    assert stepped(lr=1.0)[1] is None


def test_under_fp16_the_gradient_is_clipped_after_it_is_unscaled():
    plain, _ = stepped(lr=0.1, clip=0.5)
    scaled, norm = stepped(lr=0.1, clip=0.5, precision="fp16")
    assert torch.allclose(plain, scaled, rtol=1e-4, atol=1e-6)
    assert norm is None


def test_under_fp16_a_step_that_overflows_is_left_out_and_the_scale_halved():
    module = network()
    optimise = Optimise(module, settings_of("optimizers", "adamw", clip=1.0), precision="fp16")
    before = [weight.detach().clone() for weight in module.parameters()]
    optimise.backward(module(image_BCHW()).sum() * float("inf"))
    optimise.step()
    assert all(torch.equal(*pair) for pair in zip(before, module.parameters(), strict=True))
    assert optimise.scaler_state()["scale"] == 65536 / 2


def test_the_loss_scale_is_saved_and_put_back():
    first, second = (Optimise(network(), settings_of("optimizers", "sgd"), precision="fp16") for _ in range(2))
    state = {**first.scaler_state(), "scale": 1024.0, "_growth_tracker": 7}
    second.load_scaler_state(state)
    assert second.scaler_state() == state
    plain = Optimise(network(), settings_of("optimizers", "sgd"))
    plain.load_scaler_state(state)
    assert plain.scaler_state() == {}


def test_gradients_of_micro_batches_add_up_to_that_of_the_batch():
    module, whole = network().eval(), network().eval()
    parts = Optimise(module, settings_of("optimizers", "sgd"))
    for part in image_BCHW().split(2):
        parts.backward(module(part).square().mean() * (2 / 8))
    whole(image_BCHW()).square().mean().backward()
    for one, other in zip(module.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-7)


# --- averages ------------------------------------------------------------------------------------------------------


def test_the_average_is_the_one_the_formula_gives_and_decay_grows():
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    ema, expected = Ema(module, 0.5), 1.0
    for step in range(20):
        nn.init.constant_(module.weight, step + 2.0)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 2.0)
    assert float(ema.state()["weight"]) == pytest.approx(expected, rel=1e-6)


def test_averages_stand_in_the_module_inside_the_block_and_every_bit_comes_back():
    module = network()
    ema = Ema(module, 0.9)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        module[0].weight.add_(1.0)
    raised = module[0].weight.detach().clone()
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        assert torch.equal(module[0].weight, before["0.weight"])
        raise RuntimeError("inside")
    assert torch.equal(module[0].weight, raised)
    assert torch.equal(ema.state()["0.weight"], before["0.weight"])


def test_the_state_of_an_average_is_a_whole_state_dict_with_the_modules_own_buffers():
    module = network()
    ema = Ema(module, 0.9)
    module(image_BCHW())
    ema.update(0)
    other = network()
    other.load_state_dict(ema.state())
    assert torch.equal(other[1].running_mean, module[1].running_mean)
    again = Ema(network(), 0.9)
    again.load({name: value.clone() for name, value in ema.state().items()})
    assert all(torch.equal(again.state()[name], ema.state()[name]) for name, _ in module.named_parameters())
