"""A whole recipe: one typed, frozen value, in which what follows from a part is filled in."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from instar import plugins
from instar import space as spaces
from instar.augment import Augment
from instar.errors import ConfigError
from instar.experiment.conflicts import conflicts
from instar.experiment.data import Data
from instar.experiment.training import Train
from instar.search import InRecipe
from instar.settings import Settings, Shelf
from instar.validation import conflict


class Mlperf(Settings):
    """What a benchmark log says of who ran it; where this is set, a run writes mlperf.log for MLPerf's checker."""

    benchmark: Literal["deepcam"] = "deepcam"
    """Which benchmark of MLPerf HPC it is."""
    division: Literal["open", "closed"] = "open"
    """`closed` is for the benchmark exactly as it is ruled: its data, its network, its target."""
    organisation: Annotated[str, Field(min_length=1)] = "unnamed"
    """Who ran it."""
    platform: Annotated[str, Field(min_length=1)] = "unnamed"
    """On what, in the words of the submission: 64xDGX-A100."""
    status: Literal["onprem", "cloud", "preview", "research"] = "research"
    """How others can get at such a machine."""
    cache_cleared: bool = False
    """Whether the nodes' file caches were emptied before the start. Instar cannot do that; it only notes it."""


def _one_or_more(value: Any) -> Any:
    """One kind, or one group, as the list of it."""
    return [value] if isinstance(value, str | dict) else value


Trackers = Annotated[
    tuple[Annotated[Any, Shelf("trackers", default="tensorboard")], ...], BeforeValidator(_one_or_more)
]


def _is_a_space(values: dict[str, Any]) -> dict[str, Any]:
    """The ranges as they are; raises ValueError with what is wrong with each."""
    if wrong := spaces.attempt(spaces.texts_of(values), "space")[1]:
        raise ValueError("; ".join(mistake.removeprefix("space: ") for mistake in wrong))
    return values


class Experiment(Settings):
    """Everything that decides what a run learns. Where it runs is Machine and Site."""

    # Settings that change what is kept and told, but not what is learnt.
    undecisive: ClassVar = (
        *("name", "data.recheck", "train.every", "train.keep", "train.log", "mlperf", "track"),
        *("space", "search"),
    )

    name: str | None = Field(default=None, pattern=r"^[^/\x00-\x1f]{1,80}$")
    """What the run is called; null for the name of the data folder."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """The one number all randomness follows from."""
    data: Data
    """What is learnt from."""
    model: Annotated[Any, Shelf("models", default="timm", names=True)] = "timm"
    """The network."""
    task: Annotated[Any, Shelf("tasks", default="classification")] = "classification"
    """What is learnt: loss, balance, scores."""
    augment: Augment = Augment()
    """How training images are varied."""
    optim: Annotated[Any, Shelf("optimizers", default="adamw")] = "adamw"
    """How weights are changed."""
    schedule: Annotated[Any, Shelf("schedules", default="cosine")] = "cosine"
    """How the learning rate moves over the training."""
    train: Train = Train()
    """How long, how large, and what is kept."""
    track: Trackers = ()
    """Where the curves are shown beside the run page: a list of kinds."""
    mlperf: Mlperf | None = None
    """Whether to write a log for MLPerf's checker, and what it says of who ran this; null for none."""
    space: Annotated[dict[str, JsonValue], AfterValidator(_is_a_space)] | None = None
    """What `instar tune` varies: names of settings and their ranges. Training leaves it aside."""
    search: InRecipe | None = None
    """How `instar tune` searches that space."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_follows(cls, given: Any) -> Any:
        """Where one of reader, task and model is said to be of pixels, the others are too, unless they are said.

        The same where reader or task are of pairs.
        """
        if not isinstance(given, dict) or not isinstance(given.get("data"), dict):
            return given
        if not _of_pixels(given):
            return _with_pairs(given)
        filled = {**given, "data": {"reader": "image_mask", **given["data"]}}
        filled.setdefault("model", "smp")
        task = filled.setdefault("task", "segmentation")
        if isinstance(task, dict):
            filled["task"] = {"kind": "segmentation", **task}
        if kind_of(filled["data"]["reader"]) == "field":
            augment = filled.get("augment")
            filled["augment"] = (
                {"kind": "field", **augment} if isinstance(augment, dict) else augment or {"kind": "field"}
            )
        return filled

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        if found := list(conflicts(self)):
            raise conflict(found)
        return self


def _of_pixels(given: dict[str, Any]) -> bool:
    """Whether the reader, the task or the model that a document names is one of pixel labels."""
    reader, task, model = kind_of(given["data"].get("reader")), kind_of(given.get("task")), kind_of(given.get("model"))
    try:
        return (
            "mask" in getattr(plugins.load("readers", reader or "image_label"), "gives", ())
            or "mask" in getattr(plugins.load("tasks", task or "classification"), "needs", ())
            or model in ("smp", "deeplab_xception")
        )
    except ConfigError:
        return False  # its field says what is wrong with it


def _with_pairs(given: dict[str, Any]) -> dict[str, Any]:
    """The document with the reader that its task is made for, or the task that its reader is, where one is unsaid."""
    reader, task = given["data"].get("reader"), given.get("task")
    try:
        usual = getattr(plugins.load("tasks", kind_of(task) or "classification"), "READER", None)
        pairs = "other" in getattr(plugins.load("readers", kind_of(reader) or "image_label"), "gives", ())
    except ConfigError:
        return given  # its field says what is wrong with it
    if usual is not None and kind_of(reader) is None:
        more = reader if isinstance(reader, dict) else {}
        return {**given, "data": {**given["data"], "reader": {"kind": usual, **more}}}
    if pairs and kind_of(task) is None:
        return {**given, "task": {"kind": "vicreg", **(task if isinstance(task, dict) else {})}}
    return given


def kind_of(value: Any) -> Any:
    """The kind that a plug-in's settings name; None where they name none."""
    found = value.get("kind") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None
