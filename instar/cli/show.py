"""Show what can be set: groups, kinds, and the settings of each with type, default and meaning

instar show                    groups and kinds
instar show train              the settings of a group
instar show model.timm         or of one kind
instar show sgd                a kind that no other group has
instar show lightning_module   the recipe of a LightningModule of your own, and what its Trainer takes

--json                         the JSON schema of these settings
"""

import json
from collections.abc import Iterator
from typing import Any

from instar import plugins, terminal
from instar.cli.words import Words
from instar.errors import DONE, ConfigError

FLAGS = ()
THINGS = (0, 1)
OWN = "lightning_module"


def run(words: Words) -> int:
    if not words.things:
        terminal.say(json.dumps(_catalogue()) if "json" in words else "\n".join(overview()))
        return DONE
    from instar.settings import schema

    name, settings = find(words.things[0])
    if "json" in words:
        terminal.say(json.dumps(schema(settings)))
    else:
        terminal.say("\n".join(page(name, settings)))
    return DONE


def overview() -> list[str]:
    """Every group with one line, and the kinds of those that have some."""
    lines = ["groups of a recipe"]
    lines += terminal.columns_of([(name, _summary(settings)) for name, settings in groups()])
    lines += ["", "where task is lightning_module: a LightningModule of your own"]
    lines += terminal.columns_of([(name, _summary(settings)) for name, settings in brought_groups()])
    for group, shelf in shelves():
        kinds = [(kind, _summary(shelf.settings(kind))) for kind in plugins.kinds(shelf.shelf)]
        default = "none unless named" if group == "track" else f"default {shelf.default}"
        lines += ["", f"kinds of {group} ({default})", *terminal.columns_of(kinds)]
    return [*lines, "", "next     instar show train   ·   instar show model.timm"]


def find(name: str) -> tuple[str, Any]:
    """The full name and the settings class behind `train`, `data.split`, `optim`, `optim.sgd` or `sgd`."""
    from instar.experiment import Experiment

    plain, with_kinds = dict([*groups(), *brought_groups()]), dict(shelves())
    name = {"task.lightning_module": f"{OWN}.task", f"{OWN}.trainer": OWN}.get(name, name)
    if name in plain:
        return name, plain[name]
    if name in with_kinds:
        return f"{name}.{with_kinds[name].default}", with_kinds[name].settings(with_kinds[name].default)
    if name == "recipe":
        return name, Experiment
    every = {f"{group}.{kind}": shelf for group, shelf in with_kinds.items() for kind in plugins.kinds(shelf.shelf)}
    matches = [full for full in every if full == name or full.rpartition(".")[2] == name]
    if len(matches) > 1:
        raise ConfigError(f"{name!r} could be {' or '.join(matches)}. Write the whole name.")
    if matches:
        return matches[0], every[matches[0]].settings(matches[0].rpartition(".")[2])
    known = [*plain, *with_kinds, *every, *(full.rpartition(".")[2] for full in every)]
    raise ConfigError(plugins.unknown(name, known, what="group or kind", otherwise="instar show lists them"))


def page(name: str, settings: Any) -> list[str]:
    """The settings one by one, and a YAML example."""
    lines = [f"{name}: {_summary(settings)}", ""]
    from instar.settings import schema

    properties = schema(settings).get("properties", {})
    for key, field in settings.model_fields.items():
        if key == "kind" and "." in name:
            continue
        lines.append(f"  {key}  ({said(name, key, field, properties.get(key, {}))})")
        lines += [f"      {line.strip()}" for line in (field.description or "").splitlines()]
        if name == OWN and key == "trainer":
            lines += trainer()
    if lines[-1]:
        lines.append("")
    return [*lines, "example", *(f"    {line}" for line in _example(name, settings))]


def trainer() -> list[str]:
    """What may stand below `trainer`, and what is said elsewhere."""
    import textwrap

    from instar import brought

    taken = textwrap.wrap(", ".join(brought.TRAINER), 100)
    return [f"      {line}" for line in taken] + [f"      not {name}: {why}" for name, why in brought.OURS.items()]


def said(name: str, key: str, field: Any, schema: dict[str, Any]) -> str:
    """What one setting takes and its default, in words."""
    from instar.settings import Settings

    if field.is_required():
        return f"{kind_of(schema)}; needed"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Settings):
        return f"group: instar show {key if name in ('experiment', 'recipe') else _shown_as(name, key, default)}"
    return f"{kind_of(schema)}; default {_written(default)}"


def _shown_as(name: str, key: str, group: Any) -> str:
    """What to type for a group within another; those that all recipes have stand by themselves."""
    return key if any(one == key and type(group) is known for one, known in groups()) else f"{name}.{key}"


