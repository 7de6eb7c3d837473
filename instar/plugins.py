"""Shelves: `kind: classification` is the module `instar/tasks/classification.py`, nothing more.

There is no registry. A dotted kind (`mylab.tasks.counting`) is a module of the user's own.
Listing a shelf reads file names and imports nothing.
"""

import difflib
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

from instar.errors import ConfigError

SHELVES = (
    *("readers", "models", "tasks", "optimizers", "schedules", "balancers", "clusters"),
    *("explainers", "exporters", "trackers"),
)
# Kinds that people bring from elsewhere, and why they cannot be had.
GONE = {
    ("trackers", "neptune"): "'neptune' is gone: the service shut down in March 2026 and its data with it. "
    "The nearest there is: wandb, or mlflow with a server",
}

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


def kinds(shelf: str) -> list[str]:
    """The kinds on a shelf, in alphabetical order, without importing any of them."""
    folder = Path(__file__).parent / shelf
    return sorted(file.stem for file in folder.glob("[a-z]*.py"))


def load(shelf: str, kind: str) -> ModuleType:
    """The module behind `kind`.

    Raises ConfigError where there is no such kind, naming the near miss, or where the user's module does not import.
    """
    if not _NAME.fullmatch(kind):
        raise ConfigError(f"{kind!r} is not a kind: write one of {', '.join(kinds(shelf))}, or a dotted module name")
    if (shelf, kind) in GONE:
        raise ConfigError(GONE[shelf, kind])
    if "." not in kind:
        if kind not in kinds(shelf):
            raise ConfigError(unknown(kind, kinds(shelf), what=f"kind in {shelf}"))
        return importlib.import_module(f"instar.{shelf}.{kind}")
    try:
        return importlib.import_module(kind)
    except ImportError as error:
        raise ConfigError(
            f"{kind!r} cannot be imported: {error}. Is the package installed, or on PYTHONPATH?"
        ) from error


def unknown(name: str, allowed: list[str], *, what: str = "name", otherwise: str = "") -> str:
    """One sentence that says `name` is unknown, with the near miss or, failing that, everything allowed.

    otherwise   is said instead of that
    """
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {near[0]!r}?" if near else otherwise or f"known: {', '.join(allowed)}"
    return f"unknown {what} {name!r}: {hint}"
