"""What the verbs do where the recipe is of a LightningModule of one's own."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import adopt, formats, terminal
from instar import brought as brought_ones
from instar.cli import train
from instar.cli.words import Words, to_type
from instar.engine import deadline
from instar.errors import DONE, ConfigError
from instar.overrides import overruled

if TYPE_CHECKING:
    from instar.brought import Brought
    from instar.machine import Machine, Start

# The short names of `instar train`, as far as they mean something here.
SHORT = {"epochs": "trainer.max_epochs", "batch": "train.batch", "size": "augment.size"}
_ELSEWHERE = "on_change", "accept", "stage", "timeout"


def document(words: Words) -> dict[str, Any] | None:
    """The recipe, where the words are about a LightningModule of one's own; None where they are about anything else."""
    if len(words.things) != 1:
        return None
    own = brought_ones.of_file(words.things[0])
    if own is not None:
        return own
    adopted = adopt.of_file(Path(words.things[0]), _of_recipe(words))
    return adopted[0].recipe if adopted else None


def _of_recipe(words: Words) -> list[str]:
    """The changes that are not about where it runs and how it starts."""
    from instar.machine import Machine, Start

    elsewhere = {*Machine.model_fields, *Start.model_fields}
    return [
        change for change in words.changes if change.lstrip("+~").partition("=")[0].partition(".")[0] not in elsewhere
    ]


def settings(words: Words, recipe: dict[str, Any]) -> tuple["Brought", "Machine", "Start"]:
    """What to learn, where, and how to start; raises ConfigError with the mistakes of all three."""
    from instar.machine import Machine, Start
    from instar.validation import validate

    ours = {**dict.fromkeys(Machine.model_fields, Machine), **dict.fromkeys(Start.model_fields, Start)}
    changes: dict[Any, list[str]] = {Machine: [], Start: [], None: []}
    adopted = adopt.of_file(Path(words.things[0]), _of_recipe(words))
    told = [f"{key}={value}" for key, value in (adopted[0].start if adopted else {}).items()]
    taken = set(_of_recipe(words)) - set(adopted[1]) if adopted else set()
    for change in [*told, *(change for change in words.changes if change not in taken)]:
        key = change.lstrip("+~").partition("=")[0]
        changes[ours.get(key.partition(".")[0])].append(long_name(change))
    mistakes: list[str] = []
    machine = train.collected(mistakes, lambda: validate(Machine, {}, changes[Machine]))
    start = train.collected(mistakes, lambda: validate(Start, {}, changes[Start]))
    found = train.collected(mistakes, lambda: brought_ones.load(_whole(words, recipe), changes[None]))
    if mistakes or found is None or machine is None or start is None:
        raise ConfigError(mistakes)
    if start.run is None and (Path(words.things[0]) / "experiment.yaml").is_file():
        start = start.model_copy(update={"run": f"{words.things[0]}/"})
    return found, machine, start


def _whole(words: Words, recipe: dict[str, Any]) -> Any:
    """The file itself where it is composed of several, so that changes may choose among them."""
    return words.things[0] if "defaults" in recipe else recipe


def long_name(change: str) -> str:
    """The full name of a setting so common that its last word will do."""
    key, equals, value = change.partition("=")
    return f"{SHORT.get(key, key)}{equals}{value}"


def run(words: Words, recipe: dict[str, Any]) -> int:
    """Train it: what `instar train` does."""
    brought, machine, start = settings(words, recipe)
    brought_ones.look(brought, recipe)
    train.trackers_are_here(brought.track)
    if "dry" not in words and (ranks := train.ranks_to_start(machine)) > 1:
        from instar.engine.ranks import launch

        return launch.ranks(list(words.line), ranks)
    from instar import fit, prepare
    from instar.engine.tracking.followers import Followers, told

    adopted = adopt.of_file(Path(words.things[0]), _of_recipe(words))
    level = "silent" if "json" in words else "quiet" if "quiet" in words else "full"
    metric = brought.train.monitor or "loss"
    view = terminal.Terminal(metric=metric, level=level)
    data = brought.data
    for key, why in (adopted[0].dropped if adopted else {}).items():
        view.note(f"{key} of {words.things[0]} is left out: {why}")
    for note in [*(adopted[0].overruled if adopted else ()), *overruled(recipe, map(long_name, words.changes))]:
        view.note(note)
    followers, say = Followers(() if "dry" in words else brought.track), _announcer(view, brought)

    def announce(found: Any, plan: dict[str, Any]) -> None:
        say(found, plan)
        followers.begin(found)

    with followers:
        try:
            outcome = fit.fit(
                brought,
                machine=machine,
                run_name=start.run,
                runs_folder=start.runs,
                dry="dry" in words,
                document=recipe,
                manifest=(lambda: prepare.manifest(data, brought.seed, progress=view.preparing)) if data else None,
                view=view,
                announce=announce,
            )
        finally:
            view.clear()
        if outcome.rank == 0:
            _finish(words, outcome, told(followers.end(), to_type(outcome.run.path)))
    return DONE


def _announcer(view: Any, brought: "Brought") -> Callable[[Any, dict[str, Any]], None]:
    def announce(found: Any, plan: dict[str, Any]) -> None:
        name = f"{brought.task.module}.{brought.task.definition}"
        size = f", {formats.count(plan['parameters'])} weights" if "parameters" in plan else ""
        lines = [terminal.two("module", f"{name}{size}", plan["definition"])]
        if "steps" in plan:
            device = f"{plan['devices']} x {plan['device']}" if plan["devices"] > 1 else plan["device"]
            steps = f", {formats.count(plan['steps'])} steps" if plan["steps"] else ""
            lines.append(
                terminal.two(
                    "plan",
                    f"{device} {plan['precision']}, batch {plan['batch']}{steps}",
                    f"run    {formats.one_line(str(found.path))}",
                )
            )
        else:
            lines.append(f"run      {formats.one_line(str(found.path))}")
        view.expect(plan.get("total_samples", 0), plan.get("epoch_samples", 0), plan.get("batch", 0), lines)

    return announce


def _finish(words: Words, outcome: Any, notes: Sequence[str]) -> None:
    """Say how good it is, where to look, and what to type next."""
    if outcome.state == "dry":
        again = shlex.join(word for word in ("instar", *words.line) if word != "--dry")
        train.tell(words, {"state": "dry", "run": str(outcome.run.path)}, [f"next     {again}"])
        return
    best, scores = outcome.best, outcome.scores
    told = [f"{best['metric']} {best['value']:.4g} (epoch {formats.epoch(best['epoch'])})"] if best else []
    told += [f"{split} {name} {value:.4g}" for split, found in scores.items() for name, value in found.items()]
    lines = [f"best     {'   '.join(told)}"] if told else []
    lines += [
        f"look     {formats.one_line(str(outcome.run.report))}",
        *notes,
        train.what_next(outcome.run),
    ]
    train.tell(words, {"state": outcome.state, "run": str(outcome.run.path), "best": best, "scores": scores}, lines)


def evaluate(found: Any, *, split: str, checkpoint: str, machine: "Machine") -> list[str]:
    """Score it with its own step: what `instar evaluate` does; returns what to say."""
    from instar import fit

    deadline.install()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    scores = fit.score(found, split=split, checkpoint=checkpoint, machine=machine)
    return [f"{split:<9}{name} {value:.4g}" for name, value in scores.items() if name != "about"] + [
        f"look     {formats.one_line(str(found.report))}"
    ]
