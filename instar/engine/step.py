"""One optimiser step: micro-batches, mixed precision, clipping, averages and a guard against numbers that are none.

Nothing here waits for the device: losses stay tensors until somebody logs them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from instar.engine import faults
from instar.engine.loading.order import key_of
from instar.engine.optimise import Ema, Optimise
from instar.engine.ranks.parallel import accumulating, local
from instar.networks import Learner
from instar.plan import Plan, Progress

Batch = dict[str, Any]

_AS_IT_IS = nullcontext()
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
    """Row-weighted sums of the losses since the last log line, and where the first of them was not finite.

    A step only leaves its losses here, on the device. They are added up in the order of the steps when somebody asks:
    one transfer for all of them, where adding on the device would launch work at every step.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.rows = 0
        self._sums: list[float] = []
        self._waiting: list[Tensor] = []
        self._steps: list[tuple[int, int]] = []  # position and rows of what waits
        self._bad: int | None = None

    def add(self, losses: Mapping[str, Tensor], rows: int, *, position: int) -> None:
        """Count `rows` rows of the step at `position` with these mean losses."""
        if len(losses) != len(self.names):
            self.names = tuple(losses)
            self.sums = torch.zeros(len(losses), dtype=torch.float64)
        self._waiting += [value.detach() for value in losses.values()]
        self._steps.append((position, rows))
        self.rows += rows

    @property
    def sums(self) -> Tensor:
        """One float64 number for each name."""
        return torch.tensor(self.with_rows()[:-1], dtype=torch.float64)

    @sums.setter
    def sums(self, sums_S: Tensor) -> None:
        self._forget_waiting()
        self._sums = sums_S.tolist()

    def first_not_finite(self) -> int | None:
        """The position of the first step since the last call with a loss that was not finite, else None."""
        self._settle()
        bad, self._bad = self._bad, None
        return bad

    def with_rows(self) -> list[float]:
        """The sums, and the number of rows after them."""
        self._settle()
        return [*self._sums, float(self.rows)]

    def clear(self) -> None:
        self._forget_waiting()
        self._sums = [0.0] * len(self.names)
        self._bad = None
        self.rows = 0

    def _settle(self) -> None:
        if not self._waiting:
            return
        values, width = torch.stack(_means(self._waiting)).tolist(), len(self._sums)
        for number, (position, rows) in enumerate(self._steps):
            for index in range(width):
                value = values[number * width + index]
                self._sums[index] += rows * value
                if self._bad is None and not math.isfinite(value):
                    self._bad = position
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._steps.clear()


def _means(waiting: list[Tensor]) -> list[Tensor]:
    """The scalars as they are, and the mean of each that has one number a row; rows of one length are taken at once."""
    means = list(waiting)
    alike: dict[tuple[int, torch.dtype], list[int]] = {}
    for index, value in enumerate(waiting):
        if value.ndim:
            alike.setdefault((len(value), value.dtype), []).append(index)
    for (_, dtype), indices in alike.items():
        rows = torch.stack([waiting[index] for index in indices])
        found = rows.mean(1, dtype=dtype if dtype.is_floating_point else torch.float32)
        for index, mean in zip(indices, found.unbind(), strict=True):
            means[index] = mean
    return means


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
        replayed: bool = False,
    ):
        self.learner = learner
        self.forward = forward
        self.optimise = optimise
        self.ema = ema
        self.plan = plan
        self.micro = plan.micro
        self.device = torch.device(plan.device)
        self.totals = Totals()
        self._rank = rank
        self._replayed = replayed
        self._key = key_of((plan.seed, 2))
        self._norms: list[tuple[int, Tensor]] = []
        self._autocast = autocast(plan.precision, self.device)

    def take(self, batch: Batch, progress: Progress) -> None:
        """Forward, backward and update for this rank's rows of the step at `progress`."""
        seed_generators(self.device, key_of((progress.samples, self._rank), after=self._key))
        self.optimise.zero()
        rows = batch["row"].numel()
        if rows <= self.micro:
            self._one(batch, rows, progress)
        else:
            for part, last in _parts(batch, rows, self.micro):
                with nullcontext() if last else accumulating(self.forward):
                    self._one(part, len(part["row"]), progress)
        norm = self.optimise.step()
        if norm is not None:
            self._norms.append((progress.samples, norm.detach()))
        if self.ema is not None:
            self.ema.update(progress.step)
        self.learner.after_step(progress)

    def _one(self, part: Batch, rows: int, progress: Progress) -> None:
        if self._replayed:
            torch.compiler.cudagraph_mark_step_begin()
        with self._autocast():
            losses = self.forward(part, progress)
        if self._replayed:  # the next replay writes over what this one gave
            losses = {name: value.clone() for name, value in losses.items()}
        total = losses["total"]
        if faults.point("step.loss") == "nan":
            total = total * float("nan")
            losses = {**losses, "total": total}
        share = rows * self.plan.devices / self.plan.batch
        self.optimise.backward(total if share == 1.0 else total * share)
        faults.point("step.backward")
        self.totals.add(losses, rows, position=progress.samples)

    def first_not_finite(self) -> int | None:
        """The position of the first step since the last call whose loss or gradient was not finite, else None.

        Waits for the device, so it is asked at log lines, before saves and when ranks agree, not at every step.
        """
        norms, self._norms = self._norms, []
        found = [] if (loss := self.totals.first_not_finite()) is None else [loss]
        if norms:
            lengths = torch.stack([norm for _, norm in norms]).tolist()
            found += [
                position for (position, _), length in zip(norms, lengths, strict=True) if not math.isfinite(length)
            ]
        return min(found, default=None)

    def forget(self) -> None:
        """Drop what the last steps left behind, after a roll-back."""
        self._norms.clear()
        self.totals.clear()
        self.optimise.zero()

    def weights_are_finite(self) -> bool:
        """Whether every trained number may be saved."""
        state = self.learner.module.state_dict()
        mine = [local(tensor) for tensor in state.values() if tensor.is_floating_point()]
        tensors = [tensor for tensor in mine if tensor.numel()]  # a small one may be wholly on other ranks
        return bool(
            torch.isfinite(torch.stack([norm.float() for norm in torch._foreach_norm(tensors, float("inf"))])).all()
        )


def seed_generators(device: torch.device, key: int) -> None:
    """Make dropout and its like a function of a key of (seed, position, rank), so that no generator needs saving."""
    torch.default_generator.manual_seed(key >> 1)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(key >> 1)


def autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """A maker of contexts for this precision."""
    if precision == "fp32":
        return lambda: _AS_IT_IS
    dtype = _DTYPES[precision]
    return lambda: torch.autocast(device.type, dtype)


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
    count = -(-rows // micro)
    for index in range(count):
        part = slice(rows * index // count, rows * (index + 1) // count)
        cut = {name: value[part] if isinstance(value, Tensor) else value for name, value in batch.items()}
        yield cut, index == count - 1
