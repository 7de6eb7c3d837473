"""Experiment: what is learnt from what. YAML becomes one typed, frozen value; every mistake is reported at once."""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    PlainSerializer,
    field_validator,
    model_validator,
)

from instar import plugins, settings
from instar import space as spaces
from instar.augment import Augment
from instar.errors import ConfigError
from instar.overrides import override
from instar.remote import address, is_address
from instar.run import Run, name_for
from instar.search import InRecipe
from instar.settings import Document, Settings, Shelf, Span, Training, read
from instar.validation import conflict, validate

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class Columns(Settings):
    """Which columns of a table say what."""

    path: str = "path"
    """Column with the file of each image, relative to `root`."""
    label: str = "label"
    """Column with the name of its class."""
    mask: str = "mask"
    """Column with the file of its mask, relative to `root`, where pixels have labels."""
    group: str | None = None
    """Column whose equal values must stay in one split: the animal, the site, the slide. Null for none."""
    split: str | None = None
    """Column that says train, val or test; null for a column called `split`, if there is one."""


class Pairs(Settings):
    """Samples of two files each. A small text file a pair names both, one a line; its folder is the label."""

    files: Path = Path("pairs")
    """Folder of the pair files, below `root`; one folder a class or node."""
    first: Path = Path("rgb")
    """Folder that the first line's file lies in, below `root`."""
    second: Path = Path("thermal")
    """Folder that the second line's file lies in, below `root`."""
    agree: str | None = r"(\d{8}-\d{6})|position(\d+)"
    """Regular expression of what two names must say alike where both say it, each group by itself: time and position.
    Other pairs are left out. Null: any."""

    @field_validator("agree")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from error
        return value


class Index(Settings):
    """Splits somebody made before: NumPy files of positions in the sorted listing of the class folders."""

    train: Path
    """File of the rows to train on."""
    val: Path | None = None
    """File of the rows to validate on; null to take `split.val` of the rows to train on."""
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
    method: Literal["shuffle", "keyed"] = "shuffle"
    """How: `shuffle` is scikit-learn's train_test_split with this experiment's seed. `keyed` goes by a hash of each
    row, so that files that are added later move only a few. Groups stay whole."""
    key: Literal["content", "id"] = "content"
    """What `keyed` hashes: the file's content, so that copies stay together and names do not matter, or its name."""


class Data(Settings):
    """Images, their labels, and how they are divided."""

    root: Annotated[Path, PlainSerializer(address, return_type=str, when_used="json")]
    """Folder of the images: one folder a class, or whatever `table` points into. Or packed data, also at s3://…"""
    reader: Annotated[Any, Shelf("readers", default="image_label")] = "image_label"
    """What a row is read as."""
    table: Path | None = None
    """CSV or Parquet file with one row an image, instead of one folder a class."""
    columns: Columns = Columns()
    """Names of the columns of `table`."""
    index: Index | None = None
    """Index files that make the split."""
    pairs: Pairs | None = None
    """Pair files, where a sample is two files."""
    manifest: Path | None = None
    """Manifest that `instar prepare` wrote: these rows in these splits, and nothing is listed or divided anew."""
    exclude: Path | None = None
    """List of what is left out: ids, paths or hashes, one a line, or a CSV file with such a column."""
    split: Split = Split()
    """How the rows are divided where nothing else says so."""
    min_per_class: Positive = 1
    """Classes with fewer images are left out; no file is touched."""
    max_bad: Share = 0.05
    """Largest share of unreadable files to go on with."""
    recheck: Literal["auto", "files", "folders"] = "auto"
    """What shows at a later start that images are unchanged: size and time of every file, or the time of every folder,
    which is quick and does not show a file that was written over in place. auto: folders beyond 20,000 images."""


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
        if _kind(filled["data"]["reader"]) == "field":
            augment = filled.get("augment")
            filled["augment"] = (
                {"kind": "field", **augment} if isinstance(augment, dict) else augment or {"kind": "field"}
            )
        return filled

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        if found := list(_conflicts(self)):
            raise conflict(found)
        return self


def _of_pixels(given: dict[str, Any]) -> bool:
    """Whether the reader, the task or the model that a document names is one of pixel labels."""
    reader, task, model = _kind(given["data"].get("reader")), _kind(given.get("task")), _kind(given.get("model"))
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
        usual = getattr(plugins.load("tasks", _kind(task) or "classification"), "READER", None)
        pairs = "other" in getattr(plugins.load("readers", _kind(reader) or "image_label"), "gives", ())
    except ConfigError:
        return given  # its field says what is wrong with it
    if usual is not None and _kind(reader) is None:
        more = reader if isinstance(reader, dict) else {}
        return {**given, "data": {**given["data"], "reader": {"kind": usual, **more}}}
    if pairs and _kind(task) is None:
        return {**given, "task": {"kind": "vicreg", **(task if isinstance(task, dict) else {})}}
    return given


def _kind(value: Any) -> Any:
    """The kind that a plug-in's settings name; None where they name none."""
    found = value.get("kind") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


OWN = "lightning_module"  # the task that Lightning trains; its recipes are of another kind, see brought.py


