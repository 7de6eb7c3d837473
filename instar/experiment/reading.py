"""From a recipe, a run folder or a folder of images, and `key=value`, to an Experiment."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instar import plugins, settings
from instar.errors import ConfigError
from instar.experiment.data import absolute
from instar.experiment.identity import place_for
from instar.experiment.recipe import Experiment, kind_of
from instar.overrides import override
from instar.remote import is_address
from instar.run import Run
from instar.settings import Document, Settings, read
from instar.validation import validate

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
    kind = kind_of(document.get("task"))
    if kind == OWN:
        raise ConfigError(
            f"task {OWN} is a LightningModule of your own: train, submit, resume, evaluate, report, compare and what "
            f"looks at runs take it; this does not"
        )
    if kind and kind not in plugins.kinds("tasks") and difflib.get_close_matches(kind, [OWN], cutoff=0.85):
        place = document.place(("task",)) if isinstance(document, Document) else ""
        raise ConfigError(f"{place or 'task'}: unknown kind in tasks {kind!r}: did you mean {OWN!r}?")


def locate(experiment: Experiment, name: str | None, *, runs: Path) -> Run:
    """The run folder this experiment belongs in: its own from an earlier start, or one that is not there yet.

    name   the user's: a word for a folder in `runs`, or a path; None for one that follows from the experiment
    """
    return place_for(experiment, name, runs=runs, label=experiment.name or Path(experiment.data.root).name, load=load)


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
