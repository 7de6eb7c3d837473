"""Search for the best settings: many trials, each an ordinary run; the same command again carries on

    instar tune RECIPE optim.lr="loguniform(1e-5,1e-2)" task.balance="choice(weights,oversample)" samples=32
    instar tune RECIPE                                the ranges in its `space:`, as its `search:` says
    instar tune RECIPE space=FILE                     the ranges, and how to search, from another YAML file
    instar tune RECIPE model.name="choice(a,b,c)" sampler=grid seeds=3
    instar tune STUDY samples=64                      carry on with a study, with more trials

    key=RANGE      what varies, by the names of a recipe: uniform(low,high) loguniform(low,high) int(low,high)
                   logint(low,high) quniform(low,high,step) qloguniform(low,high,step) normal(mean,deviation)
                   choice(a,b,...); "uniform(0.8,0.99) if optim.kind=sgd" where another choice was made
    key=value      any setting of the recipe, the same for all trials, also where the recipe varies it
    metric=loss mode=min     the validation score that decides, by default the task's own

    samples=16     trials in all                          budget=64gpuh   or 200cpuh: no trial begins beyond it
    sampler=tpe    tpe, random or grid                    pruner=asha     asha, median, hyperband or none
    grace=1        evaluations before a trial may be stopped              reduction=3     one in three goes on
    startup=10     trials by chance before tpe            seeds=3         of each point of a grid
    start=RUN      settings to try first; start=STUDY: results that are known
    parallel=4     trials at the same time; on GPUs as many as there are  share=2         trials on one GPU
    devices=2      processes of one trial                 workers= device= timeout= stage= cache=    as for train
    time=8h        how long trials are begun              limit=2h        how long one trial may take
    walltime=8h    stop and save in time                  engine=ray      over the nodes of one job
    study=NAME     instead of a name made up              runs=FOLDER     instead of runs/

    --dry          say what would be searched, and do nothing
    --quiet        only what needs attention              --json          the whole study as one JSON object

The same command again, or any other process or job at the same time, works on the same study: every trial is counted
once, and one that was interrupted is carried on. Exit code: 0 done, 75 stopped and saved, 65 a mistake to mend.
"""

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from instar import caches, formats, terminal
from instar.cli._study import Asked, settings, unusual
from instar.cli.words import Words, to_type
from instar.engine import deadline
from instar.errors import DONE, RunError

if TYPE_CHECKING:
    from instar.machine import Machine
    from instar.study import Definition, Study

FLAGS = ("dry",)
THINGS = (0, 1)
_SHOWN = 3  # settings in a line of the terminal


def run(words: Words) -> int:
    deadline.install()
    caches.refuse_network()
    asked = settings(words)
    _weights_are_here(asked)
    if "dry" in words:
        return _dry(words, asked)
    if asked.effort.engine == "ray":
        return _over_nodes(words, asked)
    return _search(words, asked)


def _weights_are_here(asked: Asked) -> None:
    """Those of every model that may be tried: without, a trial would fail when its turn came."""
    from instar import experiment as experiments
    from instar import lock
    from instar import space as spaces

    definition = asked.definition
    if definition is None or asked.study.exists():
        return

    def look(changes: list[str]) -> None:
        command = lock.command(str(asked.source), changes, {})
        lock.check(experiments.load(definition.document, changes), lock.beside(asked.source), command=command)

    if any(name.partition(".")[0] == "model" for name in definition.space.names):
        spaces.check(definition.space, look)
    else:
        look([])


# --- the search ----------------------------------------------------------------------------------------------------


def _search(words: Words, asked: Asked) -> int:
    from instar import lock, prepare
    from instar import tune as stage
    from instar.cli import main

    machine, quiet = asked.machine, "quiet" in words or "json" in words
    devices = machine.devices if isinstance(machine.devices, int) else 1
    kept = lock.beside(asked.source)
    shown = Shown(asked, quiet=quiet)
    outcome = stage.search(
        asked.study,
        asked.definition,
        asked.effort,
        manifest=lambda definition: prepare.manifest(definition.experiment.data, definition.experiment.seed),
        words=[f"{name}={value}" for name, value in _of_trials(machine).items()],
        devices=devices,
        device=machine.device,
        walltime=machine.walltime.seconds if machine.walltime else None,
        command=main,
        view=shown,
        announce=shown.announce,
        lock=kept.read_bytes() if kept.exists() else None,
        halt=asked.halt,
    )
    _finish(words, asked, outcome)
    return DONE


def _over_nodes(words: Words, asked: Asked) -> int:
    """The search over the nodes of a job: this process leads, or is one of the other nodes."""
    from instar.engine.ranks import place
    from instar.tune import over_nodes

    here, machine = place.here(), asked.machine
    if here.rank > 0:
        over_nodes.join(asked.study, device=machine.device)
        return DONE
    line = [word for word in words.line if not word.startswith(("engine=", "study="))]
    clock = deadline.Clock(machine.walltime.seconds if machine.walltime else None)
    study = asked.study.path.absolute()
    hushed = bool({"json", "quiet"} & words.flags)
    over_nodes.lead(
        asked.study,
        [*line, f"study={study}"],
        place=here,
        device=machine.device,
        clock=clock,
        told=(lambda text: None) if hushed else (lambda text: terminal.say(f"ray      {formats.one_line(text)}")),
    )
    summary = asked.study.summary()
    lines = [json.dumps({"state": "done", **summary})] if "json" in words else ending(asked.study, "done", summary)
    terminal.say("\n".join(lines))
    return DONE


def _of_trials(machine: "Machine") -> dict[str, Any]:
    """What a trial's process is told of the machine, where it is not as usual."""
    names = ("workers", "device", "timeout", "stage", "cache")
    return {name: value for name, value in unusual(machine).items() if name in names}


