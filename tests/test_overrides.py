import pytest

from instar.documents import parse
from instar.errors import ConfigError
from instar.overrides import attempt, override

RECIPE = parse("optim: {kind: adamw, lr: 0.1}\nmodel: timm\ntrain:\n  epochs: 3\n", name="recipe.yaml")


def refused(*changes):
    with pytest.raises(ConfigError) as caught:
        override(RECIPE, changes)
    return caught.value.mistakes


def test_a_value_is_set_added_and_taken_away():
    changed = override(RECIPE, ["optim.lr=1e-3", "+optim.clip=1.0", "~train.epochs", "train.batch=64"])
    assert changed["optim"] == {"kind": "adamw", "lr": 1e-3, "clip": 1.0}
    assert changed["train"] == {"batch": 64}


def test_the_document_itself_stays_as_it_was():
    override(RECIPE, ["optim.lr=7", "~train"])
    assert RECIPE["optim"]["lr"] == 0.1 and RECIPE["train"] == {"epochs": 3}


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 1e-3),
        ("true", True),
        ("no", "no"),
        ("", None),
        ("null", None),
        ("5 %", "5 %"),
        ("/data/my images # 2", "/data/my images # 2"),
        ("/data/a: b", "/data/a: b"),
        ("a=b", "a=b"),
        ("[layer4, head]", ["layer4", "head"]),
        ("{kind: sgd, lr: .1}", {"kind": "sgd", "lr": 0.1}),
        ("'7'", "7"),
    ],
)
def test_values(text, value):
    assert override({}, [f"x={text}"])["x"] == value


def test_a_bare_kind_becomes_a_group_when_something_in_it_is_set():
    assert override(RECIPE, ["model.dropout=0.5"])["model"] == {"kind": "timm", "dropout": 0.5}


def test_later_changes_win():
    assert override({}, ["optim=sgd", "optim.lr=1", "optim.lr=2"])["optim"] == {"kind": "sgd", "lr": 2}


def test_places_tell_the_command_line_from_the_file():
    changed = override(RECIPE, ["optim.lr=2"])
    assert changed.place(("optim", "lr")) == "command line"
    assert changed.place(("optim", "kind")) == "recipe.yaml:1"


def test_every_mistake_is_told_at_once():
    found = refused("~optim.lrr", "+optim.lr=2", "lr", "a b=1", "x=[1", "=3", "data.root=\udcff")
    assert len(found) == 7
    assert (
        found[0]
        == "command line: '~optim.lrr': there is no such key to take away: unknown key 'lrr': did you mean 'lr'?"
    )
    assert "is there already: write optim.lr=2" in found[1]
    assert "has no value: write lr=VALUE" in found[2]
    assert "is not a key" in found[3] and "is not a key" in found[5]
    assert "not YAML" in found[4]
    assert "is not UTF-8" in found[6]


def test_what_can_be_changed_is_changed_even_so():
    changed, mistakes = attempt(RECIPE, ["optim.lr=2", "~nothing"])
    assert changed["optim"]["lr"] == 2 and len(mistakes) == 1


def test_nothing_is_executed():
    assert "is refused" in refused("x=[!!python/object/apply:os.system ['touch canary']]")[0]
