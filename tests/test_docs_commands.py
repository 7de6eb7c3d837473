"""Every `instar …` in the documentation is a command that there is: its verb, its flags, its keys, its settings."""

import re
import shlex
from pathlib import Path

import pytest

from instar import plugins
from instar.brought import Brought
from instar.cli import COMMON_FLAGS, VERBS, show, verb
from instar.cli.submit import sorted_words
from instar.cli.train import SHORT
from instar.cli.words import Words, parse
from instar.errors import ConfigError
from instar.experiment import Experiment
from instar.machine import Machine, Start
from instar.submit import Request
from instar.validation import group_of
from tests.test_docs import PAGES, ROOT

INLINE = re.compile(r"`(instar [^`]+)`")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Whole commands: lines of code blocks that begin with one, joined where they go on, and those inside a sentence."""
    text = page.read_text(encoding="utf-8")
    found = []
    for language, block in FENCED.findall(text):
        if language in ("", "bash", "console", "sh"):
            lines = re.sub(r"\\\n\s*", " ", block).splitlines()
            found += [line.strip().removeprefix("$ ") for line in lines if re.match(r"\s*(\$ )?instar [a-z]", line)]
    return found + INLINE.findall(FENCED.sub("", text))


def words_of(command: str) -> list[str] | None:
    """The words after `instar`; None for one that is only sketched: with `…`, or a list of verbs."""
    first = re.split(r"\s{2,}#|\s+·\s+|\s[|;&]|\s>\s|  +", command.replace("\n", " "))[0]
    try:
        words = shlex.split(first, comments=True)[1:]
    except ValueError:
        return None
    listed = len(words) > 1 and set(words) <= set(VERBS)
    return None if not words or listed or any("…" in word for word in words) else words


def known_keys() -> set[str]:
    return {*Experiment.model_fields, *Machine.model_fields, *Start.model_fields, *Brought.model_fields, *SHORT}


def check_settings(changes: tuple[str, ...]) -> None:
    """Every key stands somewhere: of a recipe to its last part, or of this start or machine."""
    for change in changes:
        key = change.lstrip("+~").partition("=")[0]
        top, *rest = SHORT.get(key, key).partition("@")[0].split(".")
        assert top in known_keys(), f"{key} is no setting"
        if rest:
            groups, shelves = dict(show.groups()), dict(show.shelves())
            above = ".".join([top, *rest[:-1]])
            known = set(groups[above].model_fields) if above in groups else set()
            own = group_of(Brought, above)  # the same group in a recipe of a LightningModule
            known |= set(own.model_fields) if own is not None else set()
            if above in shelves:
                kinds = plugins.kinds(shelves[above].shelf)
                known |= {name for kind in kinds for name in shelves[above].settings(kind).model_fields}
            assert rest[-1] in known or above not in {*groups, *shelves}, f"{key} is no setting"


def check(line: list[str]) -> None:
    name, *rest = line
    if name in ("--version", "--help", "help"):
        return
    assert name in VERBS, f"there is no verb {name}"
    module = verb(name)
    things = module.THINGS if len(rest) else (0, 99)  # `instar check` in a sentence is a name
    words: Words = parse(name, rest, flags=(*COMMON_FLAGS, *module.FLAGS), things=(0, things[1]))
    if name == "train":
        check_settings(words.changes)
    if name == "submit" and words.things[:1] == ("train",):
        _, _, of_work = sorted_words(words, tuple(Request.model_fields))
        check_settings(tuple(change for change in of_work if not change.startswith("on=")))
    if name == "show" and words.things and words.things[0].islower():
        show.find(words.things[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one(page):
    for command in commands(page):
        words = words_of(command)
        if words is None:
            continue
        try:
            check(words)
        except (AssertionError, ConfigError) as error:
            raise AssertionError(f"{page.relative_to(ROOT)}: {command}: {error}") from error


def test_commands_are_found_and_a_wrong_one_is():
    assert len([one for page in PAGES for one in commands(page) if words_of(one)]) > 100
    for wrong in ("trian x", "train x epocs=3", "train x optim.lrr=3", "runs --what", "show nothing_like_this"):
        with pytest.raises((AssertionError, ConfigError)):
            check(shlex.split(wrong))


@pytest.mark.parametrize("name", VERBS)
def test_the_commands_of_a_help_page_are_there(name):
    for line in (verb(name).__doc__ or "").splitlines():
        if re.match(r"\s+instar [a-z]+ ", line):
            words = words_of(line.strip())
            assert words is None or words[0] in VERBS, line
