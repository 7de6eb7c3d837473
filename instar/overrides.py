"""Overrides: `key=value` on the command line, in the words of the recipe."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from instar.documents import Document, copy, parse, scalar
from instar.errors import ConfigError
from instar.plugins import unknown

PLACE = "command line"
_PART = re.compile(r"[A-Za-z0-9_-]+")


def override(document: dict[str, Any], changes: Sequence[str]) -> Document:
    """The document with `key=value` set, `+key=value` added and `~key` taken away, in this order.

    `+key=value` wants the key to be absent, `~key` wants it there; `key=value` takes either. A value in brackets,
    braces or quotes is YAML; any other is one word, blanks and all. Raises ConfigError with every mistake at once.
    """
    result, mistakes = attempt(document, changes)
    if mistakes:
        raise ConfigError(mistakes)
    return result


def overruled(document: dict[str, Any], changes: Iterable[str]) -> list[str]:
    """What the changes say against the document, one sentence each with both values: the command line wins."""
    told = []
    for change in changes:
        name, _, value = change.lstrip("+~").partition("=")
        keys = tuple(name.split("."))
        place = getattr(document, "places", {}).get(keys)
        here: Any = document
        for key in keys:
            here = here.get(key) if isinstance(here, dict) else None
        if place is not None and not place.startswith(PLACE) and str(here) != value:
            told.append(f"{name}: {value or 'nothing'} of the command line goes before {here} of {place}")
    return told


def attempt(document: dict[str, Any], changes: Sequence[str]) -> tuple[Document, list[str]]:
    """The document with every change that could be made, and what was wrong with the others."""
    result = Document(copy(document), dict(getattr(document, "places", {})))
    mistakes = []
    for change in changes:
        try:
            _apply(result, change)
        except ConfigError as error:
            mistakes += [f"{PLACE}: {change!r}: {mistake}" for mistake in error.mistakes]
    return result, mistakes


def _apply(document: Document, change: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in change):  # how Python shows bytes that are not UTF-8
        raise ConfigError("is not UTF-8")
    removes = change.startswith("~")
    name, equals, text = change.lstrip("+~").partition("=")
    keys = tuple(name.split("."))
    if not all(_PART.fullmatch(key) for key in keys):
        raise ConfigError(f"{name!r} is not a key: write names joined by dots, as in optim.lr=0.01")
    if not equals and not removes:
        raise ConfigError(f"has no value: write {name}=VALUE")
    parent = _descend(document, keys[:-1], make=not removes)
    there = isinstance(parent, dict) and keys[-1] in parent
    if removes and not there:
        raise ConfigError(f"there is no such key to take away: {unknown(keys[-1], list(parent or ()), what='key')}")
    if change.startswith("+") and there:
        raise ConfigError(f"{name} is there already: write {name}={text}")
    for place in [place for place in document.places if place[: len(keys)] == keys]:
        del document.places[place]
    if removes:
        del parent[keys[-1]]
    else:
        parent[keys[-1]] = _value(text)
        document.places[keys] = PLACE


def _descend(document: dict[str, Any], keys: Sequence[str], *, make: bool) -> Any:
    """The mapping at `keys`, made on the way where `make` says so. A bare kind becomes a mapping that names it."""
    here: Any = document
    for key in keys:
        if not isinstance(here.get(key), dict):
            if not make:
                return None
            here[key] = {"kind": here[key]} if isinstance(here.get(key), str) else {}
        here = here[key]
    return here


def _value(text: str) -> Any:
    stripped = text.strip()
    if stripped[:1] not in ("[", "{", '"', "'"):
        return scalar(stripped)
    return parse(f"value: {stripped}", name="value")["value"]
