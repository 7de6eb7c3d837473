"""Settings: typed, frozen, closed. What every recipe, plug-in and site is made of."""

import difflib
import importlib.util
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from instar import documents, plugins
from instar.documents import Document, parse, read
from instar.errors import ConfigError
from instar.overrides import override
from instar.spans import Span, Time, Training

__all__ = [
    "Document",
    "Settings",
    "Shelf",
    "Span",
    "Time",
    "Training",
    "dump",
    "override",
    "parse",
    "read",
    "schema",
]


def _strict(schema: Any) -> Any:
    """The schema with numbers and booleans taken as they are: "5", `yes` and 1 are not turned into 5 and true."""
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool"):
            schema["strict"] = True
        for part in schema.values():
            _strict(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _strict(part)
    return schema


class Settings(BaseModel):
    """The base of all settings: frozen, and an unknown key is a mistake.

    The docstring under each field is what `instar show` prints beside it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, ser_json_inf_nan="constants"
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _strict(handler(source))


@dataclass(frozen=True)
class Shelf:
    """Marks a field that holds the settings of one plug-in: `model: Annotated[Any, Shelf("models", …)]`.

    The value may be a kind (`cosine`), or a mapping with `kind` and the plug-in's own keys.

    shelf     folder of the plug-ins
    default   the kind where none is said
    names     whether a word that is no kind is the `name` of the default kind: `model: resnet50`
    """

    shelf: str
    default: str
    names: bool = False

    def spelled_out(self, value: Any) -> dict[str, Any]:
        """The mapping, `kind` first, that a short form stands for."""
        given = {"kind": value} if isinstance(value, str) else dict(value)
        kind = given.pop("kind", self.default)
        if self.names and "name" not in given and self._is_name(kind):
            return {"kind": self.default, "name": kind, **given}
        return {"kind": kind, **given}

    def settings(self, kind: str) -> type[Settings]:
        """The settings class of a kind; raises ConfigError where there is none."""
        found = getattr(plugins.load(self.shelf, kind), "Settings", None)
        if not (isinstance(found, type) and issubclass(found, Settings)):
            raise ConfigError(f"{kind!r} has no class Settings(instar.settings.Settings)")
        return found

    def _is_name(self, kind: Any) -> bool:
        kinds = plugins.kinds(self.shelf)
        # A near miss of a kind is a slip of the pen, not the name of a network.
        if not isinstance(kind, str) or kind in kinds or difflib.get_close_matches(kind, kinds, cutoff=0.9):
            return False
        # `mylab.models.tiny` is a module of the user's; `vit_small_patch16_224.dino` is a network with a tag.
        package, dot, _ = kind.partition(".")
        return not (dot and package.isidentifier() and importlib.util.find_spec(package))

    def _validated(self, value: Any) -> Settings:
        if isinstance(value, Settings):
            return value
        if not isinstance(value, str | dict):
            raise PydanticCustomError("plugin", "must be a kind, or a mapping with `kind` and its settings")
        given = self.spelled_out(value)
        try:
            settings = self.settings(given["kind"] if isinstance(given["kind"], str) else repr(given["kind"]))
        except ConfigError as error:
            raise PydanticCustomError("kind", "{text}", {"text": str(error)}) from error
        return settings.model_validate(given)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validated, serialization=core_schema.plain_serializer_function_ser_schema(_plain)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        kinds = plugins.kinds(self.shelf)
        word: dict[str, Any] = {"type": "string"} if self.names else {"enum": kinds}
        return {"anyOf": [word, *(handler(self.settings(kind).__pydantic_core_schema__) for kind in kinds)]}


def _plain(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def schema(settings: type[Settings]) -> dict[str, Any]:
    """The JSON schema of these settings, with defaults as one would write them."""
    from pydantic.json_schema import GenerateJsonSchema  # few commands want it, all would wait for it

    class Readable(GenerateJsonSchema):
        def encode_default(self, dft: Any) -> Any:
            return super().encode_default(str(dft) if isinstance(dft, Span) else dft)

    return settings.model_json_schema(schema_generator=Readable)


def dump(settings: Settings) -> str:
    """The settings as YAML; read back and validated they are equal."""
    return documents.dump(settings.model_dump(mode="json"))
