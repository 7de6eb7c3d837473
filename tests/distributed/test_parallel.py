"""One model on many ranks: the numbers of one process, the bits of an uninterrupted run."""

import copy
import hashlib
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from instar.engine.ranks import parallel as parallels
from instar.engine.ranks.parallel import (
    accumulating,
    average_statistics,
    bare,
    full,
    full_state,
    gathered,
    like,
    load_full_state,
    parallel,
    share_buffers,
)
from instar.engine.ranks.world import World
from instar.errors import CheckpointError

BATCH = 12
Net = nn.Sequential


def net(dtype: torch.dtype = torch.float64) -> Net:
    torch.manual_seed(5)
    blocks = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(3)]
    return nn.Sequential(nn.Linear(9, 16), nn.BatchNorm1d(16), nn.Tanh(), *blocks, nn.Linear(16, 4)).to(dtype)


def global_batch(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    return (
        torch.randn(BATCH, 9, generator=generator, dtype=dtype),
        torch.randn(BATCH, 4, generator=generator, dtype=dtype),
    )


def train(module: nn.Module, world: World, steps: range, *, optimizer=None, micro: int = BATCH, dtype=torch.float64):
    """Steps on this rank's rows; losses of the global batch, and the optimiser."""
    optimizer = optimizer or torch.optim.AdamW(module.parameters(), lr=0.01)
    module.eval()  # normalise with running statistics, so that ranks need not see each other's rows
    losses = []
    for step in steps:
        x, y = global_batch(step, dtype)
        mine = slice(BATCH * world.rank // world.size, BATCH * (world.rank + 1) // world.size)
        optimizer.zero_grad()
        parts = list(zip(x[mine].split(micro), y[mine].split(micro), strict=True))
        total = torch.zeros((), dtype=torch.float64)
        for index, (x_part, y_part) in enumerate(parts):
            with nullcontext() if index == len(parts) - 1 else accumulating(module):
                loss = ((module(x_part) - y_part) ** 2).mean()
                (loss * len(x_part) * world.size / BATCH).backward()
            total += loss.detach().double() * len(x_part) / BATCH
        optimizer.step()
        losses.append(float(world.sum(total)))
    return losses, optimizer


def digest(state: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()


def alone() -> World:
    return World(0, 1, 0, torch.device("cpu"))


# --- DDP ------------------------------------------------------------------------------------------------------------


def _losses(world: World, micro: int) -> list[float]:
    return train(parallel(net(), world), world, range(8), micro=micro)[0]


@pytest.mark.parametrize("ranks", [2, 4, 5], ids="{} ranks".format)
def test_any_number_of_ranks_gives_the_same_losses(together, ranks: int) -> None:
    """Five ranks hold uneven rows; micro-batches of two are added up."""
    expected, _ = train(net(), alone(), range(8))
    for micro in (BATCH, 2) if ranks == 2 else (2,):
        for losses in together(ranks, _losses, micro):
            np.testing.assert_allclose(losses, expected, rtol=1e-12)


def _interrupted(world: World, micro: int) -> tuple[str, str]:
    whole = parallel(net(torch.float32), world)
    train(whole, world, range(6), micro=micro, dtype=torch.float32)
    first = parallel(net(torch.float32), world)
    _, optimizer = train(first, world, range(3), micro=micro, dtype=torch.float32)
    second = parallel(net(torch.float32), world)
    load_full_state(second, {name: tensor.clone() for name, tensor in full_state(first).items()})
    resumed = torch.optim.AdamW(second.parameters(), lr=0.01)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, world, range(3, 6), optimizer=resumed, micro=micro, dtype=torch.float32)
    return digest(full_state(whole)), digest(full_state(second))


@pytest.mark.parametrize("micro", [BATCH, 2])
def test_a_resumed_run_repeats_the_bits_of_an_uninterrupted_one(together, micro: int) -> None:
    """On four ranks the order of adding counts, so DDP must lay out its buckets the same from the first step on."""
    digests = together(4, _interrupted, micro)
    assert len({each for pair in digests for each in pair}) == 1


def _beginnings(world: World) -> dict[str, object]:
    module = net()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += world.rank
    before, random = module.state_dict()["1.running_mean"].clone(), torch.get_rng_state()
    wrapped = parallel(module, world)
    return {
        "weights": digest(full_state(wrapped)),
        "running": torch.equal(before, module.state_dict()["1.running_mean"]),
        "random": torch.equal(random, torch.get_rng_state()),
        "gradients": [parameter.grad for parameter in module.parameters()] == [None] * 12,
        "forward": wrapped(torch.zeros(2, 9, dtype=torch.float64)).shape == (2, 4),
        "names": list(full_state(wrapped)) == list(net().state_dict()),
        "same": bare(wrapped) is module,
    }


def test_wrapping_gives_all_rank_0s_weights_and_moves_nothing_else(together) -> None:
    first, second = together(2, _beginnings)
    assert first.pop("weights") == second.pop("weights") == digest(net().state_dict())
    assert all(first.values()) and all(second.values())


def _running(world: World) -> list[float]:
    wrapped = parallel(net(), world).train()
    for _ in range(2):
        wrapped(torch.full((3, 9), float(world.rank), dtype=torch.float64) + torch.eye(3, 9))
    before = bare(wrapped)[1].running_mean.sum().item()
    share_buffers(wrapped, world)
    return [before, bare(wrapped)[1].running_mean.sum().item()]


def test_before_an_evaluation_all_ranks_get_rank_0s_statistics(together) -> None:
    (first, shared), (second, shared_too) = together(2, _running)
    assert first != second and first == shared == shared_too


def test_a_world_of_one_is_not_wrapped() -> None:
    module = net()
    assert parallel(module, alone()) is module
    with accumulating(module):
        share_buffers(module, alone())
    assert torch.equal(full_state(module)["0.weight"], module[0].weight)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda state: state.pop("0.bias"), r"0\.bias is missing in it"),
        (lambda state: state.update(extra=torch.ones(1)), r"extra is not in the model"),
        (
            lambda state: state.update({"0.bias": torch.ones(3)}),
            r"0\.bias has shape \[3\] in it and \[16\] in the model",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(change, text: str) -> None:
    module, state = net(), {name: tensor + 1 for name, tensor in net().state_dict().items()}
    change(state)
    with pytest.raises(CheckpointError, match=text):
        load_full_state(module, state)
    assert digest(module.state_dict()) == digest(net().state_dict())


# --- FSDP -----------------------------------------------------------------------------------------------------------


def _sharded(world: World, start: dict[str, Tensor]) -> dict[str, object]:
    parallels._BLOCK_PARAMETERS = 200  # so that the blocks of the small net are divided one by one
    module = parallel(net(), world, kind="fsdp")
    load_full_state(module, start)
    held = sum(parallels.local(parameter).numel() for parameter in module.parameters())
    losses, optimizer = train(module, world, range(8), micro=2)
    again = parallel(net(), world, kind="fsdp")
    load_full_state(again, _from_rank_0(world, full_state(module)))
    resumed = torch.optim.AdamW(again.parameters(), lr=0.01)
    moments = {f"{n}.{k}": v for n, each in optimizer.state_dict()["state"].items() for k, v in each.items()}
    whole = _from_rank_0(world, full(moments))
    for number, parameter in enumerate(again.parameters()):
        resumed.state[parameter] = {
            k: like(whole[f"{number}.{k}"], v) for k, v in optimizer.state_dict()["state"][number].items()
        }
    more, _ = train(module, world, range(8, 10), optimizer=optimizer)
    more_again, _ = train(again, world, range(8, 10), optimizer=resumed)
    state = full_state(module)
    return {
        "share": held / sum(p.numel() for p in net().parameters()),
        "losses": [*losses, *more],
        "again": more_again,
        "more": more,
        "state": {name: tensor.numpy() for name, tensor in state.items()},
        "moments": {name: tensor.shape for name, tensor in full(moments).items()},
    }


class Wrapped(nn.Module):
    """As the engine wraps a learner: training calls it, an evaluation calls the module inside."""

    def __init__(self, learned: nn.Module):
        super().__init__()
        self.learned = learned

    def forward(self, x: Tensor) -> Tensor:
        return self.learned(x)


def _evaluated(world: World) -> dict[str, object]:
    parallels._BLOCK_PARAMETERS = 200
    learned = net()
    module = parallel(Wrapped(learned), world, kind="fsdp")
    _, optimizer = train(module, world, range(3))
    x, _ = global_batch(9, torch.float64)
    outputs = []
    for _ in range(2):
        with gathered(module), torch.no_grad():
            outputs.append(learned(x).tolist())
        train(module, world, range(3, 4), optimizer=optimizer)
    whole = _from_rank_0(world, full_state(learned))
    plain = net().eval()
    load_full_state(plain, whole)
    with gathered(module), torch.no_grad():
        return {"before": outputs[0], "after": learned(x).tolist(), "plain": plain(x).tolist()}


def test_a_part_of_a_divided_model_can_be_evaluated(together) -> None:
    first, second = together(2, _evaluated)
    assert first == second and first["before"] != first["after"]
    np.testing.assert_allclose(first["after"], first["plain"], rtol=1e-12)


def _from_rank_0(world: World, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As if every rank read what rank 0 saved."""
    plain = world.share({name: (tensor.tolist(), str(tensor.dtype)[6:]) for name, tensor in state.items()})
    return {name: torch.tensor(values, dtype=getattr(torch, dtype)) for name, (values, dtype) in plain.items()}


def test_divided_parameters_train_as_whole_ones(together) -> None:
    start = {
        name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in net().state_dict().items()
    }
    reference = net()
    load_full_state(reference, start)
    expected, optimizer = train(reference, alone(), range(10))
    first, second = together(2, _sharded, start)
    assert first["share"] < 0.6 and second["state"] == {} == second["moments"]
    for one in (first, second):
        np.testing.assert_allclose(one["losses"], expected, rtol=1e-12)
        assert one["again"] == one["more"]
    for name, tensor in reference.state_dict().items():
        np.testing.assert_allclose(first["state"][name], tensor.numpy(), rtol=1e-9, atol=1e-12)
    assert first["moments"]["0.exp_avg"] == optimizer.state_dict()["state"][0]["exp_avg"].shape


# --- running statistics ---------------------------------------------------------------------------------------------


def _averaged(world: World) -> tuple[list[list[float]], list[list[float]], int]:
    """Running statistics of this rank after three batches of its own, before and after they are averaged; batches seen."""
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)).double()
    generator = torch.Generator().manual_seed(world.rank)
    for _ in range(3 + world.rank):
        module(torch.randn(4, 2, generator=generator, dtype=torch.float64) * (1 + world.rank))
    before = [buffer.flatten().tolist() for buffer in parallels.statistics(module)]
    average_statistics(module, world)
    return (
        before,
        [buffer.flatten().tolist() for buffer in parallels.statistics(module)],
        int(module[1].num_batches_tracked),
    )


def test_running_statistics_become_the_mean_over_ranks(together):
    found = together(3, _averaged)
    wanted = np.mean([before for before, _, _ in found], axis=0)
    for before, after, batches in found:
        assert not np.allclose(before, wanted)
        assert np.array(after) == pytest.approx(wanted, rel=1e-12)
        assert batches == 3  # rank 0's


def test_alone_running_statistics_stay_as_they_are():
    module = nn.BatchNorm1d(3)
    module(torch.randn(4, 3))
    before = module.running_mean.clone()
    average_statistics(module, alone())
    assert torch.equal(module.running_mean, before)
    assert parallels.flat_statistics(nn.Linear(2, 2)) is None
