"""Words: the grammar of every command, `instar VERB THING… key=value … --flag`."""

import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from instar.errors import ConfigError

# No slash in it: a path may hold an equals sign.
_CHANGE = re.compile(r"[+~]?[A-Za-z_][A-Za-z0-9_.@-]*=.*|~[A-Za-z_][A-Za-z0-9_.-]*", re.DOTALL)


@dataclass(frozen=True)
class Words:
    """The words after the verb, sorted by what they are.

    things    what the verb is about: a folder, a recipe, runs
    changes   key=value, +key=value and ~key, in order
    flags     without their dashes
    line      everything as it was typed, the verb first
    """

    things: tuple[str, ...]
    changes: tuple[str, ...]
    flags: frozenset[str]
    line: tuple[str, ...]

    def __contains__(self, flag: str) -> bool:
        return flag in self.flags

    def only(self, *keys: str) -> dict[str, str]:
        """The changes as a mapping, for a verb that knows just these keys."""
        given = {}
        for change in self.changes:
            key, _, value = change.partition("=")
            if key not in keys:
                raise ConfigError(f"{change!r}: {_unknown(key, keys, 'key')}")
            given[key] = value
        return given


def parse(
    verb: str, arguments: Sequence[str], *, flags: Sequence[str], things: tuple[int, int], page: str = ""
) -> Words:
    """Sort the words after a verb; raises ConfigError for a flag it does not know, or too many or too few things.

    flags   without dashes; one that ends in "=" takes a value and is another spelling of `key=value`
    page    the verb's help page, whose first command says what it wants
    """
    found: tuple[list[str], list[str], list[str]] = ([], [], [])
    known = ("help", *flags)
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            found[0].extend(rest)
        elif word.startswith("--") and f"{word[2:].partition('=')[0]}=" in known:
            found[1].append(_with_value(word, rest))
        elif word.startswith("-") and len(word) > 1:
            found[2].append(_flag(word, known))
        else:
            found[bool(_CHANGE.fullmatch(word))].append(word)
    words = Words(tuple(found[0]), tuple(found[1]), frozenset(found[2]), (verb, *arguments))
    least, most = things
    if "help" not in words and not least <= len(words.things) <= most:
        said = f"{' '.join(words.things)!r} is too {'little' if len(words.things) < least else 'much'}."
        asked = said if words.things else "of what?"
        raise ConfigError(f"instar {verb}: {asked} Write: {_usage(verb, page)}   or see: instar {verb} --help")
    return words


def _usage(verb: str, page: str) -> str:
    """The first command of a help page, without what it says about it: `instar why RUN`."""
    found = re.search(rf"^ *(instar {verb}\b.*?)(?:  .*)?$", page, re.MULTILINE)
    return found[1] if found else f"instar {verb} …"


def one_of(key: str, value: str, allowed: Sequence[str]) -> str:
    """The value; raises ConfigError where it is none of these."""
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}, but must be one of {', '.join(allowed)}")
    return value


def whole(key: str, value: str, *, least: int = 1, most: int = 256) -> int:
    """The value as a whole number; raises ConfigError where it is none, or out of bounds."""
    if not value.isdecimal() or not least <= int(value) <= most:
        raise ConfigError(f"{key} is {value!r}, but must be a whole number from {least} to {most}")
    return int(value)


def to_type(path: Path) -> str:
    """What to type for a run: its name where it lies in runs/, else its folder."""
    return shlex.quote(path.name if path.parent == Path("runs") else str(path))


def _with_value(word: str, rest: Iterator[str]) -> str:
    """`--on lumi` and `--on=lumi` as `on=lumi`."""
    name, equals, value = word[2:].partition("=")
    given = value if equals else next(rest, None)
    if given is None:
        raise ConfigError(f"{word!r} needs a value: {word} VALUE")
    return f"{name}={given}"


def _flag(word: str, known: Sequence[str]) -> str:
    name = word.lstrip("-")
    if name in known and word.startswith("--"):
        return name
    short = [flag for flag in known if len(word) == 2 and flag[0] == name]
    if len(short) == 1:
        return short[0]
    key, equals, _ = name.partition("=")
    if equals:
        raise ConfigError(f"{word!r}: settings are written without dashes: {name}")
    raise ConfigError(f"{word!r}: {_unknown(key, known, 'flag', dashes='--')}. Settings are written key=value.")


def _unknown(name: str, known: Sequence[str], what: str, dashes: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(dashes + one.replace("=", " …") for one in known) or "none"
    return f"unknown {what}; did you mean {dashes}{near[0]}?" if near else f"unknown {what}; known: {listed}"
