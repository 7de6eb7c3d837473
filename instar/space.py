"""Space: which settings a search varies, and how. `optim.lr=loguniform(1e-6, 1e-2)`, in the names of a recipe.

A value is drawn from one of these, the bounds included and in the setting's own unit:

    uniform(low, high)             loguniform(low, high)            normal(mean, deviation)
    quniform(low, high, step)      qloguniform(low, high, step)
    int(low, high[, step])         logint(low, high)                choice(a, b, ...)

`uniform(0.8, 0.99) if optim.kind=sgd|rmsprop` is drawn only where that choice was made.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instar.documents import Document, parse, read
from instar.errors import ConfigError
from instar.plugins import unknown

KINDS = ("uniform", "loguniform", "quniform", "qloguniform", "normal", "int", "logint", "choice")
_DRAWN = re.compile(r"\s*([A-Za-z_]+)\s*\((.*)\)\s*(?:\s+if\s+(.+?)\s*)?", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_NUMBERS = {"uniform": 2, "loguniform": 2, "quniform": 3, "qloguniform": 3, "normal": 2, "int": 2, "logint": 2}
_USUAL = {"normal": "mean, deviation"} | dict.fromkeys(("quniform", "qloguniform"), "low, high, step")
_TAILS = 3.0  # deviations of a normal distribution that are validated and drawn


@dataclass(frozen=True)
class Dimension:
    """One setting that is varied.

    name      dotted, as in a recipe
    kind      one of KINDS
    numbers   bounds and step, or mean and deviation; empty for a choice
    choices   values of a choice
    where     (name of a choice, values of it) that this depends on; None where it is always drawn
    text, place   as it was written, and where
    """

    name: str
    kind: str
    numbers: tuple[float, ...]
    choices: tuple[Any, ...]
    where: tuple[str, tuple[Any, ...]] | None
    text: str
    place: str

    @property
    def low(self) -> float:
        mean, deviation = self.numbers[:2]
        return mean - _TAILS * deviation if self.kind == "normal" else self.numbers[0]

    @property
    def high(self) -> float:
        mean, deviation = self.numbers[:2]
        return mean + _TAILS * deviation if self.kind == "normal" else self.numbers[1]

    @property
    def step(self) -> float | None:
        return self.numbers[2] if len(self.numbers) > 2 else None

    @property
    def is_log(self) -> bool:
        return "log" in self.kind

    @property
    def is_whole(self) -> bool:
        return self.kind in ("int", "logint")

    def probes(self) -> list[Any]:
        """The values that tell whether all of them are allowed: every choice, or both ends."""
        if self.kind == "choice":
            return list(self.choices)
        return [int(end) if self.is_whole else end for end in (self.low, self.high)]

    def is_drawn(self, values: Mapping[str, Any]) -> bool:
        """Whether the choices made so far ask for it."""
        return self.where is None or any(_same(values.get(self.where[0], ...), one) for one in self.where[1])


@dataclass(frozen=True)
class Space:
    """What is varied. A dimension that depends on a choice comes after it."""

    dimensions: tuple[Dimension, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.dimensions)

    @property
    def points(self) -> int | None:
        """How many different points there are; None where a number is drawn."""
        return sum(1 for _ in self.grid()) if all(one.kind == "choice" for one in self.dimensions) else None

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination of choices, the last dimension fastest."""

        def below(number: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if number == len(self.dimensions):
                yield values
                return
            one = self.dimensions[number]
            for value in one.choices if one.is_drawn(values) else ():
                yield from below(number + 1, {**values, one.name: value})
            if not one.is_drawn(values):
                yield from below(number + 1, values)

        return below(0, {})

    def texts(self) -> dict[str, str]:
        """name -> as it was written."""
        return {one.name: one.text for one in self.dimensions}


def is_drawn(change: str) -> bool:
    """Whether `key=value` says what to vary, rather than a value."""
    found = _DRAWN.fullmatch(change.partition("=")[2])
    # A near miss such as `loguniform (1, 2)` or `lgouniform(1,2)` is told as one, not taken for a text.
    return found is not None and not change.partition("=")[2].lstrip().startswith(('"', "'", "[", "{"))


def changes(values: Mapping[str, Any]) -> list[str]:
    """The overrides that put drawn values into a recipe; a group comes before what is in it."""
    ordered = sorted(values, key=lambda name: name.count("."))
    return [f"{name}={json.dumps(values[name], ensure_ascii=False)}" for name in ordered]


def of(texts: Mapping[str, str], place: str | Callable[[str], str] = "command line") -> Space:
    """The space that `name -> text` spells; raises ConfigError with every mistake at once.

    place   where it was written, or what tells that for a name
    """
    space, mistakes = attempt(texts, place)
    if mistakes:
        raise ConfigError(mistakes)
    return space


def attempt(texts: Mapping[str, str], place: str | Callable[[str], str] = "command line") -> tuple[Space, list[str]]:
    """The space of what could be read, and what was wrong with the rest."""
    mistakes: list[str] = []
    found: list[Dimension] = []
    for name, text in texts.items():
        at = place if isinstance(place, str) else place(name)
        try:
            found.append(_dimension(name, text, at))
        except ConfigError as error:
            mistakes += [f"{at}: {name}: {mistake}" for mistake in error.mistakes]
    known = {one.name: one for one in found}
    good = []
    for one in found:
        why = _wrong_condition(one, known, list(texts)) if one.where is not None else ""
        mistakes += [f"{one.place}: {one.name}: {why}"] if why else []
        if not why:
            good.append(one)
    return Space(tuple(_ordered(good))), mistakes


def load(path: str) -> tuple[dict[str, str], Callable[[str], str], dict[str, Any]]:
    """The space in a YAML file as `name -> text`, what tells a name's line, and what else the file says."""
    document = read(path)
    if not isinstance(document.get("space"), dict) or not document["space"]:
        raise ConfigError(f"{path}: there is no `space:` in it: a mapping of names to ranges. See: instar tune --help")
    texts, where = within(document)
    return texts, where, {name: value for name, value in document.items() if name != "space"}


def within(document: dict[str, Any]) -> tuple[dict[str, str], Callable[[str], str]]:
    """The `space:` of a document as `name -> text`, and what tells a name's place. Empty where it has none."""
    flat = dict(_flat(document.get("space") or {}))
    at = document.place if isinstance(document, Document) else lambda keys: ""
    places = {name: at(("space", *keys)) for name, (keys, _) in flat.items()}
    return {name: text for name, (_, text) in flat.items()}, lambda name: places.get(name, "")


def texts_of(values: Mapping[str, Any]) -> dict[str, str]:
    """name -> text of a space as it is written in YAML: names are dotted or nested, and a list is a choice."""
    return {name: text for name, (_, text) in _flat(values)}


def _flat(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[tuple[str, ...], str]]]:
    for key, value in values.items():
        keys = (*above, str(key))
        if isinstance(value, dict):
            yield from _flat(value, keys)
        else:
            text = f"choice({json.dumps(value, ensure_ascii=False)[1:-1]})" if isinstance(value, list) else str(value)
            yield ".".join(keys), (keys, text)


