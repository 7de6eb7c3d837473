"""Take over a file of the DL & HPC starter pack: a recipe, a site, and what became of every key

    instar adopt FILE                 writes FILE's name + .recipe.yaml, and .site.yaml where it speaks of a cluster
    instar adopt FILE to=FOLDER       writes them there

    --dry          only says what they would be
    --json         all of it as one JSON object

Nothing is left out in silence: a key is honoured, or named with the reason. instar train FILE reads such a file itself.
"""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE, ConfigError
from instar.formats import one_line

FLAGS = ("dry",)
THINGS = (1, 1)


if TYPE_CHECKING:
    from instar.adopt import Adopted


def run(words: Words) -> int:
    from instar import adopt, documents
    from instar.experiment import read_document
    from instar.run import write_atomically
    from instar.site import Site
    from instar.validation import validate

    given = words.only("to")
    file = Path(words.things[0])
    if not file.is_file():
        raise ConfigError(f"{file} is no file")
    document, _ = read_document(file, ())
    if not adopt.is_one(document):
        raise ConfigError(f"{file} has no module and definition at its top, so it is no file of the starter pack")
    made = adopt.adopt(document, name=file.stem)
    site = {"scheduler": "slurm", "again": "requeue", **made.site} if made.site else {}
    if site:
        validate(Site, documents.Document(site))
    _check(made.recipe)
    folder = Path(given.get("to", file.parent))
    files = {folder / f"{file.stem}.recipe.yaml": made.recipe}
    if site:
        files[folder / f"{file.stem}.site.yaml"] = documents.Document(site)
    there = [str(path) for path in files if path.exists()]
    if there and "dry" not in words:
        raise ConfigError(f"{', '.join(there)} is there already. Remove it, or write to=FOLDER")
    for path, values in files.items() if "dry" not in words else ():
        write_atomically(path, documents.dump(dict(values)))
    if "json" in words:
        facts = {"recipe": made.recipe, "site": site, "request": made.request, "start": made.start}
        terminal.say(json.dumps({**facts, "dropped": made.dropped}))
    elif "quiet" not in words:
        terminal.say("\n".join(lines(made, files)))
    return DONE


def _check(recipe: dict[str, Any]) -> None:
    """Raises ConfigError with the lines of the starter pack's file where the recipe cannot be meant."""
    from instar import brought

    brought.load(recipe)


def lines(made: "Adopted", files: dict[Path, Any]) -> list[str]:
    """What was written, what became of each key that is not in it, and what to type next."""
    recipe, *others = [shlex.quote(one_line(str(path))) for path in files]
    told = [f"recipe   {recipe}", *(f"site     {other}" for other in others)]
    told += [f"dropped  {one_line(key)}: {why}" for key, why in made.dropped.items()]
    start = " ".join(f"{key}={shlex.quote(value)}" for key, value in made.start.items())
    asked = " ".join(f"{key}={shlex.quote(value)}" for key, value in made.request.items())
    told.append(f"next     {' '.join(filter(None, ['instar train', recipe, start]))}")
    if others:
        told.append(
            f"         {' '.join(filter(None, ['instar submit train', recipe, '--on', others[0], asked, start]))}"
        )
    return told
