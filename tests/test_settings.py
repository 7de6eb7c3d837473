"""Settings and Shelf; validation of whole documents is in test_validation.py."""

from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from instar.errors import ConfigError
from instar.settings import Settings, Shelf, Span, dump, parse, schema


class Inner(Settings):
    """What is inside."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """A share."""


class Outer(Settings):
    """Everything."""

    name: str = "no"
    number: int = 1
    flag: bool = False
    inner: Inner = Inner()
    pair: tuple[float, float] = (0.5, 1.0)
    every: Span = Span(10, "min")
    schedule: Annotated[Any, Shelf("schedules", default="cosine")] = "cosine"
    model: Annotated[Any, Shelf("models", default="timm", names=True)] = "timm"


def test_settings_are_frozen_and_closed():
    with pytest.raises(ValidationError, match="frozen"):
        Outer().number = 2
    with pytest.raises(ValidationError, match="Extra inputs"):
        Outer(numbr=2)


@pytest.mark.parametrize("given", [{"number": "1"}, {"number": True}, {"number": 1.0}, {"flag": 1}, {"flag": "yes"},
                                   {"inner": {"share": "0.5"}}, {"pair": ["0.5", 1]}, {"name": 1}])  # fmt: skip
def test_nothing_is_quietly_turned_into_another_type(given):
    with pytest.raises(ValidationError):
        Outer.model_validate(given)


def test_what_is_saved_is_read_back_equal():
    outer = Outer(
        name="1e-3", pair=(1e-9, 2.0), every="2 h", schedule={"kind": "step", "warmup": "1 epochs"}, model="resnet50"
    )
    again = Outer.model_validate(parse(dump(outer), name="r"))
    assert again == outer
    assert again.schedule.warmup == Span(1, "epochs")


def test_a_kind_can_be_a_word_or_a_group():
    assert Outer(schedule="plateau") == Outer(schedule={"kind": "plateau"})
    assert Outer(schedule={"warmup": "0 %"}).schedule.kind == "cosine"


def test_a_word_that_is_no_kind_names_a_network():
    assert (Outer(model="resnet50").model.kind, Outer(model="resnet50").model.name) == ("timm", "resnet50")
    assert Outer(model={"kind": "resnet50", "dropout": 0.5}).model.name == "resnet50"
    assert Outer(model="torchvision").model.kind == "torchvision"


@pytest.mark.parametrize("given, message", [("cosin", "did you mean 'cosine'"), ({"kind": 3}, "is not a kind"),
                                            (3, "must be a kind"), ("os", "is not|unknown"), ("../os", "is not a kind"),
                                            ("os.path", "has no class Settings"),
                                            ("no.such.module", "cannot be imported")])  # fmt: skip
def test_a_kind_that_is_none_says_so(given, message):
    with pytest.raises(ValidationError, match=message):
        Outer(schedule=given)


def test_a_near_miss_of_a_kind_is_no_network():
    with pytest.raises(ValidationError, match="did you mean 'torchvision'"):
        Outer(model="torchvison")


def test_a_module_of_ones_own_is_a_kind():
    settings = Shelf("models", default="timm").settings("tests.fakes.tiny_cnn")
    assert issubclass(settings, Settings)
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        Shelf("schedules", default="cosine").settings("cosinus")


def test_the_schema_tells_types_defaults_and_meaning():
    made = schema(Outer)
    assert made["properties"]["every"]["default"] == "10 min"
    assert made["additionalProperties"] is False
    assert made["$defs"]["Inner"]["properties"]["share"]["description"] == "A share."
    kinds = [part for part in made["properties"]["schedule"]["anyOf"] if "enum" in part]
    assert "cosine" in kinds[0]["enum"]