def kind_of(schema: dict[str, Any]) -> str:
    """A JSON schema in words: `number, at least 0, less than 1`, `text or null`."""
    if "anyOf" in schema:
        return _joined(list(dict.fromkeys(kind_of(one) for one in schema["anyOf"])))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {kind_of(schema['prefixItems'][0])}"
    if schema.get("type") == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    names = {"integer": "whole number", "boolean": "true | false", "string": "text", "object": "group"}
    words = names.get(schema.get("type", ""), schema.get("type") or ("group" if "$ref" in schema else "anything"))
    if schema.get("format") == "path":
        words = "path"
    if "examples" in schema:
        words = f"such as {' or '.join(schema['examples'])}"
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    return ", ".join([words, *(f"{text} {_number(schema[key])}" for key, text in bounds.items() if key in schema)])


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _joined(alternatives: list[str]) -> str:
    return (", or " if any("," in one for one in alternatives) else " or ").join(alternatives)


def _example(name: str, settings: Any) -> list[str]:
    from instar.documents import dump
    from instar.settings import Settings

    needed: dict[str, Any] = {key: "FOLDER" for key, field in settings.model_fields.items() if field.is_required()}
    if "kind" in needed:
        needed["kind"] = name.rpartition(".")[2]
    if name == "recipe":
        needed = {"data": {"root": "FOLDER"}}
    if name.partition(".")[0] == OWN:
        return _example_of_own(name, settings)
    made = dict(settings.model_construct(**needed) if needed else settings())
    plain: Any = {
        key: _plain(value) for key, value in made.items() if value is not None and not isinstance(value, Settings)
    }
    if name in ("machine", "start"):
        return [f"instar train … {' '.join(f'{key}={_written(value)}' for key, value in plain.items())}"]
    groups = (name.rpartition(".")[0] if "kind" in plain and "." in name else name).split(".")
    for group in reversed(groups):
        plain = {group: plain} if group != "recipe" else plain
    return dump(plain).splitlines()


def _example_of_own(name: str, settings: Any) -> list[str]:
    """The same of a recipe of a LightningModule of one's own."""
    from instar.documents import dump

    made: dict[str, Any] = {"module": "my.models.baseline", "definition": "Baseline", "args": {"lr": 0.001}}
    if "module" not in settings.model_fields:
        made = {"task": {"kind": OWN, **made}, "trainer": {"max_epochs": 12}} if name == OWN else dict(settings())
    elif "kind" in settings.model_fields:
        made = {"kind": OWN, **made}
    plain: Any = {key: _plain(value) for key, value in made.items() if value is not None}
    for group in reversed(name.split(".")[1:]):
        plain = {group: plain}
    return dump(plain).splitlines()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | dict | None) else str(value)


def _written(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False).strip('"')


def _summary(settings: Any) -> str:
    return (settings.__doc__ or "").strip().partition("\n")[0]


def groups() -> Iterator[tuple[str, Any]]:
    """Groups that have no kinds, inner ones too."""
    from instar.experiment import Experiment
    from instar.machine import Machine, Start

    yield from _inside("", Experiment)
    yield "machine", Machine
    yield "start", Start


def brought_groups() -> Iterator[tuple[str, Any]]:
    """The recipe of a LightningModule of one's own, and those of its groups that other recipes have not."""
    from instar.brought import Brought
    from instar.experiment import Experiment

    known = {group for _, group in _inside("", Experiment)}
    yield OWN, Brought
    yield from ((name, group) for name, group in _inside(f"{OWN}.", Brought) if group not in known)


def _inside(above: str, settings: Any) -> Iterator[tuple[str, Any]]:
    from instar.validation import group_of

    for key in settings.model_fields:
        inner = group_of(settings, key)
        if inner:
            yield above + key, inner
            yield from _inside(f"{above}{key}.", inner)


def shelves() -> Iterator[tuple[str, Any]]:
    """Groups that have kinds, with their shelves."""
    from instar.experiment import Data, Experiment
    from instar.validation import shelf_of

    for above, settings in (("data.", Data), ("", Experiment)):
        for key in settings.model_fields:
            shelf = shelf_of(settings, key)
            if shelf:
                yield above + key, shelf


def _catalogue() -> dict[str, Any]:
    plain = {name: _summary(settings) for name, settings in [*groups(), *brought_groups()]}
    kinds = {
        group: {kind: _summary(shelf.settings(kind)) for kind in plugins.kinds(shelf.shelf)}
        for group, shelf in shelves()
    }
    return {"groups": plain, "kinds": kinds}
