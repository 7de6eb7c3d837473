"""Lock: which files of weights a recipe starts from, with size and sha256. It stands beside the recipe.

    weights:
    - model: {kind: timm, name: resnet18, pretrained: true, size: 224}
      source: timm/resnet18.a1_in1k
      revision: 491b427b45c94c7fb0e78b5474cc919aff584bbf
      file: model.safetensors
      bytes: 46807446
      sha256: …

`instar fetch` writes it. Everything else reads it, and never asks the network.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, JsonValue

from instar import caches, documents, plugins, weights
from instar.errors import WeightsError
from instar.experiment import Experiment
from instar.run import write_atomically
from instar.settings import Settings
from instar.validation import validate
from instar.weights import Download, Missing

# Settings of a model that change nothing about the files it is downloaded from.
_BESIDES = ("weights", "trust", "branch", "freeze", "train_only", "dropout", "args")


class Locked(Settings):
    """One file, and the model that starts from it."""

    model: dict[str, JsonValue]
    """The settings that decide which file it is, and the size of the images."""
    source: str
    """The repository on the hub, or the address."""
    revision: str = ""
    """The commit of the repository."""
    file: str
    """Its name there."""
    bytes: Annotated[int, Field(ge=0)]
    """Its size."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Its content."""


class Lock(Settings):
    """All files of one recipe."""

    weights: tuple[Locked, ...] = ()
    """The files, in the order of model and name."""


def beside(source: Path) -> Path:
    """The file of the lock that belongs to a recipe, a run folder or a folder of images."""
    saved = source / "experiment.yaml"
    path = saved if saved.is_file() else source if source.name else source.absolute()
    stem = path.stem if path.suffix in (".yaml", ".yml") and not path.is_dir() else path.name or "images"
    return path.parent / f"{stem}.lock.yaml"


def read(file: Path) -> Lock:
    """The lock in a file, an empty one where there is none; raises ConfigError where it is not a lock."""
    return validate(Lock, documents.read(file)) if file.exists() else Lock()


def write(lock: Lock, file: Path) -> None:
    """Write it whole or not at all, the same bytes for the same files; raises WeightsError where it cannot."""
    ordered = sorted(lock.weights, key=lambda one: (str(sorted(one.model.items())), one.source, one.file))
    head = f"# The weights that {file.name.removesuffix('.lock.yaml')} starts from, by `instar fetch`. Keep it there.\n"
    content = head + documents.dump({"weights": [one.model_dump(mode="json") for one in ordered]})
    try:
        if not file.exists() or file.read_text(encoding="utf-8") != content:
            write_atomically(file, content)
    except OSError as error:
        raise WeightsError(f"{file} cannot be written: {error.strerror}. The weights are here all the same.") from error


def asked(experiment: Experiment) -> dict[str, Any] | None:
    """What decides which files a model is downloaded from; None for one that starts without any.

    A kind of model that can be downloaded has a setting `pretrained` and a function `downloads`.
    """
    settings = experiment.model
    shelf = plugins.load("models", settings.kind)
    if not getattr(settings, "pretrained", False) or getattr(shelf, "downloads", None) is None:
        return None
    told = settings.model_dump(mode="json")
    return {name: value for name, value in told.items() if name not in _BESIDES} | {"size": experiment.augment.size}


def entries(experiment: Experiment, lock: Lock) -> list[Locked]:
    """The files that the lock names for this experiment's model."""
    wanted = asked(experiment)
    return [one for one in lock.weights if one.model == wanted]


def downloads(experiment: Experiment) -> list[Download]:
    """The files this experiment starts from, as the model's library declares them; may import that library."""
    if asked(experiment) is None:
        return []
    found: list[Download] = plugins.load("models", experiment.model.kind).downloads(
        experiment.model, size=experiment.augment.size
    )
    return found


def download_of(locked: Locked) -> Download:
    """Where a locked file comes from, and so where it lies."""
    return weights.on_hub(locked.source, locked.file) if locked.revision else weights.at(locked.source)


