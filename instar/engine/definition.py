"""The user's own code: imported, made, and blamed by file and line where it raises."""

import importlib
import inspect
import sys
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from instar.brought import Definition, targets
from instar.errors import ConfigError

_LIBRARIES = tuple(
    str(Path(path).resolve())
    for path in (*{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},)
)
_OURS = str(Path(__file__).resolve().parents[1])


def find(what: Definition) -> Any:
    """The class or function; raises ConfigError naming the line of the user's file that cannot be run."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does, so that a script of the environment finds the same
    try:
        return getattr(importlib.import_module(what.module), what.definition)
    except Exception as error:
        raise ConfigError(f"{what.module}.{what.definition} cannot be imported: {blame(error)}") from error


def make(what: Definition, base: type, key: str) -> Any:
    """An object of the class; raises ConfigError where it is no `base`, or raises itself."""
    found = find(what)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{key}: {what.module}.{what.definition} is no {base.__name__}: {found!r}")
    try:
        return found(**_arguments(what.args, key))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{key}: {what.definition} cannot be made: {blame(error)}") from error


def _arguments(given: dict[str, Any], key: str) -> dict[str, Any]:
    """The arguments, with the objects made that have a `_target_`; raises ConfigError naming the one that cannot be."""
    if not any(targets(given)):
        return given
    from instar.composition import instantiate

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return instantiate(given)
    except Exception as error:
        cause = error.__cause__ or error
        where = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else ""
        raise ConfigError(f"{key}{f'.{where}' if where else ''} cannot be made: {blame(cause)}") from cause


def blame(error: BaseException) -> str:
    """`my/models/baseline.py:41, in training_step: ValueError: …`: the innermost line of the user's own code."""
    said = "; ".join(line.strip() for line in str(error).strip().splitlines()[:3])
    told = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{short(error.filename)}:{error.lineno}: {error.msg}"
    place = line_of(error.__traceback__)
    return f"{place}: {told}" if place else told


def line_of(found: TracebackType | None) -> str:
    """The innermost line of the user's own code in a traceback; '' where there is none."""
    for frame in reversed(traceback.extract_tb(found)):
        if _is_own(frame.filename):
            return f"{short(frame.filename)}:{frame.lineno}, in {frame.name}"
    return ""


def own_traceback(error: BaseException | None) -> str:
    """The frames of an error that are the user's own code, as Python shows them; '' where there are none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)] if error else []
    return "".join([*traceback.format_list(frames), *traceback.format_exception_only(error)]) if frames else ""


def raised_in(error: BaseException, package: str) -> bool:
    """Whether a package's own code raised it, rather than something that this calls."""
    frames, file = traceback.extract_tb(error.__traceback__), getattr(sys.modules.get(package), "__file__", None)
    return bool(frames) and file is not None and Path(frames[-1].filename).is_relative_to(Path(file).parent)


def place_of(made: object) -> str:
    """`my/models/baseline.py:9, Baseline: `: where the class of an object stands; '' where nobody can tell."""
    try:
        file, (_, line) = inspect.getsourcefile(type(made)), inspect.getsourcelines(type(made))
    except (OSError, TypeError):
        return ""
    return f"{short(file)}:{line}, {type(made).__name__}: " if file else ""


def _is_own(file: str) -> bool:
    path = str(Path(file).resolve())
    return not (file.startswith("<") or path.startswith((*_LIBRARIES, _OURS)) or "/site-packages/" in path)


def short(file: str) -> str:
    """A file as one would type it from here."""
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
