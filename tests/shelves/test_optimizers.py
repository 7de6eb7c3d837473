"""Every optimizer on the shelf: it learns, gives the same every time, and is what its library has under that name."""

import pytest
import timm.optim
import torch
from pydantic import ValidationError

from instar import plugins
from instar.engine import optimise

KINDS = plugins.kinds("optimizers")
BUILTIN = {
    "adadelta": (torch.optim.Adadelta, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "asgd": (torch.optim.ASGD, {}),
    "lamb": (timm.optim.Lamb, {}),
    "lars": (timm.optim.Lars, {"momentum": 0.9}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
}


def settings_of(kind, **given):
    return plugins.load("optimizers", kind).Settings.model_validate({"kind": kind, **given})


def trained(kind, *, make=None, steps=30, **given):
    """The weights after some steps on a small regression, and the first and last loss."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    feature_BD = torch.randn(64, 5)
    value_B1 = feature_BD.sum(1, keepdim=True)
    optimizer = make(module) if make else optimise.build(module, settings_of(kind, **given))
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(module(feature_BD), value_B1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return torch.cat([weight.detach().flatten() for weight in module.parameters()]), losses


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_learns_and_gives_the_same_bits_every_time(kind):
    weights, losses = trained(kind)
    assert losses[-1] < losses[0]
    assert torch.equal(weights, trained(kind)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_is_its_librarys_own(kind):
    make, more = BUILTIN[kind]
    settings = settings_of(kind, lr=0.01, weight_decay=0.02, decay_all=True)
    theirs, _ = trained(kind, make=lambda module: make(module.parameters(), lr=0.01, weight_decay=0.02, **more))
    ours, _ = trained(kind, lr=settings.lr, weight_decay=settings.weight_decay, decay_all=True)
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_every_optimizer_are_saved_and_read_back_equal(kind):
    settings = settings_of(kind, lr=0.02, clip=1.0)
    again = type(settings).model_validate_json(settings.model_dump_json(), strict=True)
    assert again == settings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [{"lr": 0}, {"lr": -1}, {"clip": 0}, {"weight_decay": -0.1}, {"momentun": 0.9}])
def test_settings_that_cannot_be_meant_are_refused(kind, wrong):
    with pytest.raises(ValidationError):
        settings_of(kind, **wrong)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValidationError, match="momentum"):
        settings_of("sgd", nesterov=True, momentum=0.0)
