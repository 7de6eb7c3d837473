"""Settings of a recipe that do not go together."""

from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

from instar import plugins
from instar.experiment.data import Columns

if TYPE_CHECKING:
    from instar.experiment.recipe import Experiment


_PIXEL_MODELS = (
    ": model={kind: smp, name: unet, encoder: resnet18}, deeplab_xception, or deeplabv3_resnet50 of torchvision"
)


def _listed(words: frozenset[str]) -> str:
    return " or ".join(sorted(words))


def conflicts(experiment: "Experiment") -> Iterator[tuple[tuple[str, ...], str]]:
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


def _decay_of_nothing(experiment: "Experiment") -> Iterator[tuple[tuple[str, ...], str]]:
    """Why a weight decay that moves does not go with one that is 0: what has none could not be told from what has."""
    if experiment.schedule.decay_to is not None and not experiment.optim.weight_decay:
        yield (
            ("schedule.decay_to", "optim.weight_decay"),
            "moves the weight decay, but optim.weight_decay is 0. Write what it is to begin with: 0.04, or 1e-6.",
        )


def _lacking_views(
    experiment: "Experiment", reader: ModuleType, gives: frozenset[str]
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
