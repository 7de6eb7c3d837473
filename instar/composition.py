"""Composition: a recipe with a `defaults:` list is put together by Hydra. The only door to Hydra.

Every file that takes part is read strictly first, so that a duplicate key or a `no` meant as text is not lost on the
way: Hydra decides which files and in which order, not how a word is read.
"""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from instar.documents import Document, Keys, read
from instar.errors import ConfigError
from instar.overrides import PLACE


def compose(path: Path, document: Document, overrides: Sequence[str]) -> tuple[Document, list[str]]:
    """The composed recipe, and the overrides that do not choose a file and are still to be applied.

    `optim=sgd` chooses a file where the recipe's folder has optim/sgd.yaml; anything else is a value.
    """
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException, MissingConfigException
    from hydra.types import RunMode
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folder = path.resolve().parent
    chosen = [change for change in overrides if _chooses(folder, change)]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
            loader = GlobalHydra.instance().config_loader()
            listed = loader.compute_defaults_list(path.stem, overrides=chosen, run_mode=RunMode.RUN).defaults
            values: Any = OmegaConf.to_container(hydra_compose(config_name=path.stem, overrides=chosen), resolve=True)
    except yaml.YAMLError as error:
        read(getattr(getattr(error, "problem_mark", None), "name", path))  # says the same in our words
        raise ConfigError(f"{path}: {_first_lines(error)}") from error
    except MissingConfigException as error:
        raise ConfigError(_no_such_part(path, str(error.missing_cfg_file or ""), error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {_first_lines(error)}") from error
    parts = [
        (tuple((one.package or "").split(".")) if one.package else (), _part(path, document, str(one.config_path)))
        for one in listed
        if one.config_path and not (one.package or "").startswith("hydra") and not one.config_path.startswith("hydra/")
    ]
    mistakes = [mistake for package, part in parts for mistake in _misread(part, package, values)]
    chosen_from = {str(one.config_path).rpartition("/")[0] for one in listed if one.config_path}
    mistakes += [
        f"{PLACE}: {change!r}: {_no_such_part(path, '/'.join(_choice(change)))}"
        for change in overrides
        if (name := _choice(change)[0]) in chosen_from and name not in values and change not in chosen
    ]
    if mistakes:
        raise ConfigError(mistakes)
    # In the order in which they were laid over one another: the last place is the one whose word came out.
    places = {package + keys: place for package, part in parts for keys, place in part.places.items()}
    return Document(dict(values), places), [change for change in overrides if change not in chosen]


def instantiate(given: dict[str, Any]) -> dict[str, Any]:
    """The values, with an object instead of every mapping that has a `_target_`, as Hydra makes them."""
    from hydra.utils import instantiate as hydra_instantiate

    return dict(hydra_instantiate(given, _convert_="all"))


def _chooses(folder: Path, change: str) -> bool:
    name, value = _choice(change)
    return (folder / name / f"{value}.yaml").is_file() if "." not in name else False


def _choice(change: str) -> tuple[str, str]:
    """The group and the file of `model=dense`, or of `model@task=dense`, which says where its values go."""
    name, _, value = change.lstrip("+~").partition("=")
    return name.partition("@")[0], value


def _no_such_part(path: Path, wanted: str, error: Exception | None = None) -> str:
    """`there is no configs/cluster/nope.yaml`, with what lies there instead, or the near miss."""
    if not wanted:
        return f"{path}: {_first_lines(error) if error else 'a file of its defaults is not there'}"
    folder = path.parent
    every = sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
    beside = [Path(one).name for one in every if Path(one).parent == Path(wanted).parent]
    near = difflib.get_close_matches(wanted, every, n=1, cutoff=0.8)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(beside) or 'none'}."
    return f"{path}: there is no {folder / wanted}.yaml. {hint}"


def _part(path: Path, document: Document, name: str) -> Document:
    """One of the files that take part, by its path below the recipe's folder; raises what Hydra would let pass."""
    return document if name == path.stem else read(path.parent / f"{name}.yaml")


def _misread(part: Document, package: Keys, composed: Any) -> Iterator[str]:
    """Words that Hydra's YAML 1.1 takes for booleans and we do not."""
    for keys, place in part.places.items():
        word, value = _at(part, keys), _at(composed, package + keys)
        if isinstance(word, str) and isinstance(value, bool):
            name = ".".join(map(str, package + keys))
            yield f"{place}: {name} is {word}, but must be true or false, or stand in quotes"


def _at(values: Any, keys: Keys) -> Any:
    for key in keys:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:3])
