"""A tracker that hangs, raises or dies."""

from typing import Any, Literal

from instar.points import About
from instar.settings import Settings as Base

PACKAGES = ()
SECRETS = ("MISBEHAVING_",)


class Settings(Base):
    """A tracker that hangs, raises or dies."""

    kind: Literal["tests.fakes.misbehaving"] = "tests.fakes.misbehaving"
    """A tracker that hangs, raises or dies."""
    how: Literal["hang", "raise", "once", "die"] = "hang"
    """What it does."""


def open(settings: Settings, about: About, kept: dict[str, Any]) -> Any:
    from tests.fakes.tracked import Misbehaving

    return Misbehaving(settings.how, about)
