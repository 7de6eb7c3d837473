"""The state of every optimiser comes back through JSON and tensors so that the next step has equal bits."""

import json

import pytest
import torch
from torch import nn

from instar.engine.checkpoint.optimizer_state import flatten_optimizer, restore_optimizer
from instar.errors import CheckpointError


def timm_optimizer(module, name, **settings):
    def build(groups):
        import importlib

        return getattr(importlib.import_module(f"timm.optim.{module}"), name)(groups, **settings)

    return build


def torch_optimizer(name, **settings):
    return lambda groups: getattr(torch.optim, name)(groups, **settings)


OPTIMIZERS = {
    "sgd": torch_optimizer("SGD", lr=0.1),
    "sgd momentum": torch_optimizer("SGD", lr=0.1, momentum=0.9, nesterov=True),
    "adam": torch_optimizer("Adam", lr=0.1, amsgrad=True),
    "adamw": torch_optimizer("AdamW", lr=0.1),
    "adamw tensor lr": torch_optimizer("AdamW", lr=torch.tensor(0.1)),
    "rmsprop": torch_optimizer("RMSprop", lr=0.1, centered=True, momentum=0.9),
    "adagrad": torch_optimizer("Adagrad", lr=0.1),
    "adadelta": torch_optimizer("Adadelta", lr=0.1),
    "asgd": torch_optimizer("ASGD", lr=0.1, t0=1.0),
    "lamb": timm_optimizer("lamb", "Lamb", lr=0.1),
    "lars": timm_optimizer("lars", "Lars", lr=0.1, momentum=0.9, trust_clip=True),
}


def network(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    net.to(dtype).to(memory_format=torch.channels_last)
    net[3].bias.requires_grad_(False)  # a parameter without state
    return net


def groups(net):
    wide = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    flat = [parameter for parameter in net.parameters() if parameter.ndim == 1]
    return [{"params": wide, "weight_decay": 0.01}, {"params": flat}]


def step(net, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = torch.empty_like(parameter).copy_(noise)
    optimizer.step()


def bits(value):
    return value.contiguous().reshape(-1).view(torch.uint8).tolist() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_after_a_restore_has_the_same_bits(name, dtype):
    one = network(dtype)
    first = OPTIMIZERS[name](groups(one))
    for seed in range(3):
        step(one, first, seed)
    first.param_groups[1]["lr"] = 0.05
    tensors, rest = flatten_optimizer(first)
    tensors = {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
    rest = json.loads(json.dumps(rest, allow_nan=False))

    two = network(dtype)
    two.load_state_dict(one.state_dict())
    second = OPTIMIZERS[name](groups(two))
    restore_optimizer(second, tensors, rest)
    step(one, first, 9)
    step(two, second, 9)

    again, rest_again = flatten_optimizer(second)
    once, rest_once = flatten_optimizer(first)
    assert rest_again == rest_once
    assert again.keys() == once.keys()
    for key, tensor in once.items():
        assert (again[key].dtype, again[key].stride()) == (tensor.dtype, tensor.stride()), key
        assert bits(again[key]) == bits(tensor), key
    for key, tensor in one.state_dict().items():
        assert bits(two.state_dict()[key]) == bits(tensor), key
    assert second.param_groups[1]["lr"] == 0.05
    assert type(second.param_groups[0].get("betas", ())) is tuple


def test_none_and_numbers_in_the_state_survive():
    net = network(torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step(net, optimizer, 0)
    first = next(net.parameters())
    optimizer.state[first]["momentum_buffer"] = None
    optimizer.state[first]["seen"] = [3, float("inf"), (True, "x")]
    tensors, rest = flatten_optimizer(optimizer)
    fresh = torch.optim.SGD(net.parameters(), lr=0.5)
    restore_optimizer(fresh, tensors, json.loads(json.dumps(rest, allow_nan=False)))
    assert fresh.state[first] == {"momentum_buffer": None, "seen": [3, float("inf"), (True, "x")]}
    assert fresh.param_groups[0]["lr"] == 0.1


def test_restored_tensors_are_copies():
    net = network(torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    step(net, optimizer, 0)
    tensors, rest = flatten_optimizer(optimizer)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    restore_optimizer(optimizer, tensors, rest)
    step(net, optimizer, 1)
    assert all(torch.equal(tensors[key], before[key]) for key in before)


def test_how_a_step_is_computed_belongs_to_the_machine():
    net = network(torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, foreach=True)
    step(net, optimizer, 0)
    tensors, rest = flatten_optimizer(optimizer)
    here = torch.optim.Adam(net.parameters(), lr=0.1, foreach=False)
    restore_optimizer(here, tensors, rest)
    assert here.param_groups[0]["foreach"] is False


def test_another_optimiser_or_model_is_refused():
    net = network(torch.float32)
    tensors, rest = flatten_optimizer(torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(CheckpointError, match=r"state of SGD, but the optimiser is Adam\."):
        restore_optimizer(torch.optim.Adam(net.parameters()), tensors, rest)
    with pytest.raises(CheckpointError, match=r"groups of \[6\] parameters, this model's has \[2, 4\]"):
        restore_optimizer(torch.optim.SGD(groups(net), lr=0.1), tensors, rest)


def test_state_that_is_no_plain_data_is_refused_by_name():
    net = network(torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.state[next(net.parameters())]["history"] = [torch.zeros(1)]
    with pytest.raises(CheckpointError, match=r"optimizer 0\.history\[0\] is a Tensor"):
        flatten_optimizer(optimizer)
