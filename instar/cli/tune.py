"""Search for the best settings: many trials, each an ordinary run; the same command again carries on

    instar tune RECIPE optim.lr="loguniform(1e-5,1e-2)" task.balance="choice(weights,oversample)" samples=32
    instar tune RECIPE space=FILE                     the ranges, and how to search, from a YAML file
    instar tune RECIPE model.name="choice(a,b,c)" sampler=grid seeds=3
    instar tune STUDY samples=64                      carry on with a study, with more trials

    key=RANGE      what varies, by the names of a recipe: uniform(low,high) loguniform(low,high) int(low,high)
                   logint(low,high) quniform(low,high,step) qloguniform(low,high,step) normal(mean,deviation)
                   choice(a,b,...); "uniform(0.8,0.99) if optim.kind=sgd" where another choice was made
    key=value      any setting of the recipe, the same for all trials
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

import difflib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from instar import caches, formats, plugins, terminal
from instar.cli.words import Words, to_type
from instar.engine import deadline
from instar.errors import DONE, ConfigError, RunError

if TYPE_CHECKING:
    from instar.machine import Machine, Place
    from instar.settings import Settings
    from instar.space import Space
    from instar.study import Definition, Effort, Search, Study

FLAGS = ("dry",)
THINGS = (0, 1)
T = TypeVar("T")
_SHOWN = 3  # settings in a line of the terminal


@dataclass(frozen=True)
class Asked:
    """What the words ask for.

    definition   None for a study that is there already
    source       the recipe, beside which the lock of its weights stands
    """

    study: "Study"
    definition: "Definition | None"
    effort: "Effort"
    machine: "Machine"
    source: Path
    halt: Path | None = None


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


def settings(words: Words) -> Asked:
    """What to search and with what; raises ConfigError with every mistake at once."""
    from instar import space as spaces
    from instar import study as studies
    from instar.machine import Machine, Place
    from instar.validation import validate

    mistakes: list[str] = []
    ours = _ours()
    changes, drawn = _sorted(words, ours, mistakes)
    place = _kept(mistakes, lambda: validate(Place, {}, changes[Place])) or Place()
    texts, where, beside = _kept(mistakes, lambda: _from_file(place)) or ({}, lambda name: "", {})
    mistakes += [f"{place.space}: {plugins.unknown(n, ['space', *ours], what='key')}" for n in beside if n not in ours]
    said = {one: {name: beside[name] for name in beside if ours.get(name) is one} for one in changes}
    if place.seeds == 1 and said[Place]:
        place = _kept(mistakes, lambda: validate(Place, said[Place], changes[Place])) or place
    search = _kept(mistakes, lambda: validate(studies.Search, said[studies.Search], changes[studies.Search]))
    effort = _kept(mistakes, lambda: validate(studies.Effort, said[studies.Effort], changes[studies.Effort]))
    machine = _kept(mistakes, lambda: validate(Machine, said[Machine], changes[Machine]))
    known = _study_named(words, place)
    told = [*drawn, *changes[None], *changes[studies.Search], *texts]
    if known is not None and told:
        mistakes.append(f"{known.path} is a study; what it searches stays as it is. Leave out {', '.join(told)}")
    if known is None and not words.things:
        mistakes.append("there is nothing to learn from: name a recipe, a folder of images, or a study")
        raise ConfigError(mistakes)
    definition = None
    if known is None:
        space, wrong = spaces.attempt({**texts, **drawn}, lambda name: "command line" if name in drawn else where(name))
        start = None if effort is None or effort.start is None else _start(effort.start, place.runs)
        effort = effort and effort.model_copy(update={"start": start and str(start)})
        definition = _definition(
            words, space, [*mistakes, *wrong], changes=changes[None], search=search, seeds=place.seeds, start=start
        )
    _raise(mistakes)
    assert machine is not None and effort is not None
    if known is not None or definition is None:
        assert known is not None
        return Asked(known, None, effort, machine, known.path / "recipe.yaml", place.halt)
    name = place.study or studies.name_of(definition)
    folder = Path(name) if "/" in name else place.runs / name
    return Asked(studies.Study(folder), definition, effort, machine, Path(words.things[0]), place.halt)


def _start(name: str, runs: Path) -> Path:
    return Path(name) if Path(name).exists() else runs / name


def _ours() -> "dict[str, type[Settings]]":
    """Names that are not a recipe's -> what they are settings of."""
    from instar.machine import Machine, Place
    from instar.study import Effort, Search

    return {name: one for one in (Machine, Effort, Search, Place) for name in one.model_fields}


