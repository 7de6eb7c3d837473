"""Brought: a LightningModule somebody brings along, and how Lightning is to train it.

    task:    {kind: lightning_module, module: my.models.baseline, definition: Baseline, args: {width: 64}}
    trainer: {max_epochs: 12}
    train:   {monitor: val_acc, monitor_mode: max}

Its network, losses, optimizers and usually its data are its own, so little of an Experiment's settings would apply.
What can be known of the code without running it is looked at here: no torch, and nothing of the user's is imported.
"""

import ast
import difflib
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from instar import experiment as experiments
from instar.augment import Augment
from instar.documents import Document
from instar.errors import ConfigError
from instar.experiment import OWN, Data, Positive, Trackers
from instar.plugins import unknown
from instar.run import Run
from instar.settings import Settings, Span
from instar.validation import conflict, validate

TARGET = "_target_"
_DOTTED = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


class Definition(Settings):
    """A class of the user's own, and what it is made with; also written as Hydra does, `_target_` and what it takes."""

    module: Annotated[str, Field(pattern=_DOTTED)]
    """Python module, as one would import it; the folder the command is started in counts."""
    definition: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
    """Name of the class in it."""
    args: dict[str, JsonValue] = Field(default_factory=dict)
    """What the class is made with, by the names of its own parameters. A mapping with `_target_` in it is an object."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_target(cls, given: Any) -> Any:
        if not isinstance(given, dict) or TARGET not in given:
            return given
        ours = {name: value for name, value in given.items() if name in cls.model_fields}
        rest = {name: value for name, value in given.items() if name not in cls.model_fields and name != TARGET}
        module, _, name = str(given[TARGET]).rpartition(".")
        return {**ours, "module": module, "definition": name, "args": {**rest, **ours.get("args", {})}}


class Task(Definition):
    """A LightningModule of one's own, as it is."""

    kind: Literal["lightning_module"] = "lightning_module"
    """A LightningModule of one's own, trained by Lightning."""
    datamodule: Definition | None = None
    """A LightningDataModule that has the data; null where the module, or `data`, has them."""
    stages: Annotated[str, Field(pattern=_DOTTED)] | None = None
    """Function `module.name` that does the stages itself, given a session: fit(), validate(), test(). Null for ours."""
    trust: bool = False
    """Whether checkpoints may be unpickled in full, which can run code: foreign ones, or with more than tensors."""


class StopEarly(Settings):
    """When to stop because nothing gets better, as Lightning's EarlyStopping has it."""

    patience: Annotated[int, Field(ge=0)] = 3
    """Evaluations in a row without a better one."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """What counts as better, in units of what is monitored."""
    divergence_threshold: float | None = None
    """Value that is so bad that there is no point in going on; null for none."""
    stopping_threshold: float | None = None
    """Value that is good enough to stop at; null for none."""


class Train(Settings):
    """What is watched, what is kept, and what it starts from."""

    monitor: str | None = None
    """Name of what the module logs that chooses the best checkpoint; null to keep the newest only."""
    monitor_mode: Literal["max", "min"] | None = None
    """Whether larger or smaller is better."""
    stop_early: StopEarly | None = None
    """When to stop early; null for never."""
    every: Span = Span(10, "min")
    """How often the whole state is saved, at the end of a step."""
    keep: Positive = 2
    """Newest checkpoints to keep, beside the best."""
    batch: Positive = 64
    """Images in one step over all devices together, where `data` is given; loaders of one's own have their own."""
    test: str = "best"
    """What is tested at the end: best, latest, none, or a checkpoint file."""
    validate_after: bool = False
    """Whether the tested checkpoint is scored on the validation loader, too."""
    matmul: Literal["highest", "high", "medium"] | None = None
    """How exact products of 32-bit matrices are on a GPU; null to leave that as it is."""
    compile: bool = False
    """Whether the module goes through torch.compile."""
    warm_start: Path | None = None
    """Run or checkpoint file whose weights it begins with; everything else begins anew."""
    warm_start_strict: bool = True
    """Whether those weights must be exactly the module's."""
    resume: Path | None = None
    """Run or Lightning checkpoint that this run takes up, optimizer and position and all; null to begin."""
    resume_epoch: Annotated[int, Field(ge=0)] | None = None
    """With `resume`, a run: from its newest checkpoint that lies within so many epochs; null for its newest."""


