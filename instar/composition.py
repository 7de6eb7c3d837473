"""Composition: a recipe with a `defaults:` list is put together by Hydra. The only door to Hydra.

Every file that takes part is read strictly first, so that a duplicate key or a `no` meant as text is not lost on the
way: Hydra decides which files and in which order, not how a word is read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instar.documents import Document, Keys, read
from instar.errors import ConfigError


def compose(path: Path, document: Document, overrides: Sequence[str]) -> tuple[Document, list[str]]:
    """The composed recipe, and the overrides that do not choose a file and are still to be applied.

    `optim=sgd` chooses a file where the recipe's folder has optim/sgd.yaml; anything else is a value.
    """
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
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {_first_lines(error)}") from error
    places = _places(folder, document, dict(choices))
    return Document(dict(values), places), [change for change in overrides if change not in chosen]


def _chooses(folder: Path, change: str) -> bool:
    name, _, value = change.lstrip("+~").partition("=")
    return (folder / name / f"{value}.yaml").is_file() if "." not in name else False


def _places(folder: Path, document: Document, choices: dict[str, Any]) -> dict[Keys, str]:
    """Where each value stands, later files over earlier ones; reading them raises what Hydra would let pass."""
    places: dict[Keys, str] = {}
    for group, choice in choices.items():
        file = folder / group / f"{choice}.yaml"
        if not group.startswith("hydra") and file.is_file():
            package = tuple(group.split("@")[-1].split("/"))
            places |= {package + keys: place for keys, place in read(file).places.items()}
    return places | {keys: place for keys, place in document.places.items() if keys[:1] != ("defaults",)}


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:3])
