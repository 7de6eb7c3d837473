"""Validation: a document becomes settings, or every mistake in it becomes one sentence with its place."""

import difflib
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from instar import plugins
from instar.documents import Document, Keys, copy
from instar.errors import ConfigError
from instar.overrides import attempt
from instar.settings import Settings, Shelf

S = TypeVar("S", bound=Settings)

_SECRETS = frozenset(
    "password passwd secret token api_key apikey access_key secret_key auth_token access_token credentials".split()
)


def validate(settings: type[S], document: dict[str, Any], overrides: Sequence[str] = ()) -> S:
    """The settings a document spells after `key=value` overrides; raises ConfigError with all mistakes of both."""
    document, wrong = attempt(document, overrides)
    try:
        valid = settings.model_validate(dict(document))
    except ValidationError as error:
        mistakes = _Mistakes(settings, document)
        mistakes.add(error)
        mistakes.add_conflicts()
        raise ConfigError(wrong + mistakes.sentences()) from error
    wrong += _secrets(document, document)
    if wrong:
        raise ConfigError(wrong)
    return valid


def _secrets(document: Any, part: Any, above: Keys = ()) -> list[str]:
    """A sentence for each text that is written in a setting with the name of a secret; the text is not in it."""
    found = []
    for name, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        keys = (*above, name)
        if isinstance(value, str) and value and str(name).lower() in _SECRETS:
            place = f"{document.place(keys)}: " if isinstance(document, Document) else ""
            found.append(
                f"{place}{'.'.join(map(str, keys))} is a secret, which every run would keep and show with its recipe. "
                f"Leave it out; whatever needs it reads it from the environment."
            )
        found += _secrets(document, value, keys)
    return found


def conflict(found: list[tuple[tuple[str, ...], str]]) -> PydanticCustomError:
    """The error that says which settings do not go together: dotted keys, the first of them to blame, and why."""
    text = "; ".join(f"{keys[0]}: {why}" for keys, why in found)
    return PydanticCustomError("conflict", "{text}", {"text": text, "found": found})


class _Mistakes:
    """Collects what is wrong with one document, by key."""

    def __init__(self, settings: type[Settings], document: dict[str, Any]):
        self._settings = settings
        self._document = document
        self._found: dict[Keys, list[dict[str, Any]]] = {}

    def add(self, error: ValidationError) -> None:
        for one in error.errors(include_url=False):
            if one["type"] == "conflict":
                self._add_conflicts_of(one)
            else:
                keys = _keys(self._document, one["loc"], missing=one["type"] == "missing")
                self._found.setdefault(keys, []).append(dict(one))

    def add_conflicts(self) -> None:
        """Settings that do not go together show only once all else is right: try without what is wrong."""
        try:
            self._settings.model_validate(self._without_mistakes())
        except ValidationError as error:
            for one in error.errors(include_url=False):
                if one["type"] == "conflict":
                    self._add_conflicts_of(one)

    def sentences(self) -> list[str]:
        """One a mistake, in the order of the document's lines."""
        places = getattr(self._document, "places", {})
        order = {keys: number for number, keys in enumerate(places)}
        known = sorted(self._found, key=lambda keys: max(order.get(keys[:n], -1) for n in range(len(keys) + 1)))
        return [self._sentence(keys, self._found[keys]) for keys in known]

    def _add_conflicts_of(self, error: Any) -> None:
        group = _keys(self._document, error["loc"], missing=False)
        for names, why in error["ctx"]["found"]:
            all_keys = [(*group, *name.split(".")) for name in names]
            if not any(keys[: len(bad)] == bad for keys in all_keys for bad in self._found):
                self._found[all_keys[0]] = [{"type": "conflict", "msg": why}]

    def _without_mistakes(self) -> dict[str, Any]:
        document = copy(self._document)
        for keys, errors in self._found.items():
            try:
                parent = _at(document, keys[:-1])
            except (KeyError, TypeError):  # what is above it was wrong too, and is gone
                continue
            if not keys or not isinstance(parent, dict):
                continue
            if errors[0]["type"] == "missing":
                parent[keys[-1]] = "."
            else:
                parent.pop(keys[-1], None)
        return document

    def _sentence(self, keys: Keys, errors: list[dict[str, Any]]) -> str:
        place = self._document.place(keys) if isinstance(self._document, Document) else ""
        name, first = ".".join(map(str, keys)), errors[0]
        before = f"{place}: " if place else ""
        if first["type"] == "extra_forbidden":
            return f"{before}unknown key {name!r}: {self._near_miss(keys)}"
        if first["type"] == "missing":
            return f"{before}{name} is missing. {self._about(keys)}"
        if first["type"] in ("kind", "conflict"):
            return f"{before}{name}: {first['msg']}"
        value = _at(self._document, keys)
        if isinstance(value, dict | list) and first["type"] == "value_error":
            return f"{before}{name}: {_wanted(first)}"
        wanted = " or ".join(dict.fromkeys(_wanted(error).removeprefix("must be ") for error in errors))
        return f"{before}{name} is {_shown(value)}, but must be {wanted}{_hint(value, errors)}"

    def _near_miss(self, keys: Keys) -> str:
        *parents, name = map(str, keys)
        here = _settings_at(self._settings, self._document, parents)
        fields = list(here.model_fields) if here else []
        near = difflib.get_close_matches(name, fields, n=1)
        if near:
            return f"did you mean {'.'.join([*parents, near[0]])!r}?"
        kinds = self._kinds_with(parents, name)
        if kinds:
            return f"it belongs to {' and '.join(f'kind {kind!r}' for kind in kinds)}"
        elsewhere = {path.rpartition(".")[2]: path for path in _paths(self._settings, self._document)}
        near = difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.8)
        if near:
            return f"did you mean {elsewhere[near[0]]!r}?"
        return f"known here: {', '.join(fields)}"

    def _kinds_with(self, parents: list[str], name: str) -> list[str]:
        """Kinds on the same shelf that have a setting of this name."""
        if not parents:
            return []
        above = _settings_at(self._settings, self._document, parents[:-1])
        shelf = shelf_of(above, parents[-1]) if above else None
        if not shelf and above is not None and parents[-1].isdecimal():
            outer = _settings_at(self._settings, self._document, parents[:-2])
            shelf = shelf_of(outer, parents[-2]) if outer else None
        if not shelf:
            return []
        return [kind for kind in plugins.kinds(shelf.shelf) if name in shelf.settings(kind).model_fields]

    def _about(self, keys: Keys) -> str:
        above = _settings_at(self._settings, self._document, keys[:-1])
        field = above.model_fields.get(str(keys[-1])) if above else None
        return (field.description or "") if field else ""


