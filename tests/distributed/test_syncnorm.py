"""BatchNorm over ranks is BatchNorm over all their rows: forward, backward and running statistics, in float64."""

import copy

import pytest
import torch
from torch import nn

from instar.engine.ranks.syncnorm import SyncedBatchNorm, convert
from instar.engine.ranks.world import World
from instar.errors import ConfigError

ROWS = (1, 4, 2)  # of the three ranks
EXACT = 1e-10


class ActivatedNorm(nn.BatchNorm2d):
    """Shaped like timm's BatchNormAct2d."""

    def __init__(self, features: int):
        super().__init__(features)
        self.drop = nn.Identity()
        self.act = nn.LeakyReLU(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


CASES = {
    "1d": (lambda: nn.BatchNorm1d(3), ()),
    "1d with length": (lambda: nn.BatchNorm1d(3, momentum=0.3), (5,)),
    "2d": (lambda: nn.BatchNorm2d(3, eps=1e-3), (4, 2)),
    "3d": (lambda: nn.BatchNorm3d(3), (2, 2, 2)),
    "not affine": (lambda: nn.BatchNorm2d(3, affine=False), (2, 2)),
    "average of all batches": (lambda: nn.BatchNorm2d(3, momentum=None), (2, 2)),
    "untracked": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (2, 2)),
    "activated": (lambda: ActivatedNorm(3), (2, 2)),
}


def _farthest(world: World) -> dict[str, dict[str, float]]:
    return {name: _compare(world, make(), shape) for name, (make, shape) in CASES.items()}


def _compare(world: World, whole: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """The largest differences to one process that has all rows, after three steps and in evaluation."""
    torch.manual_seed(3)
    whole.double()
    for parameter in whole.parameters():
        nn.init.normal_(parameter)
    ours = convert(nn.Sequential(copy.deepcopy(whole)), world)
    assert isinstance(ours[0], SyncedBatchNorm)
    assert list(ours.state_dict()) == [f"0.{name}" for name in whole.state_dict()]
    first = sum(ROWS[: world.rank])
    mine = slice(first, first + ROWS[world.rank])
    worst = {"output": 0.0, "input gradient": 0.0, "parameter gradient": 0.0}
    for _ in range(3):
        x = 100.0 + torch.randn(sum(ROWS), 3, *shape, dtype=torch.float64)  # a large mean, where sums of squares cancel
        weight = torch.randn_like(x)
        x_whole, x_mine = x.clone().requires_grad_(), x[mine].clone().requires_grad_()
        y_whole, y_mine = whole(x_whole), ours(x_mine)
        (y_whole * weight).sum().backward()
        (y_mine * weight[mine]).sum().backward()
        worst["output"] = max(worst["output"], far(y_whole[mine], y_mine))
        worst["input gradient"] = max(worst["input gradient"], far(x_whole.grad[mine], x_mine.grad))
        for expected, found in zip(whole.parameters(), ours.parameters(), strict=True):
            worst["parameter gradient"] = max(worst["parameter gradient"], far(expected.grad, world.sum(found.grad)))
    worst["running"] = max([0.0, *map(far, whole.buffers(), ours.buffers())])
    whole.eval()
    ours.eval()
    worst["evaluation"] = far(whole(x[mine]), ours(x[mine]))
    return worst


def far(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected.detach().double() - found.detach().double()).abs().max())


def test_statistics_and_gradients_are_those_of_one_process_with_all_rows(together) -> None:
    for differences in together(3, _farthest):
        for name, each in differences.items():
            assert max(each.values()) < EXACT, f"{name}: {each}"


def _in_pairs(world: World) -> list[float]:
    norm = convert(nn.BatchNorm1d(1, affine=False).double(), world, group_size=2)
    x = torch.tensor([[float(world.rank)]], dtype=torch.float64)
    norm(x)
    return [float(norm.running_mean) / 0.1, float(convert(nn.BatchNorm1d(1), world, group_size=1) is not None)]


def test_groups_of_consecutive_ranks_see_their_own_rows(together) -> None:
    means = [value[0] for value in together(4, _in_pairs)]
    assert means == pytest.approx([0.5, 0.5, 2.5, 2.5])


def test_a_world_of_one_keeps_its_layers() -> None:
    world = World(0, 1, 0, torch.device("cpu"))
    module = nn.Sequential(nn.BatchNorm1d(2))
    assert convert(module, world) is module and isinstance(module[0], nn.BatchNorm1d)


class Strange(nn.BatchNorm1d):
    pass


def _strange(world: World) -> str:
    with pytest.raises(ConfigError) as caught:
        convert(nn.Sequential(Strange(2)), world)
    with pytest.raises(ConfigError):
        convert(nn.BatchNorm1d(2), world, group_size=3)
    return str(caught.value)


def test_what_cannot_be_converted_is_named(together) -> None:
    assert set(together(2, _strange)) == {"Strange cannot be synchronised over ranks. Set train.sync_bn to false."}
