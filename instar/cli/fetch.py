"""Download the weights a recipe starts from, where there is network, and lock them by sha256

    instar fetch RECIPE key=value      what the recipe needs, into the ordinary caches (HF_HOME, TORCH_HOME);
                                       writes RECIPE.lock.yaml beside it
    instar fetch MODEL…                timm/resnet18, torchvision/maxvit_t: only into the caches
    instar fetch RECIPE --check        verify every byte of what the lock names, without network

    --on SITE       into the caches of that site's jobs, where it names a folder; by default INSTAR_SITE
    caches=FOLDER   into the caches in that folder
    --renew         put what is found now into the lock, although it says otherwise
    --quiet --json

Nothing else of Instar uses the network. Training names a missing file at once, with this command.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import caches, plugins, terminal
from instar.cli.words import Words
from instar.errors import DONE, ConfigError
from instar.formats import one_line, size

if TYPE_CHECKING:
    from instar.experiment import Experiment

FLAGS = ("check", "renew", "on=")
THINGS = (1, 99)


def run(words: Words) -> int:
    changes = [change for change in words.changes if change.partition("=")[0] not in ("caches", "on")]
    _point_caches(words)
    told = [_one(thing, changes, words) for thing in words.things]
    if "json" in words:
        terminal.say(json.dumps(told))
    return DONE


def _point_caches(words: Words) -> None:
    """Let the libraries keep their files where the jobs will look for them."""
    given = dict(change.split("=", 1) for change in words.changes if change.partition("=")[0] in ("caches", "on"))
    folder, name = given.get("caches", ""), given.get("on") or os.environ.get("INSTAR_SITE")
    if folder:
        # Whoever names a folder here means it, whatever else is set.
        os.environ.update(caches.environment(str(Path(folder).expanduser().absolute()), given={}))
    elif name:
        from instar import site

        folder = os.path.expandvars(site.load(name).caches or "")
        if "$" in folder:
            raise ConfigError(
                f"site {name}: caches is {folder!r}, which this shell does not know. Write caches=FOLDER."
            )
        os.environ.update(caches.environment(folder) if folder else {})


def _one(thing: str, changes: list[str], words: Words) -> dict[str, Any]:
    """Fetch or check for one recipe or model; the facts of it."""
    from instar import lock

    experiment, is_recipe = _wanted(thing, changes)
    file = lock.beside(Path(thing)) if is_recipe else None
    loud = "json" not in words and "quiet" not in words
    if lock.asked(experiment) is None:
        if loud:
            terminal.say(f"none     {one_line(thing)} starts from no weights that must be downloaded")
        return {"thing": thing, "weights": []}
    if "check" in words:
        return _checked(thing, experiment, file, changes, loud=loud)
    from instar import fetch

    def tell(download: Any) -> None:
        if loud:
            terminal.say(f"get      {one_line(str(download))} …")

    fetched = fetch.fetch(experiment, file, renew="renew" in words, tell=tell)
    if loud:
        for one in fetched:
            terminal.say(f"{'got' if one.new else 'have':<9}{one_line(str(one.path))}   {size(one.facts['bytes'])}")
        if file is not None:
            terminal.say(f"lock     {one_line(str(file))}")
            terminal.say(f"next     {lock.command(thing, changes, {}).replace('instar fetch', 'instar train', 1)}")
    return {"thing": thing, "lock": file and str(file), "weights": [{**one.facts, "new": one.new} for one in fetched]}


def _checked(
    thing: str, experiment: "Experiment", file: Path | None, changes: list[str], *, loud: bool
) -> dict[str, Any]:
    from instar import fetch, lock

    if file is None:
        raise ConfigError(f"{thing} is a model, and only recipes have a lock. Name a recipe.")
    locked = fetch.check(experiment, file, command=lock.command(thing, changes, {}))
    if loud:
        for one in locked:
            terminal.say(f"whole    {one_line(one.source)} ({one_line(one.file)})   {size(one.bytes)}")
        terminal.say(f"lock     {one_line(str(file))}")
    return {"thing": thing, "lock": str(file), "weights": [one.model_dump(mode="json") for one in locked]}


def _wanted(thing: str, changes: list[str]) -> tuple["Experiment", bool]:
    """What a recipe, a folder or the name of a model stands for, and whether it is a recipe."""
    from instar import experiment as experiments
    from instar.cli.train import long_name

    changes = [long_name(change) for change in changes]
    kind, _, name = thing.partition("/")
    is_model = not Path(thing).exists() and not thing.endswith((".yaml", ".yml"))
    if not is_model:
        return experiments.load(thing, changes), True
    if name and kind not in plugins.kinds("models"):
        wrong = plugins.unknown(kind, plugins.kinds("models"), what="kind of model")
        raise ConfigError(f"{thing} is no file or folder here, and {wrong}")
    model: Any = {"kind": kind, "name": name} if name else thing
    return experiments.load({"data": {"root": "."}, "model": model}, ["model.pretrained=true", *changes]), False
