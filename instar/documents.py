"""Documents: YAML read strictly, and written so that it reads back the same.

Strict means YAML 1.2: only true and false are booleans (`no` and `on` stay text), 1e-3 is a number, and no key appears
twice. Tags, merge keys, several documents and deep or endless nesting are refused. Nothing is ever executed.
Every value remembers its place, so that a mistake can name its line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from instar.errors import ConfigError

Keys = tuple[str | int, ...]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it
_MOST_BYTES = 1_000_000
_MOST_VALUES = 20_000  # a few lines of aliases can spell 10^9 values
_DEEPEST = 40
_MOST_DIGITS = 100  # Python refuses to turn thousands of digits into an int; as a float they are infinite

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Document(dict[str, Any]):
    """A mapping as it was written, which knows where each of its values stands.

    places   keys from the top -> `recipe.yaml:7`, or the override that set the value
    """

    def __init__(self, values: dict[str, Any], places: dict[Keys, str] | None = None):
        super().__init__(values)
        self.places = places or {}

    def place(self, keys: Keys) -> str:
        """Where the value at `keys` was written; failing that, where the nearest thing around it was."""
        for length in range(len(keys), -1, -1):
            if keys[:length] in self.places:
                return self.places[keys[:length]]
        return ""


def read(path: str | Path) -> Document:
    """The mapping in a YAML file; raises ConfigError naming the file and the line."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder, not a YAML file") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path} has more than {_MOST_BYTES:,} bytes: that is no recipe")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8. Save the file as UTF-8."
        ) from error
    return parse(text, name=str(path))


def parse(text: str, *, name: str) -> Document:
    """The mapping that `text` spells; `name` stands for it in messages."""
    reader = _Reader(name)
    try:
        value = reader.document(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        raise ConfigError([*reader.mistakes, _syntax(error, text, name)]) from error
    except RecursionError as error:
        raise ConfigError(f"{name}: nested too deeply") from error
    if not reader.mistakes and not isinstance(value, dict):
        found = "empty" if value is None else f"a {_called(value)}"
        reader.mistakes.append(f"{name} is {found}, but must be a mapping: lines of the form `key: value`")
    if reader.mistakes:
        raise ConfigError(reader.mistakes)
    return Document(value, reader.places)


def scalar(text: str) -> Any:
    """The value of an unquoted word: None, a boolean, a number, or the word itself."""
    if _NULL.fullmatch(text):
        return None
    if _BOOLEAN.fullmatch(text):
        return text[0] in "tT"
    if _INTEGER.fullmatch(text) and len(text) < _MOST_DIGITS:
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) or _INFINITE.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def dump(values: dict[str, Any]) -> str:
    """YAML that `parse` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def copy(value: Any) -> Any:
    """The same values in new mappings and lists."""
    if isinstance(value, dict):
        return {key: copy(item) for key, item in value.items()}
    return [copy(item) for item in value] if isinstance(value, list) else value


def _called(value: Any) -> str:
    return {list: "list", str: "text", bool: "boolean"}.get(type(value), "number")


def _syntax(error: yaml.YAMLError, text: str, name: str) -> str:
    """One line for what the parser stumbled over."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{name}: not YAML: {str(error).splitlines()[0]}"
    lines = text.splitlines()
    for number in (mark.line, mark.line - 1):
        if 0 <= number < len(lines) and "\t" in lines[number][: len(lines[number]) - len(lines[number].lstrip())]:
            return f"{name}:{number + 1}: a tab in the indentation. Write spaces instead."
    problem = getattr(error, "problem", None) or "something unexpected"
    around = getattr(error, "context", None)
    return f"{name}:{mark.line + 1}: not YAML: {problem}{f' {around}' if around else ''}"


@dataclass
class _Reader:
    """Builds plain values from parser events, collecting mistakes and places on the way."""

    name: str
    mistakes: list[str] = field(default_factory=list)
    places: dict[Keys, str] = field(default_factory=dict)
    anchors: dict[str, Any] = field(default_factory=dict)
    values: int = 0

    def document(self, events: Iterator[Any]) -> Any:
        value, documents = None, 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.mistakes.append(f"{self._at(event)}: a second document. Write one per file, without `---`.")
                    return None
            elif isinstance(event, yaml.NodeEvent):
                value = self._node(event, events, ())
        return value

    def _node(self, event: Any, events: Iterator[Any], keys: Keys) -> Any:
        self._count(1)
        self.places[keys] = self._at(event)
        if len(keys) > _DEEPEST:
            raise ConfigError(f"{self._at(event)}: nested more than {_DEEPEST} deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag is not None:
            self.mistakes.append(f"{self._at(event)}: tag {event.tag!r} is refused: a recipe holds plain values only")
        if isinstance(event, yaml.ScalarEvent):
            value = scalar(event.value) if event.implicit[0] else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(events, keys)
        else:
            value = self._mapping(events, keys)
        if event.anchor is not None:
            self.anchors[event.anchor] = value
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self.anchors:
            self.mistakes.append(f"{self._at(event)}: *{event.anchor} stands for nothing before this line")
            return None
        value = self.anchors[event.anchor]
        self._count(_size(value))
        return copy(value)

    def _sequence(self, events: Iterator[Any], keys: Keys) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._node(event, events, (*keys, len(items))))
        return items

    def _mapping(self, events: Iterator[Any], keys: Keys) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = event.value if isinstance(event, yaml.ScalarEvent) else self._bad_key(event, events)
            if key in mapping:
                first = self.places[(*keys, key)]
                self.mistakes.append(f"{self._at(event)}: {key!r} appears twice, first at {first}. Keep one.")
            if key == "<<":
                self.mistakes.append(f"{self._at(event)}: merge keys (<<) are not read. Write the keys out.")
            at = self._at(event)
            mapping[key] = self._node(next(events), events, (*keys, key))
            self.places[(*keys, key)] = at
        return mapping

    def _bad_key(self, event: Any, events: Iterator[Any]) -> str:
        self.mistakes.append(f"{self._at(event)}: a key must be one word")
        self._node(event, events, ("?",))
        return f"?{event.start_mark.line}:{event.start_mark.column}"

    def _count(self, number: int) -> None:
        self.values += number
        if self.values > _MOST_VALUES:
            raise ConfigError(f"{self.name}: spells more than {_MOST_VALUES:,} values (too many aliases?)")

    def _at(self, event: Any) -> str:
        return f"{self.name}:{event.start_mark.line + 1}"


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(_size(item) for item in value.values())
    return 1 + sum(_size(item) for item in value) if isinstance(value, list) else 1


class _Dumper(yaml.SafeDumper):
    """Quotes every text that would read back as something else; lists of plain values stand on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = isinstance(scalar(text), str) and text.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.SequenceNode:
    flat = not any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flat)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)
