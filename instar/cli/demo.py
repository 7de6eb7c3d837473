"""See it work: 1,797 handwritten digits to an evaluated classifier and its page, in minutes

    instar demo                    in instar-demo/, below this folder
    instar demo FOLDER
    instar demo deepcam [FOLDER]   MLPerf's climate benchmark, small: synthetic weather to a segmentation, its page, and
                                   SUCCESS of the official checker in the open division
    instar demo pairs [FOLDER]     1,797 made-up scenes, seen by a colour and a thermal camera, and two encoders that
                                   learn without labels which belong together

Makes a folder of images, then runs the commands one would type: train, evaluate, report. Each is printed first.

    --json         the scores as one JSON object at the end
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instar import terminal
from instar.cli.words import Words
from instar.errors import AGAIN, DONE, ConfigError
from instar.formats import one_line

if TYPE_CHECKING:
    from instar import demo
    from instar.run import Run

FLAGS = ()
THINGS = (0, 2)


def run(words: Words) -> int:
    from instar import demo

    if words.things[:1] == ("deepcam",):
        return _deepcam(words)
    if words.things[:1] == ("pairs",):
        return _pairs(words)
    if len(words.things) > 1:
        raise ConfigError(
            f"there is no demo {words.things[0]!r}. There are: instar demo [FOLDER], instar demo deepcam [FOLDER], "
            f"instar demo pairs [FOLDER]"
        )
    made = demo.prepare(Path(words.things[0] if words.things else "instar-demo"))
    what = f"1 797 real digits as PNG files, one folder a class: {one_line(str(made.digits))}/"
    return _carried_out(words, what, made.commands, made.run, _ending(made))


def _carried_out(words: Words, what: str, commands: Sequence[Sequence[str]], run: "Run", ending: Sequence[str]) -> int:
    """Say what there is, run the commands as one would type them, and say where to look."""
    from instar import cli

    hushed = bool({"json", "quiet"} & words.flags)
    if not hushed:
        terminal.say(what)
    for command in commands:
        if not hushed:
            terminal.say(f"\n$ instar {shlex.join(command)}")
        code = cli.main([*command, "--quiet"] if hushed else list(command))
        if code != DONE:
            if code == AGAIN:
                terminal.say(f"again    {shlex.join(['instar', *words.line])}", error=True)
            return code
    if "json" in words:
        facts = {"run": str(run.path), "report": str(run.report), "scores": run.scores("test")}
        terminal.say(json.dumps(facts))
    elif not hushed:
        terminal.say("\n".join(ending))
    return DONE


def _pairs(words: Words) -> int:
    """Two cameras' views of made-up scenes, and encoders that learn without labels which belong together."""
    from instar import cli
    from instar.bench import pairs

    folder = Path(words.things[1] if len(words.things) > 1 else "instar-demo") / "pairs"
    line = terminal.Line(live=not {"json", "quiet"} & words.flags)
    made = pairs.prepare(folder, told=lambda done: line.draw("scenes   ", done, pairs.SCENES))
    line.clear()
    run = str(made.run.path)
    commands = [["train", str(made.recipe), f"run={run}"]]
    commands += [["embed", run]] if "embed" in cli.VERBS else []
    what = f"{pairs.SCENES:,} made-up scenes as a colour and a thermal camera see them: ".replace(",", " ")
    ending = [
        "",
        f"look     {one_line(str(made.run.report))}   (in a browser)",
        f"next     instar train {one_line(str(made.recipe))} seed=1",
        "         recipes/sky-pairs/README.md       real pairs",
    ]
    return _carried_out(words, f"{what}{one_line(str(made.pairs))}/", commands, made.run, ending)


def _deepcam(words: Words) -> int:
    """The benchmark on synthetic fields, as one would type it."""
    from instar import cli
    from instar.run import Run

    folder = Path(words.things[1] if len(words.things) > 1 else "instar-demo") / "deepcam"
    command = ["bench", "deepcam", "data=synthetic", f"folder={folder}"]
    if not {"json", "quiet"} & words.flags:
        terminal.say("MLPerf's climate benchmark, made small: synthetic weather, a small network")
        terminal.say(f"\n$ instar {shlex.join(command)}")
    code = cli.main([*command, *(f"--{flag}" for flag in sorted(words.flags))])
    if code == DONE and not {"json", "quiet"} & words.flags:
        page = Run(folder / "runs" / "deepcam").report
        terminal.say(f"look     {one_line(str(page))}   (in a browser)")
        terminal.say("next     recipes/deepcam/README.md        the benchmark itself")
    return code


def _ending(made: "demo.Demo") -> list[str]:
    return [
        "",
        f"look     {one_line(str(made.run.report))}   (in a browser)",
        f"next     instar train {one_line(str(made.recipe))} seed=1",
        "         instar train FOLDER               your own images, one folder a class",
        "         instar show                       everything that can be set",
    ]