def load(source: str | Path | dict[str, Any], overrides: Sequence[str] = ()) -> Experiment:
    """The experiment a recipe, a run folder or a folder of images stands for, after `key=value` overrides.

    Paths are made absolute: a run must find its images from any folder. Raises ConfigError with every mistake at once.
    """
    document, rest = read_document(source, overrides)
    _is_ours(document)
    loaded = validate(Experiment, document, rest)
    return loaded.model_copy(update={"data": absolute(loaded.data)})


def document(
    source: str | Path | dict[str, Any], overrides: Sequence[str] = (), *, without: Sequence[str] = ()
) -> dict[str, Any]:
    """What `load` would validate, as it was said: settings that nobody mentioned are not in it; paths are absolute.

    without   groups that are left out of it
    Raises ConfigError with every mistake at once.
    """
    found, rest = read_document(source, overrides)
    said = override(found, rest)
    for name in without:
        said.pop(name, None)
    data = load(said).model_dump(mode="json")["data"]
    return dict(said) | {"data": {name: data[name] for name in said["data"]}}


def _is_ours(document: dict[str, Any]) -> None:
    kind = _kind(document.get("task"))
    if kind == OWN:
        raise ConfigError(
            f"task {OWN} is a LightningModule of your own: train, submit, resume, evaluate, report, compare and what "
            f"looks at runs take it; this does not"
        )
    if kind and kind not in plugins.kinds("tasks") and difflib.get_close_matches(kind, [OWN], cutoff=0.85):
        place = document.place(("task",)) if isinstance(document, Document) else ""
        raise ConfigError(f"{place or 'task'}: unknown kind in tasks {kind!r}: did you mean {OWN!r}?")


def signature(experiment: Settings) -> str:
    """A hash of everything that decides the result, in hexadecimal."""
    import hashlib  # opens OpenSSL; a wrong recipe is told without it

    decisive = json.dumps(_decisive(experiment), sort_keys=True)
    return hashlib.sha256(decisive.encode()).hexdigest()


def differences(before: Settings, after: Settings) -> list[str]:
    """What decides the result and differs: `optim.lr: 0.1 -> 0.01`, one line a setting."""
    old, new = _decisive(before), _decisive(after)
    names = dict.fromkeys([*old, *new])
    return [
        f"{name}: {_shown(old, name)} -> {_shown(new, name)}"
        for name in names
        if old.get(name, ...) != new.get(name, ...)
    ]


def locate(experiment: Experiment, name: str | None, *, runs: Path) -> Run:
    """The run folder this experiment belongs in: its own from an earlier start, or one that is not there yet.

    name   the user's: a word for a folder in `runs`, or a path; None for one that follows from the experiment
    """
    return place_for(experiment, name, runs=runs, label=experiment.name or Path(experiment.data.root).name, load=load)


def place_for(wanted: Settings, name: str | None, *, runs: Path, label: str, load: Callable[[Path], Settings]) -> Run:
    """The same for any kind of recipe: `label` begins the name, and `load` reads the recipe that a folder holds."""
    if name:
        return Run(Path(name) if "/" in name else runs / name)
    first = name_for(label, signature(wanted))
    number = 1
    while True:
        run = Run(runs / (first if number == 1 else f"{first}-{number}"))
        if not run.experiment_file.exists() or not differences(load(run.path), wanted):
            return run
        number += 1


