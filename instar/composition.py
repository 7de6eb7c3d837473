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
    parts = _parts(folder, dict(choices))
    top = parts.get((), Document({}))
    parts[()] = Document({**document, **top}, {**document.places, **top.places})
    mistakes = [mistake for package, part in parts.items() for mistake in _misread(part, package, values)]
    if mistakes:
        raise ConfigError(mistakes)
    places = {package + keys: place for package, part in reversed(parts.items()) for keys, place in part.places.items()}
    # Where a group and the recipe both say it, the recipe's place is the right one if its word is what came out.
    places |= {
        keys: place for keys, place in document.places.items() if keys and _at(document, keys) == _at(values, keys)
    }
    return Document(dict(values), places), [change for change in overrides if change not in chosen]


def _chooses(folder: Path, change: str) -> bool:
    name, _, value = change.lstrip("+~").partition("=")
    return (folder / name / f"{value}.yaml").is_file() if "." not in name else False


def _parts(folder: Path, choices: dict[str, Any]) -> dict[Keys, Document]:
    """The files that were chosen, by the group they fill; reading them raises what Hydra would let pass."""
    parts: dict[Keys, Document] = {}
    for group, choice in choices.items():
        name, at, package = group.partition("@")
        file = folder / name / f"{choice}.yaml"
        if group.startswith("hydra") or not file.is_file():
            continue
        found = read(file)
        package = package if at else _package(file) or name.replace("/", ".")
        keys: Keys = () if package == "_global_" else tuple(package.split("."))
        before = parts.get(keys)
        # Several files may fill the same package, above all the top one: the later in the list goes before.
        parts[keys] = found if before is None else Document({**before, **found}, {**before.places, **found.places})
    return parts


def _package(file: Path) -> str:
    """The package that a file of a group says itself: `# @package _global_`; '' where it says none."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            return line.removeprefix("# @package").strip()
        if line.strip() and not line.startswith("#"):
            break
    return ""


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
