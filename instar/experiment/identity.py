"""What makes one training another than the next, and the folder that is its own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from instar.run import Run, name_for
from instar.settings import Settings


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