# --- one dimension -------------------------------------------------------------------------------------------------


def _dimension(name: str, text: str, place: str) -> Dimension:
    if not _NAME.fullmatch(name):
        raise ConfigError("is not a key: write names joined by dots, as in optim.lr")
    found = _DRAWN.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no range or choice: write for example loguniform(1e-5, 1e-2) or choice(a, b)")
    kind, inner, condition = found[1], found[2], found[3]
    if kind not in KINDS:
        raise ConfigError(unknown(kind, list(KINDS), what="kind of range"))
    values = _list(inner)
    numbers = () if kind == "choice" else _numbers(kind, values)
    choices = _choices(values) if kind == "choice" else ()
    return Dimension(name, kind, numbers, choices, _condition(condition) if condition else None, text.strip(), place)


def _list(inner: str) -> list[Any]:
    try:
        return list(parse(f"values: [{inner}]", name="values")["values"])
    except ConfigError as error:
        raise ConfigError(f"({inner}) cannot be read: {error.mistakes[0].partition(': ')[2]}") from error


def _numbers(kind: str, values: list[Any]) -> tuple[float, ...]:
    wanted = _NUMBERS[kind]
    plain = all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values)
    if not plain or (len(values) != wanted and (kind, len(values)) != ("int", 3)):
        raise ConfigError(f"write {kind}({_USUAL.get(kind, 'low, high')}), in numbers")
    low, high, *rest = values
    if kind in ("int", "logint") and any(one != int(one) for one in values):
        raise ConfigError(f"{kind} takes whole numbers")
    if kind == "normal":
        if high <= 0:
            raise ConfigError(f"the deviation {high:g} must be greater than 0")
    elif low >= high:
        raise ConfigError(f"low must be less than high, but {low:g} >= {high:g}")
    if "log" in kind and low <= 0:
        raise ConfigError(f"{kind} takes bounds greater than 0, not {low:g}")
    if rest and not 0 < rest[0] <= high - low:
        raise ConfigError(f"the step {rest[0]:g} must be greater than 0 and at most high - low")
    return tuple(map(float, values))


