from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, model_validator

from instar.errors import ConfigError
from instar.settings import Settings, Shelf, Training, parse
from instar.validation import conflict, validate


class Group(Settings):
    """A group."""

    epochs: Annotated[int, Field(ge=1)] = 3
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    warmup: Training = "5 %"  # type: ignore[assignment]
    quality: Literal["high", "low"] = "low"
    layout: Literal["auto"] | bool = "auto"
    pair: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _sorted(self):
        if self.pair[0] > self.pair[1]:
            raise conflict([(("pair", "share"), "the smaller number comes first")])
        return self


class Recipe(Settings):
    """A recipe."""

    root: str
    """Where the images are."""
    seed: int = 0
    train: Group = Group()
    optim: Annotated[Any, Shelf("optimizers", default="adamw")] = "adamw"

    @model_validator(mode="after")
    def _together(self):
        if self.seed > self.train.epochs:
            raise conflict([(("seed", "train.epochs"), "is more than train.epochs")])
        return self


def mistakes_of(text, *overrides):
    with pytest.raises(ConfigError) as caught:
        validate(Recipe, parse(text, name="r.yaml"), overrides)
    return caught.value.mistakes


def test_a_right_document_is_taken():
    recipe = validate(Recipe, parse("root: x\ntrain: {epochs: 5}\n", name="r.yaml"), ["seed=4", "optim=sgd"])
    assert (recipe.train.epochs, recipe.seed, recipe.optim.kind) == (5, 4, "sgd")


@pytest.mark.parametrize(
    "line, message",
    [
        ("sede: 1", "r.yaml:2: unknown key 'sede': did you mean 'seed'?"),
        ("epochs: 1", "r.yaml:2: unknown key 'epochs': did you mean 'train.epochs'?"),
        ("lr: 1", "r.yaml:2: unknown key 'lr': did you mean 'optim.lr'?"),
        ("zzz: 1", "r.yaml:2: unknown key 'zzz': known here: root, seed, train, optim"),
        ("train: {epoch: 1}", "r.yaml:2: unknown key 'train.epoch': did you mean 'train.epochs'?"),
        (
            "optim: {kind: adamw, momentum: 0.9}",
            "r.yaml:2: unknown key 'optim.momentum': it belongs to kind 'lars' and kind 'rmsprop' and kind 'sgd'",
        ),
        (
            "optim: {kind: rmsprob}",
            "r.yaml:2: optim: unknown kind in optimizers 'rmsprob': did you mean 'rmsprop'?",
        ),
        ("seed: one", "r.yaml:2: seed is 'one', but must be a whole number"),
        ("seed: 1.5", "r.yaml:2: seed is 1.5, but must be a whole number"),
        ("seed: true", "r.yaml:2: seed is true, but must be a whole number"),
        ("seed:", "r.yaml:2: seed is null, but must be a whole number"),
        ("train: {epochs: 0}", "r.yaml:2: train.epochs is 0, but must be at least 1"),
        ("train: {share: 1}", "r.yaml:2: train.share is 1, but must be less than 1"),
        ("train: {share: fast}", "r.yaml:2: train.share is 'fast', but must be a number"),
        (
            "train: {quality: hihg}",
            "r.yaml:2: train.quality is 'hihg', but must be 'high' or 'low'. Did you mean 'high'?",
        ),
        ("train: {layout: no}", "r.yaml:2: train.layout is 'no', but must be 'auto' or true or false. Write false."),
        ("train: 7", "r.yaml:2: train is 7, but must be a group of settings (key: value)"),
        ("train: {pair: 7}", "r.yaml:2: train.pair is 7, but must be a list"),
        ("train: {pair: [1, a]}", "r.yaml:2: train.pair.1 is 'a', but must be a number"),
        ("train: {pair: [2, 1]}", "r.yaml:2: train.pair: the smaller number comes first"),
        ("seed: 9", "r.yaml:2: seed: is more than train.epochs"),
        ("optim: {lr: -1}", "r.yaml:2: optim.lr is -1, but must be greater than 0"),
    ],
)
def test_one_mistake_is_one_sentence(line, message):
    assert mistakes_of(f"root: x\n{line}\n") == [message]


def test_a_missing_key_says_what_it_is():
    assert mistakes_of("seed: 1") == ["r.yaml:1: root is missing. Where the images are."]


def test_all_mistakes_come_at_once_in_the_order_of_the_lines():
    text = "sede: 1\ntrain: {epochs: x, pair: [2, 1]}\noptim: {kind: sgd, lr: a, nesterof: true}\nseed: 9\n"
    found = mistakes_of(text, "~foo", "train.quality=7")
    assert [mistake.partition(" ")[0] for mistake in found] == [
        "command", "r.yaml:1:", "r.yaml:1:", "r.yaml:2:", "r.yaml:2:", "r.yaml:3:", "r.yaml:3:", "command",
    ]  # fmt: skip
    assert "did you mean 'optim.nesterov'" in found[6]


def test_a_conflict_with_something_wrong_is_not_told():
    assert len(mistakes_of("root: x\nseed: 9\ntrain: {epochs: x}\n")) == 1


def test_overrides_are_named_as_the_place():
    assert mistakes_of("root: x\nseed: 1\n", "seed=x") == ["command line: seed is 'x', but must be a whole number"]


def test_a_secret_is_refused_and_not_repeated():
    class Tracker(Settings):
        api_key: str | None = None
        token: bool = False

    class WithTracker(Settings):
        tracker: Tracker = Tracker()

    assert validate(WithTracker, parse("tracker: {token: true}", name="r.yaml")).tracker.token
    for text, overrides, place in (
        ("tracker:\n  api_key: hunter2", [], "r.yaml:2"),
        ("tracker: {}", ["tracker.api_key=hunter2"], "command line"),
    ):
        with pytest.raises(ConfigError) as caught:
            validate(WithTracker, parse(text, name="r.yaml"), overrides)
        (mistake,) = caught.value.mistakes
        assert mistake.startswith(f"{place}: tracker.api_key is a secret") and "hunter2" not in mistake


def test_long_values_are_cut():
    assert len(mistakes_of(f"root: x\nseed: {'y' * 1000}\n")[0]) < 120


@pytest.mark.parametrize("root", ["{}", "[]", "1", "true"])
def test_values_of_any_shape_are_named(root):
    assert mistakes_of(f"root: {root}\n")[0].endswith("but must be text")
