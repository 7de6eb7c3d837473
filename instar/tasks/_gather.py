"""Gather: the rows of all ranks on every rank, with gradients for one's own.

Legend: R rows of this rank, N rows of all, D features.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def everybody(own_RD: Tensor, *, batch: int) -> Tensor:
    """The rows of all ranks, in order of rank, N x D. In a world of one, what was given.

    batch   N. Ranks may hold one row more or less than others, as the loader divides a batch

    Every rank then computes the same loss, and only needs the gradient of its own rows: nothing is sent backwards. That
    gradient is scaled so that the mean over ranks of gradients, each weighed by its rank's share of the batch, is the
    gradient of the loss - which is how a step adds ranks up (engine/step.py, DDP).
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own_RD
    gathered: Tensor = _Everybody.apply(own_RD, batch)  # type: ignore[no-untyped-call]
    return gathered


def rows_of(rank: int, *, batch: int, world: int) -> tuple[int, int]:
    """The first row of a rank in a batch, and the one after its last."""
    return batch * rank // world, batch * (rank + 1) // world


class _Everybody(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own_RD: Tensor, batch: int) -> Tensor:
        rank, world = dist.get_rank(), dist.get_world_size()
        ctx.mine = rows_of(rank, batch=batch, world=world)
        ctx.factor = batch / (ctx.mine[1] - ctx.mine[0])
        most = -(-batch // world)
        padded = own_RD.new_zeros((most, *own_RD.shape[1:]))
        padded[: len(own_RD)] = own_RD
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        ends = [rows_of(one, batch=batch, world=world) for one in range(world)]
        return torch.cat([part[: end - begin] for part, (begin, end) in zip(parts, ends, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (grad_ND,) = grads
        begin, end = ctx.mine
        return grad_ND[begin:end] * ctx.factor, None