class Brought(Settings):
    """Everything that decides what a LightningModule of one's own learns. Where it runs is Machine and Site."""

    undecisive: ClassVar = (
        *("name", "paths", "task.trust", "train.every", "train.keep", "train.test", "train.validate_after"),
        *("train.resume", "train.resume_epoch", "track"),
        *(f"trainer.{name}" for name in ("max_epochs", "max_steps", "max_time", "log_every_n_steps", "profiler")),
        *(f"trainer.enable_{name}" for name in ("progress_bar", "model_summary", "autolog_hparams")),
    )

    name: str | None = Field(default=None, pattern=r"^[^/\x00-\x1f]{1,80}$")
    """What the run is called; null for the name of the class."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """The number all randomness follows from; the trial, where a training is repeated."""
    task: Task
    """The module."""
    data: Data | None = None
    """Images that Instar reads for it, as batches of (image_BCHW of 0 to 1, label_B); null where it brings its own."""
    augment: Augment = Augment()
    """How those are varied."""
    trainer: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of Lightning's Trainer, by its own names."""
    paths: dict[str, JsonValue] = Field(default_factory=dict)
    """Values that others name as ${paths.name} where a recipe is composed of several; nothing else reads them."""
    train: Train = Train()
    """What is watched, kept, and begun from."""
    track: Trackers = ()
    """Where the curves are shown beside the run page: a list of kinds."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Brought":
        if found := list(_conflicts(self)):
            raise conflict(found)
        return self


# Every argument of Lightning's Trainer; the second part is ours to set, with what to write instead.
TRAINER = tuple(
    "precision fast_dev_run max_epochs min_epochs max_steps min_steps max_time limit_train_batches limit_val_batches "
    "limit_test_batches limit_predict_batches overfit_batches val_check_interval check_val_every_n_epoch "
    "num_sanity_val_steps log_every_n_steps enable_progress_bar enable_model_summary accumulate_grad_batches "
    "gradient_clip_val gradient_clip_algorithm deterministic benchmark inference_mode use_distributed_sampler profiler "
    "detect_anomaly sync_batchnorm reload_dataloaders_every_n_epochs strategy enable_autolog_hparams".split()
)
OURS = {
    "devices": "how many is not part of a recipe: devices=2 on the command line, gpus=4 of instar submit",
    "num_nodes": "how many is not part of a recipe: nodes=2 of instar submit",
    "accelerator": "what computes is not part of a recipe: device=cpu or device=cuda on the command line",
    "logger": "metrics go to metrics.jsonl, and from there to any tracker: see track",
    "callbacks": "return them from the module's own configure_callbacks",
    "enable_checkpointing": "checkpoints are what a run is kept by: see train.every and train.keep",
    "default_root_dir": "everything lies in the folder of the run: run=FOLDER on the command line",
    "plugins": "the ranks are found by Instar; strategy and precision go by name",
    "barebones": "it takes away what a run is kept by",
    "model_registry": "a run is a folder, and asks no service",
}


# Strategies that start processes themselves; Instar has started and joined them already.
_STARTING = ("spawn", "fork", "notebook")


def _conflicts(brought: Brought) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that do not go together: the keys, the first of them to blame, and why."""
    train = brought.train
    for name in brought.trainer:
        if name in OURS:
            yield (f"trainer.{name}",), f"is Instar's to set: {OURS[name]}"
        elif name not in TRAINER:
            yield (f"trainer.{name}",), f"Lightning's Trainer has none such: {unknown(name, list(TRAINER), what='key')}"
    for what, key in ((brought.task, "task"), (brought.task.datamodule, "task.datamodule")):
        for target in targets(what.args) if what else ():
            if target.partition(".")[0] in sys.stdlib_module_names:
                yield (key,), f"makes {target}, which is Python's own and no part of a model: write the value itself"
    strategy = str(brought.trainer.get("strategy", ""))
    if any(word in strategy.split("_") for word in _STARTING):
        plain = "_".join(word for word in strategy.split("_") if word not in _STARTING)
        yield ("trainer.strategy",), f"is {strategy}, but the processes are started by devices=2: write {plain}"
    if train.monitor and train.monitor_mode is None:
        yield ("train.monitor", "train.monitor_mode"), "say which is better: train.monitor_mode=max or =min"
    if train.stop_early and not train.monitor:
        yield ("train.stop_early", "train.monitor"), "needs something to watch: train.monitor=NAME"
    if train.resume_epoch is not None and train.resume is None:
        yield ("train.resume_epoch", "train.resume"), "of which run? Write train.resume=RUN"
    if train.resume and train.warm_start:
        yield ("train.warm_start", "train.resume"), "a run that is taken up has its weights: leave out one of the two"
    if brought.data is not None and brought.task.datamodule is not None:
        yield ("data", "task.datamodule"), "the images come from one of the two: leave out the other"


