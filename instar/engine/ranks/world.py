"""World: the ranks that train together, and the few things they do together.

B, C … as elsewhere; R is the rows a rank holds. A world of one has no process group, and everything here is then free.
What ranks agree on goes over a group of its own, so that it never queues behind gradients.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from instar.engine import faults
from instar.engine.ranks import addresses, process, rendezvous
from instar.engine.ranks.exits import leave
from instar.engine.ranks.place import Place, find, here
from instar.engine.ranks.rendezvous import RankLost
from instar.errors import ConfigError

__all__ = ["Answer", "Place", "RankLost", "World", "find", "here", "join"]

Columns = dict[str, np.ndarray]

# A collective that takes longer is hopeless; the watchdog ends a run long before where a rank is gone.
_COLLECTIVE = timedelta(minutes=30)


@dataclass(frozen=True, eq=False)
class World:
    """The ranks that train together, seen from one of them. Made by `join`; a context manager.

    device      this rank's own device
    store       shared by all ranks; None in a world of one
    processes   who the ranks are, in order of rank
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device
    store: dist.Store | None = None
    processes: tuple[process.Process, ...] = ()
    _control: Any = field(default=None, repr=False)

    def agree(self, flags: Sequence[float]) -> list[float]:
        """The largest value of each flag over all ranks, the same list on every rank. None may be NaN."""
        return self.ask(flags).result() if self.size > 1 else [float(flag) for flag in flags]

    def ask(self, flags: Sequence[float]) -> "Answer":
        """`agree` in two halves: asked now, and answered when `result()` is called, on every rank at the same place."""
        vector_F = torch.tensor(flags, dtype=torch.float64)
        if self.size == 1:
            return Answer(vector_F, None)
        return Answer(vector_F, dist.all_reduce(vector_F, dist.ReduceOp.MAX, group=self._control, async_op=True))

    def add(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over all ranks, the same list on every rank."""
        return self.sum(torch.tensor(numbers, dtype=torch.float64)).tolist() if self.size > 1 else list(numbers)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, on the tensor's device; exact for whole numbers, in a fixed order for others."""
        if self.size == 1:
            return tensor
        total = tensor.detach().to("cpu", copy=True).contiguous()
        dist.all_reduce(total, dist.ReduceOp.SUM, group=self._control)
        return total.to(tensor.device)

    def max(self, tensor: Tensor) -> Tensor:
        """The largest value over all ranks of each element, on the tensor's device."""
        if self.size == 1:
            return tensor
        largest = tensor.detach().to("cpu", copy=True).contiguous()
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._control)
        return largest.to(tensor.device)

    def share(self, value: Any) -> Any:
        """Rank 0's value on every rank; it must be made of what JSON knows."""
        if self.size == 1:
            return value
        data = np.frombuffer(json.dumps(value).encode() if self.rank == 0 else b"", np.uint8)
        length = int(self.max(torch.tensor([len(data)]))[0])
        buffer = torch.from_numpy(data.copy()) if self.rank == 0 else torch.empty(length, dtype=torch.uint8)
        dist.broadcast(buffer, 0, group=self._control)
        return json.loads(buffer.numpy().tobytes())

    def gather_rows(self, columns: Mapping[str, np.ndarray]) -> Columns:
        """The rows of all ranks, in order of rank, on rank 0; an empty dict on the others.

        columns   arrays of numbers with R rows each; a rank without rows may lack columns that others have
        """
        if self.size == 1:
            return dict(columns)
        mine = {name: np.require(column, requirements=["C", "W"]) for name, column in columns.items()}
        for name, column in mine.items():
            assert column.dtype.kind in "biufc", f"column {name!r} holds {column.dtype}, which is no number"
        layouts = self._layouts(mine)
        layout = _common(layouts)
        if self.rank != 0:
            for name in layout if layouts[self.rank]["rows"] else {}:
                dist.send(_bytes(mine[name]), 0, group=self._control)
            return {}
        parts: list[Columns] = [mine] if layouts[0]["rows"] else []
        for rank in range(1, self.size):
            if rows := layouts[rank]["rows"]:
                part = {name: np.empty((rows, *shape), np.dtype(dtype)) for name, (dtype, shape) in layout.items()}
                for column in part.values():
                    dist.recv(_bytes(column), rank, group=self._control)
                parts.append(part)
        parts = parts or [{name: np.empty((0, *shape), np.dtype(dtype)) for name, (dtype, shape) in layout.items()}]
        return {name: np.concatenate([part[name] for part in parts]) for name in layout}

    def barrier(self, timeout: float = 600.0, *, what: str = "this point") -> None:
        """Wait until every rank is here.

        Raises RankLost naming those that were not within `timeout` seconds.
        """
        if self.size == 1:
            return
        try:
            dist.monitored_barrier(self._control, timedelta(seconds=timeout), wait_all_ranks=True)
        except RuntimeError as error:
            raise RankLost(f"not every rank reached {what} within {timeout:g} s: {error}") from error

    def neighbours(self, size: int) -> Any:
        """A process group of `size` consecutive ranks that this rank belongs to. Every rank must call it.

        Raises ConfigError where the ranks cannot be divided like that.
        """
        if size < 1 or self.size % size:
            raise ConfigError(
                f"{self.size} ranks cannot be divided into groups of {size}: write a divisor of {self.size}."
            )
        groups = [dist.new_group(list(range(first, first + size))) for first in range(0, self.size, size)]
        return groups[self.rank // size]

    def leave(self, code: int) -> int:
        """End this process with `code` where there are other ranks; a world of one gets the code back.

        Process groups are not torn down: doing so can hang on a rank that is gone, and has hidden exit codes.
        """
        if self.size > 1:
            leave(code)
        return code

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing: groups live as long as the process, see `leave`."""

    def _layouts(self, columns: Columns) -> list[dict[str, Any]]:
        """Rows, types and shapes of every rank's columns, on every rank."""
        rows = len(next(iter(columns.values()))) if columns else 0
        assert all(len(column) == rows for column in columns.values()), "columns of one rank differ in length"
        mine = {"rows": rows, "columns": {n: [c.dtype.str, list(c.shape[1:])] for n, c in columns.items()}}
        text = json.dumps(mine).encode()
        length = int(self.max(torch.tensor([len(text)]))[0])
        padded = torch.from_numpy(np.frombuffer(text.ljust(length), np.uint8).copy())
        everybody = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(everybody, padded, group=self._control)
        return [json.loads(one.numpy().tobytes()) for one in everybody]


class Answer:
    """What ranks agreed on, perhaps still on its way."""

    def __init__(self, vector_F: Tensor, work: Any):
        self._vector_F = vector_F
        self._work = work

    def result(self) -> list[float]:
        if self._work is not None:
            self._work.wait()
            self._work = None
        return [float(value) for value in self._vector_F]


def join(place: Place, *, folder: Path, device: str | torch.device = "cpu", timeout: float = 300.0) -> World:
    """Find the other ranks and form a group with them.

    folder    where rank 0 publishes its address: the run folder, or any other that all ranks see
    device    'cpu', 'cuda' (this rank's own, by its local rank) or a device by number
    timeout   seconds to wait for the others to start

    Raises RankLost naming who did not come.
    """
    faults.arm(os.environ.get("INSTAR_FAULT", ""), place.rank)
    if place.world == 1:
        return World(0, 1, 0, _own_device(device, 0), processes=(process.me(),))
    folder.mkdir(parents=True, exist_ok=True)
    store = rendezvous.open_store(place, folder=folder, timeout=timeout)
    everybody = rendezvous.gather(store, place, _introduction(store), timeout=timeout)
    _choose_interface(everybody, place.rank)
    local_rank = place.local_rank if place.local_rank is not None else _count_local(everybody, place.rank)
    own = _own_device(device, local_rank)
    control = _form_groups(place, store, own)
    rendezvous.withdraw(place, folder=folder)
    processes = tuple(process.named_in(one) or process.me() for one in everybody)
    return World(place.rank, place.world, local_rank, own, store, processes, control)


def _form_groups(place: Place, store: dist.Store, device: torch.device) -> Any:
    """Make the group for gradients, and return the one for everything else."""
    try:
        dist.init_process_group(
            "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=dist.PrefixStore("group", store),
            rank=place.rank,
            world_size=place.world,
            timeout=_COLLECTIVE,
        )
        return dist.new_group(backend="gloo", timeout=_COLLECTIVE)
    except RuntimeError as error:
        said = str(error).partition("\n")[0][:300]
        raise RankLost(f"the ranks found each other, but rank {place.rank} could not connect to all: {said}") from error


def _introduction(store: dist.Store) -> dict[str, Any]:
    """Who we are, and which of our addresses leads to rank 0."""
    host = getattr(store, "host", "")
    address = addresses.towards(host) if addresses.is_numeric(host) else addresses.first()
    return {**process.me().facts(), "net": _network(), "address": address}


def _choose_interface(everybody: list[dict[str, Any]], rank: int) -> None:
    """Tell gloo which interface leads to the others; left alone it asks what the host name means, which may hang.

    Set for the life of the process, because groups that are made later read it again.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    mine = everybody[rank]
    others = [one for one in everybody if (one["host"], one["net"]) != (mine["host"], mine["net"])]
    if not others:
        name = addresses.loopback()
    else:
        address = mine["address"]
        if rank == 0 or address is None:
            reachable = [towards for one in others if one["address"] and (towards := addresses.towards(one["address"]))]
            address = reachable[0] if reachable else None
        name = addresses.interface_of(address) if address else None
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _count_local(everybody: list[dict[str, Any]], rank: int) -> int:
    """How many ranks before this one run on the same machine."""
    mine = everybody[rank]
    return sum((one["host"], one["boot"]) == (mine["host"], mine["boot"]) for one in everybody[:rank])


def _own_device(device: str | torch.device, local_rank: int) -> torch.device:
    wanted = torch.device(device)
    if wanted.type != "cuda":
        return wanted
    # Where the scheduler shows each rank one device only, that one is number 0 whatever the local rank.
    index = wanted.index if wanted.index is not None else local_rank % max(1, torch.cuda.device_count())
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _common(layouts: list[dict[str, Any]]) -> dict[str, Any]:
    """The columns of the ranks that have rows, which must be the same; without any rows, of the one that names most."""
    with_rows = [layout["columns"] for layout in layouts if layout["rows"]]
    assert all(columns == with_rows[0] for columns in with_rows), f"ranks hold different columns: {with_rows}"
    return max(with_rows[:1] or [layout["columns"] for layout in layouts], key=len)


def _bytes(array: np.ndarray) -> Tensor:
    """The array's own memory as bytes, for sending and receiving in place."""
    return torch.from_numpy(array.reshape(-1).view(np.uint8))


def _network() -> str:
    """Which network this process is in; containers of one machine may each have their own."""
    try:
        return str(Path("/proc/self/ns/net").readlink())
    except OSError:
        return ""