def _sorted(
    words: Words, ours: "Mapping[str, type[Settings]]", mistakes: list[str]
) -> tuple[dict[Any, list[str]], dict[str, str]]:
    """The changes by what they are settings of (None for the recipe), and the ranges by name."""
    from instar import space as spaces
    from instar.cli import train
    from instar.experiment import Experiment

    changes: dict[Any, list[str]] = {one: [] for one in ours.values()} | {None: []}
    drawn: dict[str, str] = {}
    for change in words.changes:
        long = train.long_name(_of_metric(change))
        key, _, text = long.partition("=")
        top = key.lstrip("+~").partition(".")[0]
        near = difflib.get_close_matches(top, ours, n=1)
        if key not in ours and spaces.is_drawn(change):
            drawn[key] = text
        elif top not in ours and top not in Experiment.model_fields and near:
            mistakes.append(f"command line: unknown key {top!r}: did you mean {near[0]!r}?")
        else:
            changes[ours.get(key)].append(long)
    return changes, drawn


def _definition(
    words: Words,
    space: "Space",
    mistakes: list[str],
    *,
    changes: list[str],
    search: "Search | None",
    seeds: int,
    start: Path | None,
) -> "Definition":
    """What is searched; raises ConfigError with these mistakes and its own, all that can be found at once."""
    from instar import experiment as experiments
    from instar import tune as stage
    from instar.study import Search

    source = words.things[0]
    document = _kept(mistakes, lambda: experiments.document(source, changes))
    known = (_kept(mistakes, lambda: stage.known_from(start, space)) or []) if start is not None else []
    # Where the recipe itself is wrong, the space is still held against the rest of it.
    rest = document or _kept([], lambda: experiments.document(source))
    made = _kept(
        mistakes, lambda: stage.define(rest, space, search or Search(), seeds=seeds, known=known) if rest else None
    )
    _raise(mistakes)
    assert made is not None
    return made


def _of_metric(change: str) -> str:
    """`metric=` and `mode=` are settings of the training: they choose its best checkpoint as well."""
    return f"train.{change}" if change.startswith(("metric=", "mode=")) else change


def _study_named(words: Words, place: "Place") -> "Study | None":
    """The study that the words are about; None where they begin with a recipe."""
    from instar.study import Study, is_study

    if not words.things:
        return None
    for path in (Path(words.things[0]), place.runs / words.things[0]):
        if is_study(path):
            return Study(path)
    return None


def _from_file(place: "Place") -> tuple[dict[str, str], Callable[[str], str], Mapping[str, Any]]:
    from instar import space as spaces

    if place.space is None:
        return {}, lambda name: "", {}
    return spaces.load(str(place.space))


def _raise(mistakes: Sequence[str]) -> None:
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))


def _kept(mistakes: list[str], make: Callable[[], T]) -> T | None:
    try:
        return make()
    except ConfigError as error:
        mistakes += error.mistakes
        return None


def _weights_are_here(asked: Asked) -> None:
    from instar import lock

    if asked.definition is not None and not asked.study.exists():
        command = lock.command(str(asked.source), [], {})
        lock.check(asked.definition.experiment, lock.beside(asked.source), command=command)


def as_words(asked: Asked) -> list[str]:
    """The words that ask for the same once more, after the recipe and the study's name."""
    said: dict[str, Any] = {}
    if asked.definition is not None:
        said |= asked.definition.space.texts()
        said |= _unusual(asked.definition.search)
    said |= _unusual(asked.effort) | _unusual(asked.machine)
    if "start" in said:
        said["start"] = str(Path(said["start"]).absolute())
    return [f"{name}={value}" for name, value in said.items()]


def _unusual(settings: "Settings") -> dict[str, Any]:
    """Settings that are not as usual, as one would write them."""
    usual = type(settings)().model_dump(mode="json")
    return {name: value for name, value in settings.model_dump(mode="json").items() if value != usual[name]}


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
        preload=_preload(asked),
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
    over_nodes.lead(asked.study, [*line, f"study={study}"], place=here, device=machine.device, clock=clock)
    summary = asked.study.summary()
    lines = [json.dumps({"state": "done", **summary})] if "json" in words else ending(asked.study, "done", summary)
    terminal.say("\n".join(lines))
    return DONE


