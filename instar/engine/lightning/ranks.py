"""The ranks that Instar found and joined, as Lightning is told of them."""

import socket
from typing import Any

import torch
from lightning.pytorch.plugins.environments import ClusterEnvironment

from instar.engine.ranks.world import World
from instar.errors import ConfigError


class Ranks(ClusterEnvironment):
    """The ranks that Instar has found and joined already.

    A rank that is alone has joined nobody: a strategy of many (`ddp`) then meets itself at a free port of this machine.
    """

    def __init__(self, world: World, *, local_rank: int, node_rank: int):
        super().__init__()
        self._world, self._local_rank, self._node_rank = world, local_rank, node_rank
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])

    creates_processes_externally = True
    main_address = "127.0.0.1"

    @property
    def main_port(self) -> int:
        return self._port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._world.size

    def set_world_size(self, size: int) -> None:
        assert size == self._world.size, f"Lightning counts {size} ranks, there are {self._world.size}"

    def global_rank(self) -> int:
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._world.rank, f"Lightning calls rank {self._world.rank} {rank}"

    def local_rank(self) -> int:
        return self._local_rank

    def node_rank(self) -> int:
        return self._node_rank


def places(world: World) -> tuple[Any, int, Ranks]:
    """Devices a node, nodes, and the environment that says so."""
    hosts = [(one.host, one.boot) for one in world.processes]
    nodes = list(dict.fromkeys(hosts))
    local = max(1, len(hosts) // max(1, len(nodes)))
    if world.device.type == "cuda" and torch.cuda.device_count() < local:
        # The scheduler shows each rank its own device only: to Lightning every rank is then a node of one.
        return 1, world.size, Ranks(world, local_rank=0, node_rank=world.rank)
    if local * len(nodes) != world.size:
        raise ConfigError(f"Lightning needs equally many ranks on each node, found {world.size} on {len(nodes)}")
    node = nodes.index(hosts[world.rank]) if hosts else 0
    return local, max(1, len(nodes)), Ranks(world, local_rank=world.local_rank, node_rank=node)
