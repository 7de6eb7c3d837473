"""What the words of `instar tune` ask for: a study, what it searches, how much is done at this start, and with what."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from instar import plugins
from instar.cli.words import Words
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.machine import Machine, Place
    from instar.search import Effort, Search
    from instar.settings import Settings
    from instar.space import Space
    from instar.study import Definition, Study

T = TypeVar("T")


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


def settings(words: Words) -> Asked:
    """What to search and with what; raises ConfigError with every mistake at once."""
    from instar import space as spaces
    from instar import study as studies
    from instar.machine import Machine, Place
    from instar.search import Effort, Search
    from instar.validation import validate

    mistakes: list[str] = []
    ours = _ours()
    changes, drawn = _sorted(words, ours, mistakes)
    place = _kept(mistakes, lambda: validate(Place, {}, changes[Place])) or Place()
    known = _study_named(words, place)
    texts, where, beside = _kept(mistakes, lambda: _written(words, place, known, changes[None])) or (
        {},
        lambda name: "",
        {},
    )
    mistakes += [f"{place.space}: {plugins.unknown(n, ['space', *ours], what='key')}" for n in beside if n not in ours]
    said = {one: {name: beside[name] for name in beside if ours.get(name) is one} for one in changes}
    if place.seeds == 1 and said[Place]:
        place = _kept(mistakes, lambda: validate(Place, said[Place], changes[Place])) or place
    search = _kept(mistakes, lambda: validate(Search, said[Search], changes[Search]))
    effort = _kept(mistakes, lambda: validate(Effort, said[Effort], changes[Effort]))
    machine = _kept(mistakes, lambda: validate(Machine, said[Machine], changes[Machine]))
    told = [*drawn, *changes[None], *changes[Search], *texts]
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
    from instar.search import Effort, Search

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
    from instar.search import Search

    source = words.things[0]
    document = _kept(mistakes, lambda: experiments.document(source, changes, without=["space"]))
    known = (_kept(mistakes, lambda: stage.known_from(start, space)) or []) if start is not None else []
    # Where the recipe itself is wrong, the space is still held against the rest of it.
    rest = document or _kept([], lambda: experiments.document(source, without=["space", "search"]))
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


def _written(
    words: Words, place: "Place", known: "Study | None", changes: Sequence[str]
) -> tuple[dict[str, str], Callable[[str], str], Mapping[str, Any]]:
    """The space that is written down, what tells a name's place, and what is said beside it of how to search.

    It is in a file of its own, or else in the recipe. A name that the command line gives a value is not varied.
    """
    from instar import experiment as experiments
    from instar import space as spaces
    from instar.overrides import attempt
    from instar.search import InRecipe
    from instar.validation import validate

    if place.space is not None:
        texts, where, beside = spaces.load(str(place.space))
    elif known is not None or not words.things:
        return {}, lambda name: "", {}
    else:
        document, _ = attempt(*experiments.read_document(words.things[0], changes))
        texts, where = spaces.within(document)
        found = document.get("search")
        # Mistakes in there are told with their lines when the whole recipe is read.
        beside = found if found and _kept([], lambda: validate(InRecipe, found)) is not None else {}
    fixed = {change.lstrip("+~").partition("=")[0] for change in changes}
    return {name: text for name, text in texts.items() if name not in fixed}, where, beside


def _raise(mistakes: Sequence[str]) -> None:
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))


def _kept(mistakes: list[str], make: Callable[[], T]) -> T | None:
    try:
        return make()
    except ConfigError as error:
        mistakes += error.mistakes
        return None


def as_words(asked: Asked) -> list[str]:
    """The words that ask for the same once more, after the recipe and the study's name."""
    said: dict[str, Any] = {}
    if asked.definition is not None:
        said |= asked.definition.space.texts()
        said |= unusual(asked.definition.search)
    said |= unusual(asked.effort) | unusual(asked.machine)
    if "start" in said:
        said["start"] = str(Path(said["start"]).absolute())
    return [f"{name}={value}" for name, value in said.items()]


def unusual(settings: "Settings") -> dict[str, Any]:
    """Settings that are not as usual, as one would write them."""
    usual = type(settings)().model_dump(mode="json")
    return {name: value for name, value in settings.model_dump(mode="json").items() if value != usual[name]}
