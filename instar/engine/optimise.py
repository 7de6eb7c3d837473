"""The optimizer and what belongs around its step: rate, weight decay, scaling of losses, clipping of gradients."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from instar import plugins
from instar.engine.ema import Ema
from instar.plan import Progress

__all__ = ["Ema", "Optimise", "build", "doubts", "groups", "moving_decay", "rate", "set_decay", "set_rate"]


def groups(module: nn.Module, settings: Any) -> list[dict[str, Any]]:
    """The weights that learn, in groups with their weight decay, in an order that only the module decides.

    Biases, normalisation weights and what the network itself names (timm's `no_weight_decay`) are not decayed, unless
    `settings.decay_all`.
    """
    own: Callable[[], set[str]] = getattr(module, "no_weight_decay", set)
    spared = set() if settings.decay_all else set(own())
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            is_free = not settings.decay_all and (weight.ndim <= 1 or name in spared)
            (free if is_free else decayed).append(weight)
    both = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return [group for group in both if group["params"]]


def build(module: nn.Module, settings: Any) -> Optimizer:
    """The optimizer of a kind over the weights of `module` that learn."""
    return plugins.load("optimizers", settings.kind).build(settings, groups(module, settings))


class Optimise:
    """Steps of one optimizer over one module.

    settings    of the optimizer
    precision   "fp16" scales the loss, so that small gradients do not vanish, and skips steps that overflow
    device      kind of device the module is on
    """

    def __init__(self, module: nn.Module, settings: Any, *, precision: str = "fp32", device: str = "cpu"):
        self.optimizer = build(module, settings)
        self._weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self._limit: float | None = settings.clip
        self._scaler = torch.amp.GradScaler(torch.device(device).type) if precision == "fp16" else None

    def zero(self) -> None:
        """Forget the gradients."""
        for weight in self._weights:  # zero_grad does this and costs a step 10 us more
            weight.grad = None

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()

    def step(self) -> Tensor | None:
        """Take one step; gives the norm of the gradient before it was clipped, None where that means nothing.

        It means nothing without a limit, and under fp16, where gradients overflow now and then by design: such a step
        is left out, and the scale is halved.
        """
        if self._scaler is None:
            norm = self._clip()
            self.optimizer.step()
            return norm
        if self._limit is not None:
            self._scaler.unscale_(self.optimizer)  # a limit on scaled gradients would be 65,536 times too small
            self._clip()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return None

    def scaler_state(self) -> dict[str, Any]:
        """The state of the loss scale as plain numbers; {} where there is none."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Put back what `scaler_state` gave. The scale of another precision is nobody's, and left out."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(state)

    def _clip(self) -> Tensor | None:
        if self._limit is None:
            return None
        norm = nn.utils.clip_grad_norm_(self._weights, self._limit)
        whole = getattr(norm, "full_tensor", None)  # sharded weights know only their share of it
        return norm if whole is None else whole()


def rate(settings: Any, schedule: Any, progress: Progress, history: Sequence[float] = ()) -> float:
    """The learning rate of the step at `progress`: lr x schedule x warm-up.

    history   the watched score at every evaluation so far; more is better
    """
    return settings.lr * _factor(schedule.kind)(schedule, progress, history) * warmed(schedule, progress)


def set_rate(
    optimizer: Optimizer,
    settings: Any,
    schedule: Any,
    progress: Progress,
    history: Sequence[float] = (),
    *,
    scale: float = 1.0,
) -> float:
    """Put the rate of the step at `progress` into the optimizer, times `scale`, and give it back."""
    now = rate(settings, schedule, progress, history) * scale
    for group in optimizer.param_groups:
        group["lr"] = now
    return now


def moving_decay(settings: Any, schedule: Any) -> Callable[[Progress], float] | None:
    """The weight decay of the step at a progress: half a cosine to `schedule.decay_to`; None where it stands still.

    Without warm-up: Caron et al. 2021, https://arxiv.org/abs/2104.14294, appendix D; their `cosine_scheduler`.
    """
    begin, end = settings.weight_decay, schedule.decay_to
    if end is None:
        return None
    return lambda progress: end + (begin - end) * (1 + math.cos(math.pi * min(1.0, progress.share))) / 2


def set_decay(optimizer: Optimizer, now: float) -> float:
    """Put a weight decay into the groups that have one, and give it back."""
    for group in optimizer.param_groups:
        if group["weight_decay"]:  # never 0 where it moves: the recipe makes sure of both its ends
            group["weight_decay"] = now
    return now


def warmed(schedule: Any, progress: Progress) -> float:
    """The share of the rate that warm-up lets through: the first step has a share above 0, the last one has 1."""
    length = _samples(schedule.warmup, progress)
    done = progress.samples + progress.batch
    return done / length if done < length else 1.0


def doubts(schedule: Any, progress: Progress) -> list[str]:
    """What in a schedule cannot be meant for a training of this length, one sentence each."""
    of_its_kind = getattr(plugins.load("schedules", schedule.kind), "doubts", None)
    sentences: list[str] = of_its_kind(schedule, progress) if of_its_kind else []
    if _samples(schedule.warmup, progress) > progress.total:
        sentences.append("schedule.warmup is longer than the training: the rate never reaches optim.lr. Write 5 %.")
    return sentences


@cache
def _factor(kind: str) -> Callable[[Any, Progress, Sequence[float]], float]:
    return plugins.load("schedules", kind).factor


def _samples(span: Any, progress: Progress) -> int:
    return span.samples(epoch_samples=progress.epoch_samples, batch=progress.batch, total=progress.total)