def targets(value: Any) -> Iterator[str]:
    """What is to be made for arguments: every `_target_` in them, however deep."""
    if isinstance(value, dict):
        if TARGET in value:
            yield str(value[TARGET])
        for inner in value.values():
            yield from targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from targets(inner)


def as_target(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Where a setting of a Definition stands that is written with `_target_`."""
    if keys[-1] in ("module", "definition"):
        return (*keys[:-1], TARGET)
    at = keys.index("args") if "args" in keys else len(keys)
    return (*keys[:at], *keys[at + 1 :])


# --- reading one ---------------------------------------------------------------------------------------------------


def is_one(document: dict[str, Any]) -> bool:
    """Whether a recipe, as it was written, is of a LightningModule of one's own."""
    task = document.get("task")
    return (task.get("kind") if isinstance(task, dict) else task) == OWN


def of_file(source: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any] | None:
    """The document of a file or run folder, where it is of a LightningModule of one's own; None for anything else."""
    path = Path(source)
    path = path / "experiment.yaml" if path.is_dir() else path
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return None
    document, _ = experiments.read_document(path, overrides)
    return document if is_one(document) else None


def load(source: str | Path | dict[str, Any], overrides: Sequence[str] = ()) -> Brought:
    """What a recipe or a run folder spells, after `key=value` overrides; raises ConfigError with every mistake."""
    document, rest = experiments.read_document(source, overrides)
    loaded = validate(Brought, document, rest)
    files = {name: path.expanduser().absolute() for name, path in dict(loaded.train).items() if isinstance(path, Path)}
    update: dict[str, Any] = {"train": loaded.train.model_copy(update=files)}
    if loaded.data is not None:
        update["data"] = experiments.absolute(loaded.data)
    return loaded.model_copy(update=update)


def locate(brought: Brought, name: str | None, *, runs: Path) -> Run:
    """The run folder it belongs in: its own from an earlier start, or one that is not there yet."""
    label = brought.name or brought.task.definition
    return experiments.place_for(brought, name, runs=runs, label=label, load=load)


# --- looking at the code without running it ------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a definition stands."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def look(brought: Brought, document: dict[str, Any] | None = None) -> Place:
    """Where the module's class stands; raises ConfigError for what is wrong with any of the names, all at once.

    document   says on which line of which file each name was written
    """
    mistakes: list[str] = []
    found = _look(brought.task, ("task",), document, mistakes)
    if brought.task.datamodule is not None:
        _look(brought.task.datamodule, ("task", "datamodule"), document, mistakes)
    if brought.task.stages is not None:
        module, _, name = brought.task.stages.rpartition(".")
        if not module:
            mistakes.append(f"task.stages is {name!r}, but must be a module and a function in it: my.stages.{name}")
        else:
            _look(Definition(module=module, definition=name), ("task", "stages"), document, mistakes)
    if mistakes or found is None:
        raise ConfigError(mistakes)
    return found


def class_of(what: Definition) -> ast.ClassDef | None:
    """The class as it is written; None where the module only imports it, or cannot be read."""
    file, _ = _file_of(what.module)
    if file is None or file.suffix != ".py":
        return None
    try:
        node = dict(_names(ast.parse(file.read_bytes()))).get(what.definition)
    except (OSError, SyntaxError, ValueError):
        return None
    return node if isinstance(node, ast.ClassDef) else None


def _look(
    what: Definition, keys: tuple[str, ...], document: dict[str, Any] | None, mistakes: list[str]
) -> Place | None:
    def said(key: str) -> str:
        written = document.places if isinstance(document, Document) else {}
        key = TARGET if (*keys, TARGET) in written and key in ("module", "definition") else key
        place = document.place((*keys, key)) if isinstance(document, Document) else ""
        return f"{place}: {'.'.join((*keys, key))}" if place else ".".join((*keys, key))

    file, near = _file_of(what.module)
    if file is None:
        hint = f"Did you mean {near!r}?" if near else f"Start the command where {what.module.partition('.')[0]!r} lies."
        mistakes.append(f"{said('module')}: there is no module {what.module!r}, from {Path.cwd()}. {hint}")
        return None
    if file.suffix != ".py":
        return Place(file, 1)
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        mistakes.append(f"{file}:{getattr(error, 'lineno', None) or 1}: {getattr(error, 'msg', error)}")
        return None
    names = dict(_names(tree))
    if what.definition not in names:
        defined = [name for name, node in names.items() if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        mistakes.append(f"{said('definition')}: {file} has {unknown(what.definition, defined, what='definition')}")
        return None
    node = names[what.definition]
    if isinstance(node, ast.ClassDef):
        mistakes += [f"{said('args')}: {why}" for why in _wrong_arguments(node, what.args, file)]
    return Place(file, getattr(node, "lineno", 1))


def _file_of(module: str) -> tuple[Path | None, str]:
    """The file of a module, found without importing its packages; or else the near miss in the last folder."""
    # As `python -m` does: the folder the command is started in comes first.
    path: list[str] | None = [str(Path.cwd()), *sys.path]
    parts = module.split(".")
    for number in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(parts[number - 1], path)
        if spec is None:
            beside = [file.stem for folder in path or () for file in Path(folder or ".").glob("*") if _importable(file)]
            near = difflib.get_close_matches(parts[number - 1], beside, n=1)
            return None, ".".join([*parts[: number - 1], near[0], *parts[number:]]) if near else ""
        path = list(spec.submodule_search_locations or ())
        if number == len(parts):
            return (Path(spec.origin) if spec.origin and spec.origin != "namespace" else None), ""
    return None, ""


def _importable(file: Path) -> bool:
    return file.suffix == ".py" or (file.is_dir() and (file / "__init__.py").is_file())


def _names(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """What a module defines, imports or assigns at its top."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from ((target.id, node) for target in node.targets if isinstance(target, ast.Name))


def _wrong_arguments(node: ast.ClassDef, given: dict[str, Any], file: Path) -> Iterator[str]:
    """What the class's own __init__ does not take, or lacks; one that is inherited is not looked at."""
    made = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    if made is None:
        return
    known = [one.arg for one in (*made.args.args[1:], *made.args.kwonlyargs)]
    for name in given:
        if name not in known and made.args.kwarg is None:
            yield f"{node.name}.__init__ ({file}:{made.lineno}) has {unknown(name, known, what='argument')}"
    free = len(made.args.args) - 1 - len(made.args.defaults)
    needed = [one.arg for one in made.args.args[1 : 1 + free]]
    needed += [
        one.arg for one, default in zip(made.args.kwonlyargs, made.args.kw_defaults, strict=True) if default is None
    ]
    if lacking := [name for name in needed if name not in given]:
        yield f"{node.name}.__init__ ({file}:{made.lineno}) needs {', '.join(lacking)}"