def schema(of: type[Settings] = Experiment) -> dict[str, Any]:
    """The JSON schema of a recipe, over all kinds that come with Instar, for completion in editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **settings.schema(of)}


def read_document(
    source: str | Path | dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], Sequence[str]]:
    """What the source says, and the overrides it leaves to be applied."""
    if isinstance(source, dict):
        return source, overrides
    path = Path(source)
    if is_address(path):
        return Document({"data": {"root": str(source)}}), overrides
    if path.is_dir():
        saved = path / "experiment.yaml"
        return (read(saved) if saved.is_file() else Document({"data": {"root": str(path)}})), overrides
    if not path.exists():
        raise ConfigError(_no_such_file(path))
    if path.suffix == ".parquet":
        from instar import manifest  # reading Parquet takes a quarter of a second to import

        return Document({"data": {"root": str(manifest.read_root(path)), "manifest": str(path)}}), overrides
    document = read(path)
    if "defaults" in document:
        from instar.composition import compose  # Hydra takes a third of a second to import

        return compose(path, document, overrides)
    return document, overrides


def _no_such_file(path: Path) -> str:
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"Did you mean {str(path.with_name(near[0]))!r}?" if near else "Give a folder of images or a recipe."
    return f"{path} does not exist. {hint}"


def absolute(data: Data) -> Data:
    """The same data by absolute paths: a run must find its images from any folder."""
    index = data.index and data.index.model_copy(
        update={name: path.expanduser().absolute() for name, path in dict(data.index).items() if path is not None}
    )
    files = {
        name: path.expanduser().absolute()
        for name in ("root", "table", "manifest", "exclude")
        if (path := getattr(data, name)) is not None and not is_address(path)
    }
    return data.model_copy(update=files | {"index": index})


def _decisive(experiment: Any) -> dict[str, Any]:
    values = dict(flat(experiment.model_dump(mode="json")))
    aside: tuple[str, ...] = experiment.undecisive
    return {
        name: value for name, value in values.items() if not f"{name}.".startswith(tuple(f"{one}." for one in aside))
    }


def flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested mappings, by its dotted name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _shown(values: dict[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "not there"


_PIXEL_MODELS = (
    ": model={kind: smp, name: unet, encoder: resnet18}, deeplab_xception, or deeplabv3_resnet50 of torchvision"
)


def _listed(words: frozenset[str]) -> str:
    return " or ".join(sorted(words))


def _conflicts(experiment: Experiment) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that do not go together: the keys, the first of them to blame, and why."""
    data, train = experiment.data, experiment.train
    if train.micro is not None and train.micro > train.batch:
        yield ("train.micro", "train.batch"), f"{train.micro} is more than train.batch, {train.batch}"
    if data.table and data.index:
        yield ("data.index", "data.table"), "index files count the class folders, so they cannot go with a table"
    twice = {one.kind for one in experiment.track if [other.kind for other in experiment.track].count(one.kind) > 1}
    if twice:
        yield ("track",), f"{_listed(frozenset(twice))} is there twice; a run has one curve in each"
    made = [name for name in ("table", "index", "pairs", "exclude") if getattr(data, name) is not None]
    if data.manifest and (made or data.min_per_class > 1):
        other = f"data.{made[0] if made else 'min_per_class'}"
        yield ("data.manifest", other), f"the manifest says which rows there are; prepare it with {other} instead"
    if data.pairs and (data.table or data.index):
        other = "data.table" if data.table else "data.index"
        yield ("data.pairs", other), f"pair files list the rows, so they cannot go with {other}"
    if data.columns != Columns() and not data.table:
        yield ("data.columns", "data.table"), "there are columns, but no table. Write data.table=FILE."
    validates = data.split.val > 0 or (data.index is not None and data.index.val is not None)
    if not validates and train.stop_early:
        yield ("train.stop_early", "data.split.val"), "needs validation rows, but data.split.val is 0"
    if not validates and train.target is not None:
        yield ("train.target", "data.split.val"), "needs validation rows, but data.split.val is 0"
    if not validates and experiment.schedule.kind == "plateau":
        yield ("schedule", "data.split.val"), "plateau needs validation rows, but data.split.val is 0"
    yield from _decay_of_nothing(experiment)
    reader = plugins.load("readers", data.reader.kind)
    crops: frozenset[str] = getattr(reader, "crops", frozenset({experiment.augment.crop}))
    if experiment.augment.crop not in crops:
        yield (
            ("augment.crop", "data.reader"),
            f"{experiment.augment.crop!r} does not go with reader {data.reader.kind}, which takes {_listed(crops)}"
            + (" (augment.kind=field is made for it)" if "whole" in crops and "area" not in crops else ""),
        )
    needs: frozenset[str] = getattr(plugins.load("tasks", experiment.task.kind), "needs", frozenset())
    gives: frozenset[str] = getattr(reader, "gives", needs)
    wanted = "pixels" if "mask" in needs else "image"
    answers = getattr(plugins.load("models", experiment.model.kind), "answers", lambda settings: wanted)
    if (found := answers(experiment.model)) != wanted:
        each = {"pixels": "for each pixel", "image": "for each image"}
        yield (
            ("model", "task"),
            f"{experiment.model.kind} {getattr(experiment.model, 'name', '')} answers {each[found]}, and "
            f"{experiment.task.kind} needs an answer {each[wanted]}" + _PIXEL_MODELS * (wanted == "pixels"),
        )
    yield from _lacking_views(experiment, reader, gives)
    if needs - gives:
        lacking = ", ".join(sorted(needs - gives))
        yield ("data.reader", "task"), f"{data.reader.kind} does not give {lacking}, which {experiment.task.kind} needs"


def _decay_of_nothing(experiment: Experiment) -> Iterator[tuple[tuple[str, ...], str]]:
    """Why a weight decay that moves does not go with one that is 0: what has none could not be told from what has."""
    if experiment.schedule.decay_to is not None and not experiment.optim.weight_decay:
        yield (
            ("schedule.decay_to", "optim.weight_decay"),
            "moves the weight decay, but optim.weight_decay is 0. Write what it is to begin with: 0.04, or 1e-6.",
        )


def _lacking_views(
    experiment: Experiment, reader: ModuleType, gives: frozenset[str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Why a task that learns from views of pictures does not go with a reader; nothing where it does."""
    task, kind = experiment.task, experiment.data.reader.kind
    views = getattr(plugins.load("tasks", task.kind), "crops", None)
    if views is None:
        return
    branches = views(task).branches
    if set(branches) - gives or not getattr(reader, "gives_views", False):
        yield (
            ("data.reader", "task"),
            f"{kind} does not give views of {' and '.join(branches)}, which {task.kind} needs. Write "
            f"data.reader=image_pair; or learn from the first picture alone: task.branches=image (vicreg), "
            f"task.strategy=image (dino)",
        )
