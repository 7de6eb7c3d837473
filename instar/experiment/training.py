"""How long, how large, how exact, and what is kept."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from instar.experiment.data import Positive, Share
from instar.settings import Settings, Span, Training
from instar.validation import conflict


class StopEarly(Settings):
    """When to stop because nothing gets better."""

    patience: Positive = 5
    """Evaluations in a row without a better one."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """What counts as better, in units of the metric."""


class OnNan(Settings):
    """What to do when the loss is not a finite number."""

    rollbacks: Annotated[int, Field(ge=0)] = 1
    """How often to go back to the last checkpoint before giving up."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """What the learning rate is multiplied by each time."""


class Train(Settings):
    """How long, how large, how exact, and what is kept."""

    epochs: Annotated[float, Field(gt=0)] = 12
    """Passes over the training rows; 0.5 is half of one."""
    batch: Positive = 64
    """Images in one step, over all devices together."""
    micro: Positive | None = None
    """Images a device takes at once; null for as many as fit. The result is that of `batch` either way."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the network's arithmetic."""
    every: Span = Span(10, "min")
    """How often the whole state is saved."""
    evaluate: Training = Span(1, "epochs")
    """How often the validation rows are scored."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a running average of the weights, which is then what is evaluated; null for none."""
    sync_bn: bool | Positive = False
    """Whether batch normalisation is over all devices together; a number for groups of so many, side by side."""
    average_bn: bool = False
    """Whether all devices' running statistics are averaged before each evaluation; else those of the first count."""
    channels_last: Literal["auto"] | bool = "auto"
    """Whether pixels keep their channels side by side in memory."""
    compile: bool | Literal["graphs"] = False
    """Whether the network goes through torch.compile; `graphs` also replays it as CUDA graphs (its mode
    reduce-overhead)."""
    shuffle: Literal["global", "node", "gpu"] = "global"
    """Among which rows each step draws: all; or those of a part that each node, or each rank, keeps to. A node then
    stages its part of packed data only, and the order depends on how many there are."""
    oversampling: Positive = 1
    """How many parts a node or rank keeps to where rows are divided: each row is then with so many of them."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several devices share a model: a copy each, or a shard each."""
    target: float | None = None
    """Value of the metric to stop at: the goal is reached. Null to train to the end."""
    stop_early: StopEarly | None = None
    """When to stop early; null for never."""
    metric: str | None = None
    """Which validation score chooses the best checkpoint; null for the task's own."""
    mode: Literal["max", "min"] | None = None
    """Whether larger or smaller is better; null for the task's own."""
    log: Positive = 20
    """Steps between two points of the training curve."""
    keep: Positive = 2
    """Newest checkpoints to keep, beside the best."""
    on_nan: OnNan = OnNan()
    """What to do when the loss is not finite."""
    max_bad: Share = 0.01
    """Largest share of samples that may turn out unreadable during training."""

    @model_validator(mode="after")
    def _rows_are_divided(self) -> "Train":
        if self.oversampling > 1 and self.shuffle == "global":
            raise conflict(
                [(("oversampling", "shuffle"), "says nothing where all draw among all rows: write node or gpu")]
            )
        return self

    @model_validator(mode="after")
    def _shards_are_contiguous(self) -> "Train":
        if self.parallel == "fsdp" and self.channels_last is True:
            raise conflict(
                [(("channels_last", "parallel"), "weights that lie channels-last cannot be divided: write auto or ddp")]
            )
        return self
