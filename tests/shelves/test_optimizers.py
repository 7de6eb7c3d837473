"""Every optimizer on the shelf: it learns, gives the same every time, and is what its library has under that name."""

import numpy as np
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


# --- LAMB, written down from the papers and in NumPy -----------------------------------------------------------------


def lamb(weights, gradients, *, lr, betas, eps, decay, bias_correction, grad_averaging, most):
    """Steps as You et al. 2020 (algorithm 2) and NVIDIA's description of its fused one say; lists of arrays, float64."""
    weights = [weight.copy() for weight in weights]
    first, second = ([np.zeros_like(weight) for weight in weights] for _ in range(2))
    for step, gradient in enumerate(gradients, start=1):
        length = np.sqrt(sum(float((one**2).sum()) for one in gradient))
        scale = most / length if length > most else 1.0
        for index, one in enumerate(gradient):
            clipped = one * scale
            first[index] = betas[0] * first[index] + (1 - betas[0] if grad_averaging else 1.0) * clipped
            second[index] = betas[1] * second[index] + (1 - betas[1]) * clipped**2
            m, v = first[index], second[index]
            if bias_correction:
                m, v = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
            update = m / (np.sqrt(v) + eps) + decay * weights[index]
            of_weight, of_update = np.linalg.norm(weights[index]), np.linalg.norm(update)
            ratio = of_weight / of_update if decay and of_weight > 0 and of_update > 0 else 1.0
            weights[index] -= lr * ratio * update
    return weights


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("decay", "bias_correction", "grad_averaging"), [(0.01, True, True), (0.0, True, True), (0.1, False, False)]
)
def test_lamb_takes_the_steps_of_its_paper(seed, decay, bias_correction, grad_averaging):
    random = np.random.default_rng(seed)
    shapes = [(7, 5), (5,), (3, 2, 3, 3)]
    start = [random.normal(size=shape) for shape in shapes]
    gradients = [[random.normal(size=shape) * 10 ** random.uniform(-3, 1) for shape in shapes] for _ in range(12)]
    given = {"lr": 0.02, "eps": 1e-6, "bias_correction": bias_correction, "grad_averaging": grad_averaging}
    weights = [torch.nn.Parameter(torch.tensor(one)) for one in start]
    group = {"params": weights, "weight_decay": decay}
    optimizer = plugins.load("optimizers", "lamb").build(settings_of("lamb", betas=(0.8, 0.99), **given), [group])
    for gradient in gradients:
        for weight, one in zip(weights, gradient, strict=True):
            weight.grad = torch.tensor(one)
        optimizer.step()
    wanted = lamb(start, gradients, betas=(0.8, 0.99), decay=decay, most=1.0, **given)
    for weight, one in zip(weights, wanted, strict=True):
        assert weight.detach().numpy() == pytest.approx(one, rel=1e-7, abs=1e-9)
