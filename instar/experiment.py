"""Experiment: what is learnt from what. YAML becomes one typed, frozen value; every mistake is reported at once."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from instar.settings import Settings, Shelf, Span, Training

Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Columns(Settings):
    """Which columns of a table say what."""

    path: str = "path"
    """Column with the file of each image, relative to `root`."""
    label: str = "label"
    """Column with the name of its class."""
    group: str | None = None
    """Column whose equal values must stay in one split: the animal, the site, the slide. Null for none."""


class Index(Settings):
    """Splits somebody made before: NumPy files of positions in the sorted listing of the class folders."""

    train: Path
    """File of the rows to train on."""
    val: Path | None = None
    """File of the rows to validate on."""
    test: Path | None = None
    """File of the rows to test on."""


class Split(Settings):
    """How rows are divided. A folder that has train/ and val/ or test/ in it keeps that division."""

    test: Share = 0.1
    """Share of all rows that is kept for the test."""
    val: Share = 1 / 9
    """Share of the rest that validates: 1/9 of 90 % is 10 % of all."""
    stratify: bool = True
    """Whether every split has the classes in the same proportions."""
    method: Literal["shuffle"] = "shuffle"
    """How: `shuffle` is scikit-learn's train_test_split with this experiment's seed. Groups stay whole."""


class Data(Settings):
    """Images, their labels, and how they are divided."""

    root: Path
    """Folder of the images: one folder a class, or whatever `table` points into."""
    reader: Annotated[SerializeAsAny[Settings], Shelf("readers", default="image_label")] = Field(default="image_label")
    """What a row is read as."""
    table: Path | None = None
    """CSV or Parquet file with one row an image, instead of one folder a class."""
    columns: Columns = Columns()
    """Names of the columns of `table`."""
    index: Index | None = None
    """Index files that make the split."""
    split: Split = Split()
    """How the rows are divided where nothing else says so."""
    min_per_class: Positive = 1
    """Classes with fewer images are left out; no file is touched."""
    max_bad: Share = 0.05
    """Largest share of unreadable files to go on with."""


class Augment(Settings):
    """How training images are varied. `kind` is a preset; any other key overrides one thing in it, null keeps it."""

    kind: Literal["standard", "butterflies", "food", "cifar", "none"] = "standard"
    """The preset."""
    size: Annotated[int, Field(ge=8, le=4096)] = 224
    """Height and width of what the network sees, in pixels."""
    resize: Positive | None = None
    """Short side that evaluation resizes to before it crops the centre, in pixels."""
    scale: tuple[Probability, Probability] | None = None
    """Smallest and largest share of the image's area that a random crop keeps."""
    ratio: tuple[float, float] | None = None
    """Narrowest and widest aspect (width / height) of a random crop."""
    pad: Annotated[int, Field(ge=0)] | None = None
    """Pixels of padding around an image that is then cropped at a random place, instead of a crop by area."""
    hflip: Probability | None = None
    """Probability of a mirror image, left to right."""
    vflip: Probability | None = None
    """Probability of a mirror image, top to bottom."""
    perspective: Share | None = None
    """Strength of a random perspective, 0 to 1."""
    perspective_p: Probability | None = None
    """Probability of that perspective."""
    rotation: Annotated[float, Field(ge=0, le=180)] | None = None
    """Largest rotation either way, in degrees."""
    brightness: Annotated[float, Field(ge=0)] | None = None
    """Largest relative change of brightness."""
    contrast: Annotated[float, Field(ge=0)] | None = None
    """Largest relative change of contrast."""
    saturation: Annotated[float, Field(ge=0)] | None = None
    """Largest relative change of saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Largest shift of hue, as a share of the colour circle."""
    erase: Probability | None = None
    """Probability that a random box is greyed out."""
    normalise: bool = True
    """Whether pixels are scaled by the mean and deviation the network was trained with."""


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

    epochs: Positive = 12
    """Passes over the training rows."""
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
    sync_bn: bool = False
    """Whether batch normalisation is over all devices together."""
    channels_last: Literal["auto"] | bool = "auto"
    """Whether pixels keep their channels side by side in memory."""
    compile: bool = False
    """Whether the network goes through torch.compile."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several devices share a model: a copy each, or a shard each."""
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


class Experiment(Settings):
    """Everything that decides what a run learns. Where it runs is Site."""

    name: str | None = Field(default=None, pattern=r"^[^/\x00-\x1f]{1,80}$")
    """What the run is called; null for the name of the data folder."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The one number all randomness follows from."""
    data: Data
    """What is learnt from."""
    model: Annotated[SerializeAsAny[Settings], Shelf("models", default="timm", names=True)] = Field(default="timm")
    """The network."""
    task: Annotated[SerializeAsAny[Settings], Shelf("tasks", default="classification")] = Field(
        default="classification"
    )
    """What is learnt: loss, balance, scores."""
    augment: Augment = Augment()
    """How training images are varied."""
    optim: Annotated[SerializeAsAny[Settings], Shelf("optimizers", default="adamw")] = Field(default="adamw")
    """How weights are changed."""
    schedule: Annotated[SerializeAsAny[Settings], Shelf("schedules", default="cosine")] = Field(default="cosine")
    """How the learning rate moves over the training."""
    train: Train = Train()
    """How long, how large, and what is kept."""