def missing(experiment: Experiment, file: Path, *, command: str) -> list[Missing]:
    """What must be fetched before a node without network can begin; imports no library of models.

    file      the lock; without one nobody can say which files are needed
    command   gets what is missing
    """
    own = _own_weights(experiment)
    if asked(experiment) is None:
        return own
    known = [download_of(one) for one in entries(experiment, read(file))]
    if not known:
        state = "does not say" if file.exists() else "is not there to say"
        what = f"model.pretrained: {file} {state} which weights {_named(experiment)} starts from"
        return [*own, Missing(what, weights.where_network(command))]
    return [*own, *_absent(known, command=command)]


def check(experiment: Experiment, file: Path, *, command: str) -> None:
    """Raises WeightsError naming every file that is not here. With a lock this takes no time and no import."""
    found = _own_weights(experiment)
    if asked(experiment) is not None:
        if entries(experiment, read(file)):
            found = missing(experiment, file, command=command)
        elif not _anything_cached():
            what = (
                f"model.pretrained: the weights of {_named(experiment)} are not here (nothing is in {caches.hub()} or "
                f"{caches.torch_hub()})"
            )
            found.append(Missing(what, weights.where_network(command)))
        else:
            found += _absent(downloads(experiment), command=command)
    if found:
        raise WeightsError("\n".join(map(str, found)))


def used(experiment: Experiment, file: Path | None, *, command: str) -> list[dict[str, Any]]:
    """The files this experiment starts from, with size and sha256, as a run records them.

    file   the lock they must agree with, where there is one
    Raises WeightsError for a file that is missing, or not what the lock says.
    """
    records = [record(one, weights.found(one, command=command)) for one in downloads(experiment)]
    locked = entries(experiment, read(file)) if file is not None else []
    expected = {(one.source, one.file): one.sha256 for one in locked}
    wrong = [
        differs(Path(one["path"]), expected[one["source"], one["file"]], one["sha256"], by=str(file))
        for one in records
        if expected.get((one["source"], one["file"]), one["sha256"]) != one["sha256"]
    ]
    if wrong:
        raise WeightsError("\n".join(wrong))
    return records


def record(download: Download, path: Path) -> dict[str, Any]:
    """The facts of one file, JSON-ready."""
    return {
        "source": download.source,
        "revision": weights.commit(download) if download.revision else "",
        "file": next(name for name in download.files if path.match(name)),
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": weights.digest(path),
    }


def verify(lock: Lock, *, name: str) -> list[str]:
    """What is wrong with the files of a lock, one sentence each, after reading every byte of them."""
    found = []
    for one in lock.weights:
        path = weights.located(download_of(one))
        if path is None:
            found.append(f"{download_of(one)} is not in {weights.folder_of(download_of(one))}")
        elif (value := weights.digest(path, again=True)) != one.sha256:
            found.append(differs(path, one.sha256, value, by=name))
    return found


def differs(path: Path, expected: str, found: str, *, by: str) -> str:
    """The sentence for a file whose bytes are not those that were expected."""
    # On the hub's side of a cache the name is a link, and removing only that would bring the same bytes back.
    return f"{path}: expected sha256 {expected} ({by}), found {found}. Remove {path.resolve()} and fetch it again."


def command(source: str, changes: Sequence[str], environment: dict[str, str]) -> str:
    """The command that gets what an experiment needs, as one would type it.

    environment   variables to begin with, where caches are not where a shell would look for them
    """
    import shlex

    before = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*before, "instar fetch", *(shlex.quote(word) for word in (source, *changes) if word)])


def _own_weights(experiment: Experiment) -> list[Missing]:
    own: Path | None = getattr(experiment.model, "weights", None)
    if own is None or own.exists():
        return []
    return [Missing(f"model.weights: {own} does not exist", "Give a file, or the folder of a run, that does.")]


def _absent(wanted: Sequence[Download], *, command: str) -> list[Missing]:
    return [weights.missing(one, command=command) for one in wanted if weights.located(one) is None]


def _named(experiment: Experiment) -> str:
    return f"{getattr(experiment.model, 'name', '')} ({experiment.model.kind})".strip()


def _anything_cached() -> bool:
    for folder in (caches.hub(), caches.torch_hub()):
        try:
            with os.scandir(folder) as inside:
                if any(True for _ in inside):
                    return True
        except OSError:
            continue
    return False
