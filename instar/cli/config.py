"""Say what a recipe comes to and where each value was written, or how two differ

instar config show RECIPE key=value …       every setting, its value, and the line, the change or default it is from
instar config diff A B                      settings in which two recipes, or runs, differ

runs=FOLDER    where runs are, instead of runs/
--json         the same as one JSON object
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE, ConfigError
from instar.formats import one_line, table

if TYPE_CHECKING:
    from instar.documents import Document
    from instar.settings import Settings

FLAGS = ()
THINGS = (2, 3)
_MISSING = "not there"


def run(words: Words) -> int:
    what, *sources = words.things
    if what not in ("show", "diff"):
        raise ConfigError(f"{what!r}: write instar config show RECIPE, or instar config diff A B")
    if len(sources) != (1 if what == "show" else 2):
        raise ConfigError(f"instar config {what} takes {'one recipe' if what == 'show' else 'two recipes or runs'}")
    folder = Path(next((change[5:] for change in words.changes if change.startswith("runs=")), "runs"))
    changes = [change for change in words.changes if not change.startswith("runs=")]
    settings = [_values(_found(source, folder), changes) for source in sources]
    if what == "diff":  # where it stands in what a run saved tells nobody who said it
        settings = [
            {
                name: (value, "" if Path(_found(source, folder)).is_dir() else place)
                for name, (value, place) in one.items()
            }
            for source, one in zip(sources, settings, strict=True)
        ]
    rows = list(_shown(settings[0]) if what == "show" else _different(*settings))
    if "json" in words:
        names = ("setting", "value", "from") if what == "show" else ("setting", "first", "second")
        terminal.say(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
    elif rows:
        head = ("setting", "value", "from") if what == "show" else ("setting", *map(str, sources))
        terminal.say("\n".join(table([tuple(one_line(cell) for cell in row) for row in (head, *rows)])))
    else:
        terminal.say("no difference")
    return DONE


Values = dict[str, tuple[str, str]]


def _found(source: str, folder: Path) -> str:
    """A file or folder as it is, or a run by its name."""
    return source if Path(source).exists() or not (folder / source).exists() else str(folder / source)


def _values(source: str, changes: Sequence[str]) -> Values:
    """Every setting by its dotted name: its value, and where it was said."""
    from instar import adopt, brought
    from instar import experiment as experiments
    from instar.overrides import attempt

    adopted = adopt.of_file(Path(source), changes)
    document, rest = (adopted[0].recipe, adopted[1]) if adopted else experiments.read_document(source, changes)
    loaded: Settings = (brought if brought.is_one(document) else experiments).load(document, rest)
    changed, _ = attempt(document, rest)
    found = {}
    for name, value in experiments.flat(loaded.model_dump(mode="json")):
        keys = tuple(name.split("."))
        place = _place(keys, changed, document)
        if place == "default" and (other := brought.as_target(keys)) != keys:
            place = _place(other, changed, document)
        found[name] = (json.dumps(value, ensure_ascii=False), place)
    return found


def _place(keys: tuple[str, ...], changed: "Document", document: Any) -> str:
    """`recipe.yaml:7`, `command line (recipe.yaml:7 said 0.1)`, or `default`."""
    from instar.overrides import PLACE

    said = next((keys[:n] for n in range(len(keys), 0, -1) if keys[:n] in changed.places), None)
    # What stands around a value is where it is from only in a short form, `model: resnet50` for model.name.
    if said is None or (said != keys and isinstance(_at(changed, said), dict)):
        return "default"
    place = changed.places[said]
    before = getattr(document, "places", {}).get(keys)
    if place == PLACE and before is not None:
        return f"{place} ({before} said {json.dumps(_at(document, keys), ensure_ascii=False)})"
    return place


def _at(values: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _shown(values: Values) -> Iterator[tuple[str, ...]]:
    yield from ((name, value, place) for name, (value, place) in values.items())


def _different(first: Values, second: Values) -> Iterator[tuple[str, ...]]:
    for name in dict.fromkeys([*first, *second]):
        (old, at), (new, there) = (side.get(name, (_MISSING, "")) for side in (first, second))
        if old != new:
            yield name, _said(old, at), _said(new, there)


def _said(value: str, place: str) -> str:
    """`0.1  (a.yaml:3)`: a value, and where it was said."""
    return f"{value}  ({place})" if place else value
