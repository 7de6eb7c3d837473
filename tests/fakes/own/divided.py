"""A module whose weights lie in parts on the ranks (FSDP2), as Lightning's documentation has it."""

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed.fsdp import FSDPModule, fully_shard

from tests.fakes.own.baseline import Small

StrategyRegistry.register("divided", ModelParallelStrategy, "by name", data_parallel_size=2, tensor_parallel_size=1)


class Divided(Small):
    def make_network(self):
        layers = [torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 32), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers, torch.nn.Dropout(0.2), torch.nn.Linear(32, 10))

    def configure_model(self):
        if not isinstance(self.network, FSDPModule):
            fully_shard(self.network, mesh=self.device_mesh["data_parallel"])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)
