"""The state of an optimiser as tensors and JSON, and back, bit for bit.

`torch.optim.Optimizer.load_state_dict` casts state to the dtype of its parameter, which changes numbers (ASGD's `eta`
beside float64 weights). Here every tensor keeps its dtype; only its device and its memory order follow the parameter.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from instar.engine.checkpoint import exact_json
from instar.engine.ranks.parallel import like
from instar.errors import CheckpointError

# How a step is computed, not what: these belong to the machine of today, so the live optimiser keeps its own.
_MACHINE = frozenset({"foreach", "fused", "capturable", "differentiable"})


def flatten_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an optimiser by name, and all that is no tensor as plain JSON.

    Tensors are called `<parameter number>.<name>` or `group.<group number>.<name>`, and are not copied.
    Raises CheckpointError for state that is neither a tensor nor plain data.
    """
    packed = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    state = {}
    for number, entries in packed["state"].items():
        if plain := _divide(entries, f"{number}", tensors):
            state[str(number)] = plain
    groups = [_divide(group, f"group.{number}", tensors) for number, group in enumerate(packed["param_groups"])]
    return tensors, {"kind": type(optimizer).__name__, "state": state, "groups": groups}


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], json: dict[str, Any]) -> None:
    """Put back what `flatten_optimizer` took. The tensors are copied, so they may be a mapped file.

    Raises CheckpointError where the optimiser is of another kind, or its groups hold other numbers of parameters.
    """
    rest = exact_json.decode(json)
    _check_same(optimizer, rest)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    groups = [dict(group) for group in rest["groups"]]
    state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
    for number, plain in rest["state"].items():
        state[parameters[int(number)]].update(plain)
    for name, tensor in tensors.items():
        owner, _, key = name.partition(".")
        if owner == "group":
            index, _, key = key.partition(".")
            groups[int(index)][key] = _like_the_live(tensor, optimizer.param_groups[int(index)].get(key))
    for live, group in zip(optimizer.param_groups, groups, strict=True):
        group.update({key: live[key] for key in _MACHINE & live.keys()}, params=live["params"])
    on_device = [bool(group.get("fused") or group.get("capturable")) for group in groups for _ in group["params"]]
    for name, tensor in tensors.items():
        owner, _, key = name.partition(".")
        if owner != "group":
            parameter = parameters[int(owner)]
            # Adam and its kin keep `step` on the host, unless the device itself reads it.
            host = key == "step" and not on_device[int(owner)]
            state[parameter][key] = _placed(tensor, parameter, "cpu" if host else parameter.device)
    optimizer.__setstate__({"state": state, "param_groups": groups})


def _divide(entries: dict[str, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Move the tensors among the entries to `tensors`; the rest as JSON."""
    plain = {}
    for key, value in entries.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}.{key}"] = value
        else:
            plain[key] = exact_json.encode(value, f"optimizer {prefix}.{key}")
    return plain


def _check_same(optimizer: Optimizer, rest: dict[str, Any]) -> None:
    if rest["kind"] != type(optimizer).__name__:
        raise CheckpointError(
            f"the checkpoint holds the state of {rest['kind']}, but the optimiser is {type(optimizer).__name__}. "
            f"Use the recipe it was trained with, or start a new run."
        )
    held = [len(group["params"]) for group in rest["groups"]]
    wanted = [len(group["params"]) for group in optimizer.param_groups]
    if held != wanted:
        raise CheckpointError(
            f"the checkpoint's optimiser has groups of {held} parameters, this model's has {wanted}. "
            f"The model is another one, or other layers are frozen."
        )


def _like_the_live(tensor: Tensor, live: Any) -> Tensor:
    return tensor.to(live.device if isinstance(live, Tensor) else "cpu", copy=True)


def _placed(tensor: Tensor, parameter: Tensor, device: torch.device | str) -> Tensor:
    """A copy on the device, in the memory order of the parameter where it has the parameter's shape; of a sharded one
    this rank's share.

    Sums over a tensor (LAMB's norms) run in memory order, so another order would be other bits.
    """
    if tensor.shape != parameter.shape:
        return tensor.to(device, copy=True)
    return torch.empty_like(parameter, dtype=tensor.dtype, device=device, requires_grad=False).copy_(
        like(tensor, parameter)
    )
