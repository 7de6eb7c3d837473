"""One optimiser step: micro-batches, mixed precision, clipping, averages and a guard against numbers that are none.

Nothing here waits for the device: losses stay tensors until somebody logs them.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from instar.engine import faults
from instar.engine.optimise import Ema, Optimise
from instar.engine.order import key_of
from instar.engine.parallel import accumulating
from instar.networks import Learner
from instar.plan import Plan, Progress

Batch = dict[str, Any]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Forward(nn.Module):
    """`learner.losses` as the forward of a module, which is what DDP, FSDP and torch.compile can wrap."""

    def __init__(self, learner: Learner):
        super().__init__()
        self.learned = learner.module
        self._losses = learner.losses

    def forward(self, batch: Batch, progress: Progress) -> Mapping[str, Tensor]:
        return self._losses(batch, progress)


class Totals:
    """Row-weighted sums of the losses since the last log line, kept on the device."""

    def __init__(self, device: torch.device):
        self.names: tuple[str, ...] = ()
        self.sums = torch.zeros(0, dtype=torch.float64, device=device)
        self.rows = 0

    def add(self, losses: Mapping[str, Tensor], rows: int) -> Tensor:
        """Count `rows` rows with these mean losses; returns them as one vector."""
        vector = torch.stack([value.detach() for value in losses.values()])
        if len(losses) != len(self.names):
            self.names = tuple(losses)
            self.sums = torch.zeros(len(self.names), dtype=torch.float64, device=vector.device)
        self.sums.add_(vector, alpha=rows)
        self.rows += rows
        return vector

    def clear(self) -> None:
        self.sums.zero_()
        self.rows = 0


class Stepper:
    """Takes steps on one rank. The gradient after a step is that of the mean loss over the global batch."""

    def __init__(
        self,
        learner: Learner,
        forward: nn.Module,
        optimise: Optimise,
        *,
        plan: Plan,
        rank: int,
        ema: Ema | None = None,
    ):
        self.learner = learner
        self.forward = forward
        self.optimise = optimise
        self.ema = ema
        self.plan = plan
        self.micro = plan.micro
        self.device = torch.device(plan.device)
        self.totals = Totals(self.device)
        self._rank = rank
        self._recent: list[tuple[int, Tensor]] = []
        self._autocast = autocast(plan.precision, self.device)

    def take(self, batch: Batch, progress: Progress) -> None:
        """Forward, backward and update for this rank's rows of the step at `progress`."""
        seed_generators(self.device, self.plan.seed, progress.samples, self._rank)
        self.optimise.zero()
        rows = len(batch["row"])
        for part, last in _parts(batch, rows, self.micro):
            part_rows = len(part["row"])
            with nullcontext() if last else accumulating(self.forward):
                self._one(part, part_rows, progress)
        norm = self.optimise.step()
        if norm is not None:
            self._recent.append((progress.samples, norm.detach().reshape(1)))
        if self.ema is not None:
            self.ema.update(progress.step)
        self.learner.after_step(progress)

    def _one(self, part: Batch, rows: int, progress: Progress) -> None:
        with self._autocast():
            losses = self.forward(part, progress)
        total = losses["total"]
        if faults.point("step.loss") == "nan":
            total = total * float("nan")
            losses = {**losses, "total": total}
        share = rows * self.plan.devices / self.plan.batch
        self.optimise.backward(total if share == 1.0 else total * share)
        faults.point("step.backward")
        self._recent.append((progress.samples, self.totals.add(losses, rows)))

    def first_not_finite(self) -> int | None:
        """The position of the first step since the last call whose loss or gradient was not finite, else None.

        Waits for the device, so it is asked at log lines, before saves and when ranks agree, not at every step.
        """
        recent, self._recent = self._recent, []
        if not recent:
            return None
        finite = torch.stack([torch.isfinite(values).all() for _, values in recent])
        if bool(finite.all()):
            return None
        return recent[int(torch.argmin(finite.int()))][0]

    def forget(self) -> None:
        """Drop what the last steps left behind, after a roll-back."""
        self._recent.clear()
        self.totals.clear()
        self.optimise.zero()

    def weights_are_finite(self) -> bool:
        """Whether every trained number may be saved."""
        tensors = [tensor for tensor in self.learner.module.state_dict().values() if tensor.is_floating_point()]
        return bool(
            torch.isfinite(torch.stack([norm.float() for norm in torch._foreach_norm(tensors, float("inf"))])).all()
        )


def seed_generators(device: torch.device, seed: int, samples: int, rank: int) -> None:
    """Make dropout and its like a function of (seed, position, rank), so that no generator needs saving."""
    key = key_of((seed, 2, samples, rank)) >> 1
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(key)


def autocast(precision: str, device: torch.device) -> "type[AbstractContextManager[Any]]":
    """A maker of contexts for this precision."""
    if precision == "fp32":
        return nullcontext
    dtype = _DTYPES[precision]
    return lambda: torch.autocast(device.type, dtype)  # type: ignore[return-value]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device; copies overlap with work where memory is pinned."""
    if device.type == "cpu":
        return batch
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _parts(batch: Batch, rows: int, micro: int) -> Iterator[tuple[Batch, bool]]:
    """The batch in micro-batches of near-equal size, and whether each is the last."""
    if rows <= micro:
        yield batch, True
        return
    count = -(-rows // micro)
    for index in range(count):
        part = slice(rows * index // count, rows * (index + 1) // count)
        cut = {name: value[part] if isinstance(value, Tensor) else value for name, value in batch.items()}
        yield cut, index == count - 1
