"""Examine this machine: versions, GPUs, cores, disks, scheduler, and two processes that work together

    instar doctor                 everything, in some 10 seconds
    instar doctor FOLDER…         and these folders: room, quota and pace
    instar doctor --quick         without what takes longer than a second
    instar doctor --network       and whether weights could be downloaded from here

    seconds=14     how long all of it may take
    --json                        the findings as JSON
    --quiet                       only what is not well

Each line is green (ok), yellow (warning) or red (error), and says what to do. Exit code: 0, or 65 with a red line.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from instar import terminal
from instar.cli.words import Words
from instar.errors import DONE, USER_ERROR, ConfigError
from instar.formats import one_line

FLAGS = ("quick", "network")
THINGS = (0, 99)
COLOURS = {"ok": "32", "warning": "33", "error": "31"}


def run(words: Words) -> int:
    seconds = _seconds(words.only("seconds").get("seconds", "14"))
    from instar import doctor

    colours = terminal.is_live(sys.stdout) and not os.environ.get("NO_COLOR")
    told = []
    folders = [Path(thing) for thing in words.things]
    for section in doctor.examine(quick="quick" in words, hub="network" in words, folders=folders, seconds=seconds):
        told += [{"section": section.name, **vars(one)} for one in section.findings]
        if "json" not in words:
            shown = [one for one in section.findings if "quiet" not in words or one.level != "ok"]
            for one in shown:
                terminal.say("\n".join(lines(one.level, one.what, one.found, one.do, colours=colours)))
    if "json" in words:
        terminal.say(json.dumps(told))
    else:
        terminal.say(verdict([one["level"] for one in told]))
    return USER_ERROR if any(one["level"] == "error" for one in told) else DONE


def _seconds(text: str) -> float:
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"seconds is {text!r}, but must be a whole number, at least 1")
    return float(text)


def lines(level: str, what: str, found: str, do: str, *, colours: bool) -> list[str]:
    """The level as a word, coloured in a terminal, what was found, and below it what to do."""
    word = f"\x1b[{COLOURS[level]}m{level:<9}\x1b[0m" if colours else f"{level:<9}"
    first = f"{word}{one_line(what):<18} {one_line(found)}"
    return [first, *([f"{'':<9}{'do':<18} {one_line(do)}"] if do else [])]


def verdict(levels: Sequence[str]) -> str:
    """The last line: how many of each."""
    counted = {level: sum(one == level for one in levels) for level in COLOURS}
    return "found    " + ", ".join(f"{number} {level}" for level, number in counted.items() if number or level == "ok")
