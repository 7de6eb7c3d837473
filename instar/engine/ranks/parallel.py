"""One model on many ranks: gradients averaged (DDP) or parameters divided (FSDP2), and the whole state of either.

DDP is set up so that a resumed run repeats an uninterrupted one bit for bit. A sum over three or more ranks depends on
the order of adding, which depends on where a gradient lies in its bucket; and DDP lays its buckets out anew after its
first step. An uninterrupted run then adds in one order, a run resumed in between in another. So the first step, the one
that lays out, is a step on nothing, taken at every start.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from instar.engine.ranks.world import World
from instar.errors import CheckpointError

# Blocks with fewer parameters than this are gathered together with what surrounds them.
_BLOCK_PARAMETERS = 1_000_000


def parallel(module: nn.Module, world: World, *, kind: Literal["ddp", "fsdp"] = "ddp") -> nn.Module:
    """A module whose backward leaves the mean of all ranks' gradients on every rank; `module` itself in a world of one.

    ddp     every rank holds the whole model
    fsdp    every rank holds a share of each parameter; make the optimiser after this call, for parameters change

    All ranks start with rank 0's numbers. Running statistics stay each rank's own until `share_buffers`.
    """
    if world.size == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    if kind == "fsdp":
        return _shard(module, world)
    # Not static_graph: it fails when the first step has several micro-batches (torch 2.14), and its buckets cannot be
    # laid out ahead. Buffers are not broadcast at each step: `share_buffers` gives the same numbers when they count.
    wrapped = DistributedDataParallel(
        module,
        device_ids=None if world.device.type == "cpu" else [world.device],
        gradient_as_bucket_view=True,
        **_without_buffers(),
    )
    _lay_out_buckets(wrapped)
    return wrapped


@contextmanager
def accumulating(module: nn.Module) -> Iterator[None]:
    """Within it, backward adds to this rank's own gradients: for all micro-batches of a step but the last."""
    if isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
        return
    set_sync = getattr(module, "set_requires_gradient_sync", lambda wanted: None)  # of FSDP's modules
    set_sync(False)
    try:
        yield
    finally:
        set_sync(True)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within it, parts of a sharded module can be called by themselves, as an evaluation does. Every rank must enter.

    module   what `parallel` returned

    Ranks may call them different numbers of times: nothing is sent before the end of the block.
    """
    sharded: list[Any] = [part for part in module.modules() if hasattr(part, "unshard")]
    for part in sharded:
        if part is not module:  # a block would be gathered anew at each call, which all ranks would have to make
            part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in sharded:
            if part is not module:
                part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def share_buffers(module: nn.Module, world: World) -> None:
    """Give every rank rank 0's buffers (running statistics): before every evaluation, so that all judge one model."""
    if world.size == 1:
        return
    for buffer in module.buffers():
        dist.broadcast(buffer, 0)


def average_statistics(module: nn.Module, world: World) -> None:
    """Give every rank the mean over ranks of each running statistic; other buffers become rank 0's.

    What MLPerf's DeepCAM does before every evaluation, so that all ranks' images count.
    """
    if world.size == 1:
        return
    whole = flat_statistics(module)
    if whole is not None:
        # In double precision, and as one vector: the order of adding, and so every bit, is that of each other start.
        wide = whole.double()
        dist.all_reduce(wide)
        put_statistics(module, (wide / world.size).to(whole.dtype))
    averaged = {id(buffer) for buffer in statistics(module)}
    for buffer in module.buffers():
        if id(buffer) not in averaged:
            dist.broadcast(buffer, 0)


def statistics(module: nn.Module) -> list[Tensor]:
    """The running means and variances of normalisation layers, in an order that only the module decides."""
    return [buffer for name, buffer in module.named_buffers() if name.endswith(("running_mean", "running_var"))]


def flat_statistics(module: nn.Module) -> Tensor | None:
    """`statistics` as one vector; None where there are none."""
    found = statistics(module)
    return torch.cat([buffer.flatten() for buffer in found]) if found else None


def put_statistics(module: nn.Module, vector: Tensor) -> None:
    """Put back what `flat_statistics` gave."""
    found = statistics(module)
    for buffer, part in zip(found, vector.split([buffer.numel() for buffer in found]), strict=True):
        buffer.copy_(part.view_as(buffer))


