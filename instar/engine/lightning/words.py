"""What is said where the user's own code, or Lightning, does not go on."""

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from instar.engine import definition
from instar.errors import ConfigError, InstarError, LearningError
from instar.plugins import unknown

if TYPE_CHECKING:
    from instar.engine.lightning.session import Session


def never_logged(session: "Session", name: str, known: list[str]) -> str:
    hint = unknown(name, known, what="name") if known else "it logs nothing"
    return (
        f"train.monitor={name}, but {place_of(session, 'validation_step')}the module never logged it: {hint}. Write "
        f"self.log({name!r}, …), or another train.monitor"
    )


def not_logged_yet(name: str, known: list[str]) -> str:
    return f"train.monitor={name} is not logged yet, by a step or a try at validation: {unknown(name, known)}"


def place_of(session: "Session", method: str) -> str:
    """`my/models/baseline.py:41: `: where the user's own method stands."""
    for source in (session.datamodule, session.module):
        found = getattr(type(source), method, None)
        if found is not None and found.__module__.partition(".")[0] != "lightning":
            code = getattr(inspect.unwrap(found), "__code__", None)
            if code is not None:
                return f"{definition.short(code.co_filename)}:{code.co_firstlineno}: "
    return ""


@contextmanager
def blaming(session: "Session", what: str) -> Iterator[None]:
    """Let what the user's own code raises say its file and line, and what Lightning refuses in it where it stands."""
    try:
        yield
    except InstarError:
        raise
    except Exception as error:
        if definition.line_of(error.__traceback__):
            raise LearningError(f"{definition.blame(error)} (while {what})") from error
        if isinstance(error, MisconfigurationException) or definition.raised_in(error, "lightning"):
            raise ConfigError(f"{definition.place_of(session.module)}Lightning refuses this: {first(error)}") from error
        raise


@contextmanager
def refused() -> Iterator[None]:
    """Say in one line what Lightning's Trainer refuses, or lacks, while it is made."""
    try:
        yield
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: Lightning refuses this: {first(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning's advice and its announcements are left out; its warnings are not."""
    logger = logging.getLogger("lightning.pytorch")
    fabric = logging.getLogger("lightning.fabric")
    before = logger.level, fabric.level
    logger.setLevel(logging.WARNING)
    fabric.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Ours do not score, so a checkpoint's callbacks are not all there.
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks")
            # Torch's own, which Lightning has not followed yet.
            warnings.filterwarnings("ignore", message=".*(isinstance\\(treespec|LeafSpec).*")
            yield
    finally:
        logger.setLevel(before[0])
        fabric.setLevel(before[1])


def first(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:3])[:400] or type(error).__name__
