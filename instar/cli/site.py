"""List, show and check the places that jobs can go to

    instar site                 every site in one line
    instar site show NAME       what it says, with the meaning of each setting
    instar site check NAME      against the live cluster: every difference, and the line that mends it

NAME may also be a YAML file. Your own sites go into ~/.config/instar/sites/NAME.yaml

    key=value      change a setting first, such as partition=debug
    --json         the same as JSON
"""

import json
from typing import TYPE_CHECKING

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE, USER_ERROR, ConfigError

if TYPE_CHECKING:
    from instar.job import Finding
    from instar.site import Site

FLAGS = ()
THINGS = (0, 2)
_MARKS = {"ok": "ok", "warning": "look", "error": "wrong"}


def run(words: Words) -> int:
    if not words.things:
        return _list(words)
    deed, *names = words.things
    if deed not in ("show", "check") or len(names) != 1:
        raise ConfigError(f"{' '.join(words.things)!r}: write instar site, instar site show NAME or site check NAME")
    from instar import site as sites

    here = sites.load(names[0], words.changes)
    return _show(words, names[0], here) if deed == "show" else _check(words, names[0], here)


def _list(words: Words) -> int:
    from instar import site as sites

    words.only()
    found: dict[str, dict[str, str]] = {}
    for name in sites.names():
        try:
            here = sites.load(name)
            found[name] = {"scheduler": here.scheduler, "about": here.about or (here.partition or "")}
        except ConfigError as error:  # one broken file hides no other
            found[name] = {"scheduler": "", "about": f"cannot be used: {error.mistakes[0]}"}
        found[name]["file"] = str(sites.find(name))
    if "json" in words:
        terminal.say(json.dumps(found))
        return DONE
    own = sites.OWN.expanduser()
    pairs = [
        (name, f"{facts['about']}{' (yours)' if facts['file'].startswith(f'{own}/') else ''}")
        for name, facts in found.items()
    ]
    terminal.say("\n".join([*terminal.columns_of(pairs), "", "next     instar site show NAME   ·   site check NAME"]))
    return DONE


def _show(words: Words, name: str, here: "Site") -> int:
    if "json" in words:
        terminal.say(json.dumps(here.model_dump(mode="json")))
        return DONE
    from instar import site as sites
    from instar.settings import dump

    file = sites.find(name)
    # The file itself has the notes of whoever wrote it; after changes it is all settings, spelled out.
    text = dump(here) if words.changes else file.read_text(encoding="utf-8")
    lines = [f"# {file}", *text.rstrip().splitlines(), ""]
    lines += [
        "settings",
        *terminal.columns_of([(key, _first(field)) for key, field in type(here).model_fields.items()]),
    ]
    terminal.say("\n".join([*lines, "", f"next     instar site check {name}"]))
    return DONE


def _first(field: object) -> str:
    return str(getattr(field, "description", "") or "").partition("\n")[0]


def _check(words: Words, name: str, here: "Site") -> int:
    from instar.clusters._check import check

    found = check(here)
    if "json" in words:
        terminal.say(json.dumps([vars(finding) for finding in found]))
    else:
        terminal.say("\n".join(told(name, found)))
    return USER_ERROR if any(finding.level == "error" for finding in found) else DONE


def told(name: str, found: "list[Finding]") -> list[str]:
    """The findings in lines, mistakes last, where one looks."""
    order = list(_MARKS)
    lines = []
    for finding in sorted(found, key=lambda one: order.index(one.level)):
        lines.append(f"{_MARKS[finding.level]:8} {finding.what}: {finding.found}")
        if finding.do:
            lines.append(f"{'':8} {finding.do}")
    wrong = sum(finding.level == "error" for finding in found)
    end = f"{wrong} thing(s) to mend" if wrong else f"next     instar submit train RECIPE --on {name} --dry"
    return [*lines, "", end]
