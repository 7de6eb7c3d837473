"""Composition: a recipe with a `defaults:` list is put together by Hydra. The only door to Hydra.

Every file that takes part is read strictly first, so that a duplicate key or a `no` meant as text is not lost on the
way: Hydra decides which files and in which order, not how a word is read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from instar.documents import Document, Keys, read
from instar.errors import ConfigError


def compose(path: Path, document: Document, overrides: Sequence[str]) -> tuple[Document, list[str]]:
    """The composed recipe, and the overrides that do not choose a file and are still to be applied.

    `optim=sgd` chooses a file where the recipe's folder has optim/sgd.yaml; anything else is a value.
    """
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folder = path.resolve().parent
    chosen = [change for change in overrides if _chooses(folder, change)]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
            whole = hydra_compose(config_name=path.stem, overrides=chosen, return_hydra_config=True)
            choices: Any = OmegaConf.to_container(whole.hydra.runtime.choices)
            OmegaConf.set_readonly(whole, False)
            OmegaConf.set_struct(whole, False)
            del whole["hydra"]
            values: Any = OmegaConf.to_container(whole, resolve=True)
    except yaml.YAMLError as error:
        read(getattr(getattr(error, "problem_mark", None), "name", path))  # says the same in our words
        raise ConfigError(f"{path}: {_first_lines(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {_first_lines(error)}") from error
    parts = {(): document, **_parts(folder, dict(choices))}
    mistakes = [mistake for package, part in parts.items() for mistake in _misread(part, package, values)]
    if mistakes:
        raise ConfigError(mistakes)
    places = {package + keys: place for package, part in reversed(parts.items()) for keys, place in part.places.items()}
    return Document(dict(values), places), [change for change in overrides if change not in chosen]


def _chooses(folder: Path, change: str) -> bool:
    name, _, value = change.lstrip("+~").partition("=")
    return (folder / name / f"{value}.yaml").is_file() if "." not in name else False


def _parts(folder: Path, choices: dict[str, Any]) -> dict[Keys, Document]:
    """The files that were chosen, by the group they fill; reading them raises what Hydra would let pass."""
    files = {
        tuple(group.split("@")[-1].split("/")): folder / group.split("@")[0] / f"{choice}.yaml"
        for group, choice in choices.items()
        if not group.startswith("hydra")
    }
    return {package: read(file) for package, file in files.items() if file.is_file()}


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
