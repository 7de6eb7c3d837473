"""Settings: typed, frozen, closed. What every recipe, plug-in and site is made of."""

from pydantic import BaseModel, ConfigDict

from instar.spans import Span, Time, Training

__all__ = ["Settings", "Span", "Time", "Training"]


class Settings(BaseModel):
    """The base of all settings: frozen, and an unknown key is a mistake.

    The docstring under each field is what `instar show` prints beside it.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        ser_json_inf_nan="constants",
    )
