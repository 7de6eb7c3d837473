"""Batch normalisation over the rows of several ranks, on the CPU too (torch's own SyncBatchNorm wants a GPU).

Statistics and gradients are those of one process with all rows, however unevenly the rows are spread; the ranks' means
and squared deviations are combined by Chan et al. 1979, so that nothing cancels. Channels are dimension 1 of the input.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from instar.engine.ranks.world import World
from instar.errors import ConfigError

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def convert(module: nn.Module, world: World, *, group_size: int | None = None) -> nn.Module:
    """The module with every BatchNorm looking at the rows of `group_size` consecutive ranks; of all ranks for None.

    Names of parameters and buffers stay the same. Every rank must call it. On GPUs it is torch.nn.SyncBatchNorm.
    Raises ConfigError where the ranks cannot be divided like that, or a layer is of a kind that cannot be converted.
    """
    size = world.size if group_size is None else group_size
    if size == 1 or world.size == 1:
        return module
    group = world.neighbours(size)
    return _converted(module, group, on_gpu=world.device.type == "cuda")


def _converted(module: nn.Module, group: Any, *, on_gpu: bool) -> nn.Module:
    if isinstance(module, nn.SyncBatchNorm | SyncedBatchNorm):
        return module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if on_gpu and type(module) in _BATCH_NORMS:
            return nn.SyncBatchNorm.convert_sync_batchnorm(module, group)
        return SyncedBatchNorm(module, group)
    for name, child in list(module.named_children()):
        made = _converted(child, group, on_gpu=on_gpu)
        if made is not child:
            setattr(module, name, made)
    return module


class SyncedBatchNorm(nn.Module):
    """A BatchNorm whose statistics are those of all rows in a group of ranks. Takes over the tensors of `norm`.

    timm's layers that drop and activate after normalising keep doing so, with their own `drop` and `act`.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, group: Any):
        super().__init__()
        parts = dict(norm.named_children())
        if type(norm) not in _BATCH_NORMS and parts.keys() != {"drop", "act"}:
            raise ConfigError(f"{type(norm).__name__} cannot be synchronised over ranks. Set train.sync_bn to false.")
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(norm, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        for name, part in parts.items():
            self.add_module(name, part)
        self.parts = [name for name in ("drop", "act") if name in parts]
        self.num_features, self.eps, self.momentum = norm.num_features, norm.eps, norm.momentum
        self.group = group
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        output = self._normalise(input)
        for name in self.parts:
            output = self.get_submodule(name)(output)
        return output

    def _normalise(self, input: Tensor) -> Tensor:
        mean_C, var_C = self.running_mean, self.running_var
        if not self.training:
            return F.batch_norm(input, mean_C, var_C, self.weight, self.bias, mean_C is None, 0.0, self.eps)
        output, seen_mean_C, seen_var_C, count = _Normalise.apply(input, self.weight, self.bias, self.eps, self.group)
        if mean_C is not None and var_C is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            # Torch's own BatchNorm averages over all batches where it is given no momentum.
            share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            mean_C.lerp_(seen_mean_C.to(mean_C.dtype), share)
            var_C.lerp_((seen_var_C * (count / (count - 1))).to(var_C.dtype), share)
        return output

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, ranks={dist.get_world_size(self.group)}"


class _Normalise(torch.autograd.Function):
    """x -> (x - mean) / sqrt(var + eps) * weight + bias, over the rows of all ranks of a group.

    Gradients of weight and bias are those of this rank's rows; the optimiser's averaging sums them over the ranks.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float, group: Any) -> Any:  # noqa: PLR0917  # torch's
        wide = x.to(_accumulator(x.dtype))
        mean_C, var_C, count = _moments(wide, group)
        if count < 2:
            raise ValueError(
                f"batch normalisation needs more than one value a channel over all ranks: {tuple(x.shape)}"
            )
        scale_C = torch.rsqrt(var_C + eps)
        hat = (wide - _wide(mean_C, x)) * _wide(scale_C, x)
        output = hat if weight_C is None else hat * _wide(weight_C.to(hat.dtype), x)
        output = output if bias_C is None else output + _wide(bias_C.to(hat.dtype), x)
        ctx.save_for_backward(x, weight_C, mean_C, scale_C)
        ctx.count, ctx.group = count, group
        rows = torch.tensor(float(count), dtype=torch.float64, device=x.device)
        ctx.mark_non_differentiable(mean_C, var_C, rows)
        return output.to(x.dtype), mean_C, var_C, rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        x, weight_C, mean_C, scale_C = ctx.saved_tensors
        wide = grad.to(mean_C.dtype)
        hat = (x.to(mean_C.dtype) - _wide(mean_C, x)) * _wide(scale_C, x)
        over = [dimension for dimension in range(x.dim()) if dimension != 1]
        sum_C, product_C = wide.sum(over), (wide * hat).sum(over)
        grad_x = None
        if ctx.needs_input_grad[0]:
            both_2C = torch.cat([sum_C, product_C])
            dist.all_reduce(both_2C, group=ctx.group)
            mean_of_C, mean_of_product_C = (both_2C / ctx.count).chunk(2)
            inner = wide - _wide(mean_of_C, x) - hat * _wide(mean_of_product_C, x)
            factor_C = scale_C if weight_C is None else scale_C * weight_C.to(scale_C.dtype)
            grad_x = (inner * _wide(factor_C, x)).to(x.dtype)
        grad_weight_C = product_C.to(weight_C.dtype) if weight_C is not None else None
        grad_bias_C = sum_C.to(weight_C.dtype) if weight_C is not None and ctx.needs_input_grad[2] else None
        return grad_x, grad_weight_C, grad_bias_C, None, None


def _moments(x: Tensor, group: Any) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance of each channel over all ranks, and how many values a channel has."""
    over = [dimension for dimension in range(x.dim()) if dimension != 1]
    own = x.numel() // max(1, x.shape[1])
    if own:
        own_var_C, own_mean_C = torch.var_mean(x, over, correction=0)
    else:
        own_var_C = own_mean_C = x.new_zeros(x.shape[1])
    mine = torch.cat([own_mean_C, own_var_C, own_mean_C.new_tensor([float(own)])])
    everybody = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everybody, mine, group=group)
    table = torch.stack(everybody)
    count_R1 = table[:, -1:]
    mean_RC, var_RC = table[:, :-1].chunk(2, dim=1)
    count = float(count_R1.sum())
    mean_C = (mean_RC * count_R1).sum(0) / max(1.0, count)
    var_C = ((var_RC + (mean_RC - mean_C) ** 2) * count_R1).sum(0) / max(1.0, count)
    return mean_C, var_C, int(count)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _wide(vector_C: Tensor, x: Tensor) -> Tensor:
    """The vector with dimensions of one around it, to meet x of shape (B, C, ...)."""
    return vector_C.view(1, -1, *[1] * (x.dim() - 2))