# --- whole states ---------------------------------------------------------------------------------------------------


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """The whole state by name, without any wrapper's prefix. Every rank must call it; rank 0's answer counts.

    Unsharded tensors are the live ones, not copies. Where the model is sharded, other ranks get an empty dict.
    """
    return full(bare(module).state_dict())


def load_full_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a whole state, which every rank must have, back into a module, sharded or not.

    Raises CheckpointError where names or shapes differ.
    """
    live = bare(module).state_dict()
    wrong = [name for name in live.keys() | state.keys() if _shape(live.get(name)) != _shape(state.get(name))]
    if wrong:
        raise CheckpointError(
            f"the checkpoint does not fit this model: {_difference(sorted(wrong)[0], live, state)}"
            f"{f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''}. Use the recipe it was trained with."
        )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(like(state[name], tensor))


def full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors for those that may be sharded, such as an optimiser's. Every rank must call it, in the same order.

    Where any was sharded, ranks other than 0 get an empty dict, so that only one of them holds a whole model.
    """
    if not any(_is_sharded(tensor) for tensor in tensors.values()):
        return dict(tensors)
    whole = {}
    for name, tensor in tensors.items():
        gathered: Any = cast(Any, tensor).full_tensor().detach().cpu() if _is_sharded(tensor) else tensor
        if dist.get_rank() == 0:
            whole[name] = gathered
    return whole


def like(tensor: Tensor, live: Tensor) -> Tensor:
    """A whole tensor as `live` wants it: this rank's share where that is sharded, else as it is."""
    if not _is_sharded(live):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    shared = cast(Any, live)
    # Every rank has the whole tensor already, so nothing is sent.
    return distribute_tensor(tensor.to(live.device), shared.device_mesh, shared.placements, src_data_rank=None)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor that may be sharded."""
    return cast(Any, tensor).to_local() if _is_sharded(tensor) else tensor


def bare(module: nn.Module) -> nn.Module:
    """The module without DDP around it."""
    return module.module if isinstance(module, DistributedDataParallel) else module


# --- setting up -----------------------------------------------------------------------------------------------------


def _without_buffers() -> dict[str, Any]:
    """The setting that keeps buffers where they are; torch 2.14 renamed it, and warns of the old name."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def _lay_out_buckets(wrapped: DistributedDataParallel) -> None:
    """Take a step on nothing: gradients of zero, in the same order at every start.

    The forward of the model is not run, so no running statistic moves and no random number is drawn.
    """
    module: Any = wrapped.module
    module.forward = lambda: 0.0 * sum(parameter.sum() for parameter in module.parameters() if parameter.requires_grad)
    try:
        wrapped().backward()
    finally:
        del module.forward  # the class's own shows again
    for parameter in module.parameters():
        parameter.grad = None


def _shard(module: nn.Module, world: World) -> nn.Module:
    """Divide the parameters of each large block, and of all the rest together, over the ranks."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), 0)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    _settle(module)
    return module


def _settle(module: nn.Module) -> None:
    """Call the whole on nothing, as FSDP wants it before a part is called: an evaluation may come before any step."""
    whole: Any = module
    whole.forward = lambda: None
    try:
        with torch.no_grad():
            whole()
    finally:
        del whole.forward  # the class's own shows again
    whole.reshard()


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Large members of sequences, innermost first.

    Only those, because they are sure to be called as modules; FSDP gathers a block's parameters when it is called, and
    some layers (attention) read the weights of their parts without calling them.
    """
    found = []
    for container in module.modules():
        if isinstance(container, nn.Sequential | nn.ModuleList):
            for child in container.children():
                if sum(parameter.numel() for parameter in child.parameters()) >= _BLOCK_PARAMETERS:
                    found.append(child)
    return list(dict.fromkeys(reversed(found)))


def _is_sharded(tensor: Tensor) -> bool:
    # Importing DTensor takes more than a second, and nothing can be one before somebody did.
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _difference(name: str, live: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    if name not in state:
        return f"{name} is missing in it"
    if name not in live:
        return f"{name} is not in the model"
    return f"{name} has shape {list(state[name].shape)} in it and {list(live[name].shape)} in the model"