def _choices(values: list[Any]) -> tuple[Any, ...]:
    if not values:
        raise ConfigError("choice() has nothing to choose from")
    twice = [one for number, one in enumerate(values) if any(_same(one, other) for other in values[:number])]
    if twice:
        raise ConfigError(f"{twice[0]!r} is there twice")
    return tuple(values)


def _condition(text: str) -> tuple[str, tuple[Any, ...]]:
    name, equals, values = text.partition("=")
    if not equals or not _NAME.fullmatch(name.strip()):
        raise ConfigError(f"cannot read the condition {text!r}: write `if NAME=VALUE`, or `if NAME=VALUE|VALUE`")
    return name.strip(), tuple(one for value in values.split("|") for one in _list(value.strip().lstrip("=")))


def _wrong_condition(one: Dimension, known: Mapping[str, Dimension], names: Sequence[str]) -> str:
    """What is wrong with what a dimension depends on; empty where nothing is."""
    assert one.where is not None
    name, values = one.where
    if name not in names:
        return f"depends on {name}, which is not varied. {unknown(name, list(names), what='name')}"
    if name not in known:
        return ""  # told already
    above = known[name]
    if above.kind != "choice":
        return f"depends on {name}, which is no choice"
    for value in values:
        if not any(_same(value, choice) for choice in above.choices):
            listed = [str(choice) for choice in above.choices]
            return f"depends on {name}={value}: {unknown(str(value), listed, what='choice')}"
    seen = {one.name}
    while above.where is not None and above.where[0] in known:
        if above.name in seen:
            return "depends on itself"
        seen.add(above.name)
        above = known[above.where[0]]
    return ""


def _ordered(found: Sequence[Dimension]) -> list[Dimension]:
    """As written, except that what depends on a choice comes after it."""
    ordered: list[Dimension] = []
    left = list(found)
    while left:
        there = {one.name for one in ordered}
        ready = next((one for one in left if one.where is None or one.where[0] in there), None)
        if ready is None:  # what they depend on could not be read
            break
        ordered.append(ready)
        left.remove(ready)
    return ordered


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same setting: true is not 1."""
    return type(one) is type(other) and one == other


# --- against the recipe ----------------------------------------------------------------------------------------------


def check(space: Space, load: Callable[[list[str]], object]) -> None:
    """Try every choice and both ends of every range, each with the first of all others, before anything is trained.

    load   makes an experiment of overrides; raises ConfigError
    Raises ConfigError with every mistake once, and the range it is in.
    """
    mistakes: dict[str, str] = {}
    for one in space.dimensions:
        for probe in one.probes():
            try:
                load(changes(_assignment(space, one, probe)))
            except ConfigError as error:
                for mistake in error.mistakes:
                    sentence = mistake.removeprefix("command line: ")
                    mine = sentence.startswith((one.name, f"unknown key '{one.name}'"))
                    mistakes.setdefault(sentence, f"{one.place}: {sentence} (in {one.text})" if mine else sentence)
                    if mine:
                        mistakes[sentence] = f"{one.place}: {sentence} (in {one.text})"
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes.values())))


def _assignment(space: Space, chosen: Dimension, value: Any) -> dict[str, Any]:
    """A point with this value in it: what it depends on as it needs it, and the first of everything else."""
    wanted = {chosen.name: value}
    known = {one.name: one for one in space.dimensions}
    above = chosen
    while above.where is not None:
        wanted[above.where[0]] = above.where[1][0]
        above = known[above.where[0]]
    values: dict[str, Any] = {}
    for one in space.dimensions:
        if one.is_drawn(values):
            values[one.name] = wanted.get(one.name, one.probes()[0])
    return values
