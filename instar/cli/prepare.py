"""List, look at and divide images once: a manifest that trainings share, with a split that stays

    instar prepare FOLDER                        one folder a class
    instar prepare RECIPE.yaml to=birds.parquet  what a recipe says about its data

    to=FILE            the manifest, instead of manifest.parquet
    accept=true        where it is there and the data changed: known rows keep their splits, new ones are placed
    checksum=true      note a hash of every byte of every file
    key=value          any setting of the recipe. Those that matter here:
                       data.split.method=keyed     added files move only a few rows
                       data.exclude=FILE           leave out what a list names, as check's quarantine=FILE writes it
                       data.min_per_class=50       data.split.test=0.1   data.split.val=0.2   seed=42

    --quiet            only what needs attention
    --json             one JSON object at the end

The same command again says that nothing changed, or what did, and writes nothing without accept=true.
"""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import terminal
from instar.cli import kinds
from instar.cli.words import Words
from instar.errors import DONE, ConfigError
from instar.formats import count, one_line

if TYPE_CHECKING:
    from instar.prepare import Prepared

FLAGS = ()
THINGS = (0, 1)
_NAMED = 5


def run(words: Words) -> int:
    from instar import experiment as experiments

    given, changes = taken(words, ("to", "accept", "checksum"))
    if not words.things and not any(change.startswith("data.root=") for change in changes):
        raise ConfigError(
            "there is nothing to prepare: name a folder of images or a recipe. See: instar prepare --help"
        )
    source: Any = words.things[0] if words.things else {}
    experiment = experiments.load(source, [*kinds.of_folder(source, changes), *changes])
    to = Path(given.get("to", "manifest.parquet"))
    if to.suffix != ".parquet":
        raise ConfigError(f"to is {str(to)!r}, but a manifest is a Parquet file. Write to={to.with_suffix('.parquet')}")

    from instar import prepare

    watch = terminal.Terminal(metric="", level="silent" if {"json", "quiet"} & words.flags else "full")
    done = prepare.prepare(
        experiment.data,
        experiment.seed,
        to,
        accept=truth(given, "accept"),
        checksum=truth(given, "checksum"),
        progress=watch.preparing,
    )
    watch.clear()
    if "json" in words:
        terminal.say(json.dumps(_facts(done, to)))
    elif "quiet" not in words:
        terminal.say("\n".join(_lines(done, to)))
    return DONE


def taken(words: Words, keys: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """The verb's own keys with their values, and the changes that are left for the recipe."""
    pairs = [(change, *change.partition("=")[::2]) for change in words.changes]
    own = {key: value for _, key, value in pairs if key in keys}
    return own, [change for change, key, _ in pairs if key not in keys]


def truth(given: dict[str, str], key: str) -> bool:
    """The value of a key that is true or false; false where it is not given."""
    value = given.get(key, "false")
    if value not in ("true", "false"):
        raise ConfigError(f"{key} is {value!r}, but must be true or false")
    return value == "true"


def _facts(done: "Prepared", to: Path) -> dict[str, object]:
    rows = done.manifest
    return {
        "manifest": str(to),
        "state": done.state,
        "hash": rows.hash,
        "images": len(rows),
        "classes": len(rows.classes),
        "splits": rows.statistics["splits"],
        "changes": done.changes,
        "skipped": [tuple(one) for one in rows.skipped],
        "notes": rows.statistics["notes"],
    }


def _lines(done: "Prepared", to: Path) -> list[str]:
    from instar.engine.scan import frozen
    from instar.prepare import left_out_file

    rows, facts = done.manifest, done.manifest.statistics
    size = f", median {facts['median_width']}x{facts['median_height']}" if facts["median_width"] else ""
    divided = facts.get("division") or {}
    how = f", {divided['method']}, seed {divided['seed']}" if divided else ""
    splits = " + ".join(count(number) for number in facts["splits"].values())
    states = {
        "new": "written",
        "same": "is there, and nothing changed",
        "grown": "written; known rows kept their splits",
    }
    with_masks = " with masks" if "pixels" in facts else ""
    uneven = "" if facts["imbalance"] is None else f", imbalance {facts['imbalance']}x"
    lines = [
        f"data     {count(len(rows))} images{with_masks}, {count(len(rows.classes))} classes{size}",
        f"split    {splits}{how}{uneven}, {count(facts['duplicates'])} duplicates across",
        f"manifest {one_line(str(to))}: {states[done.state]}",
        *(f"note     {one_line(line)}" for line in (frozen.lines(done.changes) if done.changes else ())),
        *(f"note     {one_line(text)}" for text in facts["notes"]),
        *(f"note     skipped {one_line(one.file)}: {one.reason}" for one in rows.skipped[:_NAMED]),
    ]
    if len(rows.skipped) > _NAMED:
        listed = left_out_file(to)
        where = one_line(str(listed)) + " lists them" if listed.exists() else "--json names them"
        lines.append(f"note     and {count(len(rows.skipped) - _NAMED)} more; {where}")
    return [*lines, f"next     instar train {one_line(shlex.quote(str(to)))}"]