def _finish(words: Words, asked: Asked, outcome: Any) -> None:
    """Write the page, and say what came of it and where to look."""
    from instar.tune import page

    study, summary = asked.study, outcome.summary
    page.write(study)
    if "json" in words:
        terminal.say(json.dumps({"state": outcome.state, **summary}))
        return
    if "quiet" not in words:
        terminal.say("\n".join(ending(study, outcome.state, summary)))
    if outcome.state == "done" and not summary["best"] and not summary["counts"]["pruned"]:
        raise RunError(f"no trial of {study.path} has finished; the reasons are above, and in instar why {study.path}")


def ending(study: "Study", state: str, summary: Mapping[str, Any]) -> list[str]:
    """The last lines of a search: what came of it, where to look, what to type next."""
    from instar import study as studies

    counts, metric = summary["counts"], summary["metric"]
    parts = [f"{counts[name]} {name}" for name in ("finished", "pruned", "failed") if counts[name]]
    done = sum(counts[name] for name in ("finished", "pruned", "failed"))
    lines = [f"trials   {done} of {summary['samples']}: {', '.join(parts) or 'none yet'}"]
    lines += ["note     the others are being run by other workers"] if state == "others" else []
    lines += ["note     no more was begun: time or budget is used up"] if state == "late" else []
    if best := summary["best"]:
        told = ", ".join(f"{name}={formats.one_line(short(value))}" for name, value in best["settings"].items())
        lines.append(f"best     val {formats.score(metric, best['value'])}   trial {best['trial']:04}   {told}")
        test = study.trial(best["trial"]).scores("test")
        if metric in test:
            lines.append(f"         test {formats.score(metric, test[metric])}")
    again = to_type(study.path)
    lines.append(f"look     {formats.one_line(str(study.report))}")
    following = [f"instar train {shlex.quote(str(study.best_file))}"] if summary["best"] else []
    if studies.load(study).search.sampler != "grid":  # which has no more points
        following.append(f"instar tune {again} samples={2 * summary['samples']}")
    return [*lines, f"next     {'   ·   '.join(following or [f'instar why {again}'])}"]


def short(value: Any) -> str:
    """A number in four figures, a group as one would type it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {short(inner)}" for name, inner in value.items()) + "}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _dry(words: Words, asked: Asked) -> int:
    from instar import study as studies

    definition = asked.definition or studies.load(asked.study)
    if "json" in words:
        terminal.say(json.dumps({"state": "dry", "study": str(asked.study.path), **definition.spelled_out()}))
        return DONE
    again = " ".join(shlex.quote(word) for word in ("instar", *words.line) if word != "--dry")
    wanted = f", {asked.effort.samples} trials" if asked.effort.samples else ""
    terminal.say("\n".join([*described(definition), f"study    {asked.study.path}{wanted}", f"next     {again}"]))
    return DONE


def described(definition: "Definition") -> list[str]:
    """What is searched, and how."""
    texts = definition.space.texts()
    width = max(map(len, texts))
    lines = [
        f"{'space' if not number else '':<9}{name:<{width}}  {text}"
        for number, (name, text) in enumerate(texts.items())
    ]
    search = definition.search
    how = [search.sampler] + ([] if search.pruner == "none" else [f"{search.pruner} from evaluation {search.grace} on"])
    points = definition.space.points
    how += [f"{points} points"] if points is not None else []
    return [*lines, f"search   {', '.join(how)}, seed {definition.experiment.seed}"]


class Shown:
    """What a search tells a person: a line a trial."""

    def __init__(self, asked: Asked, *, quiet: bool):
        self._quiet = quiet
        self._samples = 0
        self._metric = ""
        self._live = terminal.Line(live=not quiet)

    def announce(self, study: "Study", definition: "Definition", samples: int, rows: Any) -> None:
        from instar import tune as stage

        self._samples, self._metric = samples, stage.judged_by(definition.experiment)[0]
        if self._quiet:
            return
        sizes = [len(rows.rows(split)) for split in ("train", "val", "test")]
        what = f"{formats.count(len(rows))} rows, {' + '.join(map(formats.count, sizes))}"
        lines = [f"data     {what}", *described(definition)]
        terminal.say("\n".join([*lines, f"study    {formats.one_line(str(study.path))}, {samples} trials"]))

    def began(self, place: int, settings: Mapping[str, Any], *, again: bool) -> None:
        if again:
            self.note(f"trial {place:04} carries on")

    def evaluated(self, place: int, question: Mapping[str, Any]) -> None:
        value = formats.score(self._metric, float(question["value"]))
        self._live.say(f"trial {place:04}  epoch {float(question['epoch']):.3g}  val {value}")

    def ended(self, place: int, ending: Any, settings: Mapping[str, Any], seconds: float) -> None:
        if self._quiet:
            return
        self._live.clear()
        value = f"val {formats.score(self._metric, ending.value)}" if ending.value is not None else ""
        told = formats.one_line(ending.reason) if ending.reason else _settings(settings)
        width = len(str(self._samples))
        terminal.say(
            f"{place + 1:>{width}}/{self._samples}  {ending.state:<8}  {value:<10}  {told}  {formats.clock(seconds)}"
        )

    def note(self, text: str) -> None:
        self._live.clear()
        if not self._quiet:
            terminal.say(f"note     {formats.one_line(text)}")


def _settings(values: Mapping[str, Any]) -> str:
    named = {name: value.get("name", value) if isinstance(value, dict) else value for name, value in values.items()}
    parts = [f"{name.rpartition('.')[2]} {short(value)}" for name, value in named.items()]
    return formats.one_line("  ".join(parts))