def _keys(document: Any, location: tuple[str | int, ...], *, missing: bool) -> Keys:
    """The keys of a pydantic location, without the names it gives to the members of a union."""
    keys: list[str | int] = []
    here = document
    for part in location:
        inside = part in here if isinstance(here, dict) else isinstance(here, list) and isinstance(part, int)
        if inside:
            here = here[part]
            keys.append(part)
    return (*keys, location[-1]) if missing else tuple(keys)


def _at(document: Any, keys: Keys | list[str | int]) -> Any:
    for key in keys:
        document = document[key]
    return document


def shelf_of(settings: type[Settings], name: str) -> Shelf | None:
    """The shelf that one field's kinds stand on, or those of its items; None where it has no kinds."""
    field = settings.model_fields.get(name)
    if field is None:
        return None
    of_items = (mark for item in typing.get_args(field.annotation) for mark in typing.get_args(item)[1:])
    return next((mark for mark in (*field.metadata, *of_items) if isinstance(mark, Shelf)), None)


def _settings_at(settings: type[Settings], document: Any, keys: Any) -> type[Settings] | None:
    """The settings class that describes the group at `keys`."""
    here: type[Settings] | None = settings
    above, name = here, ""
    for key in keys:
        if isinstance(document, list) and str(key).isdecimal():  # an item of a list of kinds
            document = document[int(key)]
            here = _group(above, name, document) if above else None
            continue
        document = document.get(key) if isinstance(document, dict) else None
        above, name = here, str(key)
        here = _group(here, name, document) if here else None
    return here


def _group(settings: type[Settings], name: str, value: Any) -> type[Settings] | None:
    """The settings class of one field, None where it holds a plain value or a kind that is not known."""
    shelf = shelf_of(settings, name)
    if not shelf:
        return group_of(settings, name)
    try:
        return shelf.settings(shelf.spelled_out({} if value is None else value)["kind"])
    except (ConfigError, TypeError, ValueError):
        return None


def group_of(settings: type[Settings], name: str) -> type[Settings] | None:
    """The settings class of a field that has no kinds, None where it holds a plain value."""
    field = settings.model_fields.get(name)
    candidates = [field.annotation, *typing.get_args(field.annotation)] if field else []
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, Settings)), None)


def _paths(settings: type[Settings], document: Any, above: str = "") -> Iterator[str]:
    """The dotted names of every setting, outermost last."""
    for name in settings.model_fields:
        value = document.get(name) if isinstance(document, dict) else None
        inner = _group(settings, name, value)
        if inner:
            yield from _paths(inner, value, f"{above}{name}.")
        yield above + name


def _shown(value: Any) -> str:
    words = {True: "true", False: "false", None: "null"}
    text = words[value] if isinstance(value, bool | None) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…" + text[-1]


_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "model": "a group of settings (key: value)",
    "dict": "a group of settings (key: value)",
    "path": "a path",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _wanted(error: dict[str, Any]) -> str:
    """What is allowed, as the end of a sentence; starts with `must be` where that reads well."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]:g}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    group = _NAMES.get(kind.partition("_")[0])
    if group and kind.endswith(("_type", "_parsing", "_from_float")):
        return f"must be {group}"
    return str(error["msg"]).replace("Input should", "must").replace("should", "must")


def _hint(value: Any, errors: list[dict[str, Any]]) -> str:
    """The value that was probably meant."""
    if not isinstance(value, str):
        return ""
    kinds = {error["type"] for error in errors}
    allowed = [
        word.strip(" '")
        for error in errors
        if error["type"] == "literal_error"
        for word in error["ctx"]["expected"].replace(" or ", ",").split(",")
    ]
    near = difflib.get_close_matches(value, allowed, n=1)
    if near:
        return f". Did you mean {near[0]!r}?"
    if "bool_type" in kinds and value.lower() in ("yes", "on", "y", "no", "off", "n"):
        return f". Write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}."
    return ""