def _of_trials(machine: "Machine") -> dict[str, Any]:
    """What a trial's process is told of the machine, where it is not as usual."""
    names = ("workers", "device", "timeout", "stage", "cache")
    return {name: value for name, value in _unusual(machine).items() if name in names}


def _preload(asked: Asked) -> list[str]:
    """What every trial imports, so that it is imported once. A name that is none is passed over."""
    from instar import study as studies

    experiment = (asked.definition or studies.load(asked.study)).experiment
    kinds = {
        "readers": experiment.data.reader.kind,
        "models": experiment.model.kind,
        "tasks": experiment.task.kind,
        "optimizers": experiment.optim.kind,
        "schedules": experiment.schedule.kind,
    }
    ours = [kind if "." in kind else f"instar.{shelf}.{kind}" for shelf, kind in kinds.items()]
    # Some kinds of models are named after the library they come from, which takes seconds to import.
    libraries = [experiment.model.kind, "torch._dynamo", "pandas"]
    return ["instar.train", "instar.prepare", "instar.cli.train", *ours, *libraries]


def _finish(words: Words, asked: Asked, outcome: Any) -> None:
    """Score the best trial's test rows, once, when all trials have ended; write the page; say where to look."""
    from instar import evaluate
    from instar import run as runs
    from instar.tune import page

    study, summary = asked.study, outcome.summary
    best = summary.get("best") or {}
    if outcome.state == "done" and best:
        found = study.trial(best["trial"])
        rows = runs._json(found.plan_file)
        if rows.get("test_rows") and not found.scores("test"):
            evaluate.evaluate(found, split="test", machine=asked.machine)
    page.write(study)
    if "json" in words:
        terminal.say(json.dumps({"state": outcome.state, **summary}))
        return
    if "quiet" not in words:
        terminal.say("\n".join(ending(study, outcome.state, summary)))
    if outcome.state == "done" and not best and not summary["counts"]["pruned"]:
        raise RunError(f"no trial of {study.path} has finished; the reasons are above, and in instar why {study.path}")


def ending(study: "Study", state: str, summary: Mapping[str, Any]) -> list[str]:
    """The last lines of a search: what came of it, where to look, what to type next."""
    counts, metric = summary["counts"], summary["metric"]
    parts = [f"{counts[name]} {name}" for name in ("finished", "pruned", "failed") if counts[name]]
    done = sum(counts[name] for name in ("finished", "pruned", "failed"))
    lines = [f"trials   {done} of {summary['samples']}: {', '.join(parts) or 'none yet'}"]
    lines += ["note     the others are being run by other workers"] if state == "others" else []
    lines += ["note     no more was begun: time or budget is used up"] if state == "late" else []
    if best := summary["best"]:
        told = ", ".join(f"{name}={formats.one_line(str(short(value)))}" for name, value in best["settings"].items())
        lines.append(f"best     val {formats.score(metric, best['value'])}   trial {best['trial']:04}   {told}")
        test = study.trial(best["trial"]).scores("test")
        if metric in test:
            lines.append(f"         test {formats.score(metric, test[metric])}")
    again = to_type(study.path)
    lines.append(f"look     {formats.one_line(str(study.report))}")
    following = f"instar train {shlex.quote(str(study.best_file))}   ·   " if summary["best"] else ""
    return [*lines, f"next     {following}instar tune {again} samples={2 * summary['samples']}"]


def short(value: Any) -> Any:
    """A number in four figures."""
    return f"{value:.4g}" if isinstance(value, float) else value


def _dry(words: Words, asked: Asked) -> int:
    from instar import study as studies

    definition = asked.definition or studies.load(asked.study)
    if "json" in words:
        terminal.say(json.dumps({"state": "dry", "study": str(asked.study.path), **definition.spelled_out()}))
        return DONE
    again = " ".join(shlex.quote(word) for word in ("instar", *words.line) if word != "--dry")
    terminal.say("\n".join([*described(definition), f"study    {asked.study.path}", f"next     {again}"]))
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
        pass

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
        if not self._quiet:
            terminal.say(f"note     {formats.one_line(text)}")


def _settings(values: Mapping[str, Any]) -> str:
    parts = [f"{name.rpartition('.')[2]} {short(value)}" for name, value in values.items()]
    return formats.one_line("  ".join(parts))
