"""Run a benchmark, and let its own checker read the log

    instar bench deepcam data=synthetic                   small: made-up fields, a small network, the open division
    instar bench deepcam recipes/deepcam/recipe.yaml data.root=FOLDER key=value
                                                          the recipe, and then MLPerf's checker (hpc 3.0.0)
    instar bench deepcam --check RUN                      check what a run logged, or any log file

    data=synthetic      makes the fields first, in folder=deepcam-synthetic, and a recipe beside them:
                        samples=200 size=96x144
    key=value           any setting of the recipe, and of instar train (devices, walltime, run …)

    --json              one JSON object at the end
    --quiet             only what needs attention

The same command again carries on. Says what keeps a time from standing beside published ones. On a cluster: submit the
training (instar submit train RECIPE --on SITE), then --check its run. Exit code: 0 passed, 65 not.
"""

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from instar import terminal
from instar.cli.words import Words
from instar.errors import AGAIN, DONE, USER_ERROR, ConfigError
from instar.formats import one_line

if TYPE_CHECKING:
    from instar.bench.check import Verdict

FLAGS = ("check=",)
THINGS = (1, 2)
NAMES = ("deepcam",)
_OURS = ("check", "data", "folder", "samples", "size")


def run(words: Words) -> int:
    if words.things[0] not in NAMES:
        raise ConfigError(f"there is no benchmark {words.things[0]!r}. There is: {', '.join(NAMES)}")
    ours, rest = _sorted(words.changes)
    hushed = bool({"json", "quiet"} & words.flags)
    if "check" in ours:
        return _judge(Path(ours["check"]), words, hushed=False)
    if ours.get("data", "synthetic") != "synthetic":
        raise ConfigError(
            f"data={ours['data']!r}: write data=synthetic, or a recipe and data.root={shlex.quote(ours['data'])}"
        )
    if len(words.things) == 1 and "data" not in ours:
        raise ConfigError(
            "say on what: data=synthetic for made-up fields, or a recipe, such as recipes/deepcam/recipe.yaml"
        )
    if len(words.things) == 2 and len(ours):
        raise ConfigError(f"{next(iter(ours))}= goes with data=synthetic, not with a recipe. Write data.root=FOLDER.")
    recipe, folder = (words.things[1], None) if len(words.things) == 2 else _synthetic(ours, hushed=hushed)
    return _run(words, recipe, folder, rest, hushed=hushed)


def _sorted(changes: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """What this verb takes itself, and what is for the training."""
    ours: dict[str, str] = {}
    rest = []
    for change in changes:
        key, _, value = change.partition("=")
        if key in _OURS:
            ours[key] = value
        else:
            rest.append(change)
    return ours, rest


def _synthetic(ours: dict[str, str], *, hushed: bool) -> tuple[str, str]:
    """The recipe and the run folder of the small benchmark, made now or found there."""
    from instar.bench import deepcam

    samples, size = ours.get("samples", str(deepcam.SAMPLES)), ours.get("size", f"{deepcam.HEIGHT}x{deepcam.WIDTH}")
    mistakes = []
    if not samples.isdigit() or int(samples) < 10:
        mistakes.append(f"samples={samples}: write a number of at least 10, so that each part has one")
    sides = re.fullmatch(r"(\d{2,5})x(\d{2,5})", size)
    if sides is None or min(int(side) for side in sides.groups()) < 16:
        mistakes.append(f"size={size}: write height x width of at least 16 pixels each, for example 96x144")
    if mistakes or sides is None:
        raise ConfigError(mistakes)
    folder = Path(ours.get("folder", "deepcam-synthetic"))
    made = deepcam.prepare(folder, samples=int(samples), height=int(sides[1]), width=int(sides[2]))
    if not hushed:
        terminal.say(f"synthetic {samples} made-up fields of {size} pixels, 16 channels: {one_line(str(made.fields))}/")
    return str(made.recipe), str(made.run.path)


def _run(words: Words, recipe: str, folder: str | None, rest: list[str], *, hushed: bool) -> int:
    """Train as one would by hand, then check what was logged."""
    from instar import cli
    from instar import experiment as experiments
    from instar.cli.train import settings
    from instar.cli.words import parse

    if folder is not None and not any(change.startswith("run=") for change in rest):
        rest = [*rest, f"run={folder}"]
    experiment, _, start = settings(parse("train", [recipe, *rest], flags=(), things=(0, 1)))
    log = [] if experiment.mlperf else ["mlperf={benchmark: deepcam}"]
    path = experiments.locate(experiment, start.run, runs=start.runs).path
    command = [
        "train",
        recipe,
        *(change for change in rest if not change.startswith("run=")),
        *log,
        f"run={path.parent}/{path.name}",
    ]
    if not hushed:
        terminal.say(f"\n$ instar {shlex.join(command)}")
    code = cli.main([*command, "--quiet"] if hushed else command)
    if code == AGAIN:
        terminal.say(f"again    {shlex.join(['instar', *words.line])}", error=True)
    return code if code != DONE else _judge(path, words, hushed=hushed)


def _judge(log: Path, words: Words, *, hushed: bool) -> int:
    from instar.bench.check import check

    verdict = check(log)
    if "json" in words:
        facts = {
            "passed": verdict.passed,
            "division": verdict.division,
            "minutes": verdict.minutes,
            "complaints": verdict.complaints,
            "differences": verdict.differences,
        }
        terminal.say(json.dumps(facts))
    elif not hushed or not verdict.passed:
        terminal.say("\n".join(_told(verdict, log)))
    return DONE if verdict.passed else USER_ERROR


def _told(verdict: "Verdict", log: Path) -> list[str]:
    where = f"{verdict.division or 'no'} division"
    took = "" if verdict.minutes is None else f", {verdict.minutes:.2f} min from run_start to run_stop"
    word = "SUCCESS" if verdict.passed else "FAILED"
    told = ["", f"checker  {word} (mlperf-logging, hpc 3.0.0, {where}{took})   {one_line(str(log))}"]
    told += [f"         {complaint}" for complaint in verdict.complaints]
    if verdict.differences:
        told.append("note     not comparable with published times:")
        told += [f"         {difference}" for difference in verdict.differences]
    return told
