import pytest

from instar import space
from instar.errors import ConfigError
from instar.experiment import load

RECIPE = {"data": {"root": "/images"}}


def refused(texts):
    with pytest.raises(ConfigError) as caught:
        space.of(texts)
    return caught.value.mistakes


def test_every_kind_of_range_is_read_with_its_bounds():
    found = space.of(
        {
            "a": "uniform(0, 1)",
            "b": "loguniform(1e-6, 1e-2)",
            "c": "quniform(0, 10, 2.5)",
            "d": "qloguniform(1, 100, 1)",
            "e": "int(8, 64, 8)",
            "f": "logint(1, 1024)",
            "g": "normal(0, 2)",
            "h": "choice(weights, true, 1, 0.5, null, 'a, b', [1, 2], {kind: sgd, lr: 0.1})",
        }
    )
    assert [(one.low, one.high, one.step) for one in found.dimensions[:7]] == [
        (0, 1, None), (1e-6, 1e-2, None), (0, 10, 2.5), (1, 100, 1), (8, 64, 8), (1, 1024, None), (-6, 6, None),
    ]  # fmt: skip
    assert found.dimensions[7].choices == ("weights", True, 1, 0.5, None, "a, b", [1, 2], {"kind": "sgd", "lr": 0.1})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lgouniform(1, 2)", "unknown kind of range 'lgouniform': did you mean 'loguniform'?"),
        ("uniform(2, 1)", "low must be less than high, but 2 >= 1"),
        ("loguniform(0, 1)", "loguniform takes bounds greater than 0, not 0"),
        ("int(1.5, 4)", "int takes whole numbers"),
        ("uniform(1)", "write uniform(low, high), in numbers"),
        ("quniform(0, 1, 2)", "the step 2 must be greater than 0 and at most high - low"),
        ("normal(0, 0)", "the deviation 0 must be greater than 0"),
        ("choice()", "choice() has nothing to choose from"),
        ("choice(a, b, a)", "'a' is there twice"),
        ("0.1", "'0.1' is no range or choice: write for example loguniform(1e-5, 1e-2) or choice(a, b)"),
        ("uniform(0, [)", "(0, [) cannot be read"),
    ],
)
def test_a_range_that_cannot_be_says_why(text, told):
    (mistake,) = refused({"optim.lr": text})
    assert mistake.startswith(f"command line: optim.lr: {told}")


def test_what_depends_on_a_choice_is_drawn_only_there_and_after_it():
    found = space.of(
        {"optim.momentum": "uniform(0.5, 0.9) if optim.kind=sgd|rmsprop", "optim.kind": "choice(adam,sgd,rmsprop)"}
    )
    assert found.names == ("optim.kind", "optim.momentum")
    momentum = found.dimensions[1]
    assert momentum.is_drawn({"optim.kind": "sgd"}) and not momentum.is_drawn({"optim.kind": "adam"})


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ({"a": "uniform(0,1) if b=x"}, "depends on b, which is not varied"),
        ({"a": "uniform(0,1) if b=1", "b": "uniform(0,1)"}, "depends on b, which is no choice"),
        ({"a": "uniform(0,1) if b=sdg", "b": "choice(sgd, adam)"}, "did you mean 'sgd'?"),
        ({"a": "choice(1,2) if b=1", "b": "choice(1,2) if a=1"}, "depends on itself"),
        ({"a": "uniform(0,1) if b"}, "cannot read the condition 'b'"),
    ],
)
def test_a_condition_that_cannot_be_says_why(texts, told):
    assert any(told in mistake for mistake in refused(texts))


def test_a_grid_has_every_combination_once_and_no_branch_twice():
    found = space.of({"k": "choice(a, b)", "m": "choice(1, 2) if k=b", "s": "choice(0, 1)"})
    points = list(found.grid())
    assert points[:2] == [{"k": "a", "s": 0}, {"k": "a", "s": 1}]
    assert found.points == len(points) == 2 + 4 and space.of({"k": "uniform(0, 1)"}).points is None


def test_every_mistake_of_a_space_is_told_at_once_against_the_recipe():
    found = space.of(
        {
            "optim.kind": "choice(sgd, adamvv)",
            "optim.momentun": "uniform(0.5, 0.9) if optim.kind=sgd",
            "optim.lr": "uniform(-1, 1)",
            "task.balance": "choice(weights, ovrsample)",
        }
    )
    with pytest.raises(ConfigError) as caught:
        space.check(found, lambda changes: load(RECIPE, changes))
    told = "\n".join(caught.value.mistakes)
    assert "did you mean 'adamw'" in told or "unknown kind in optimizers 'adamvv'" in told
    assert "did you mean 'optim.momentum'? (in uniform(0.5, 0.9) if optim.kind=sgd)" in told
    assert "optim.lr is -1.0, but must be greater than 0 (in uniform(-1, 1))" in told
    assert "task.balance is 'ovrsample'" in told and len(caught.value.mistakes) == 4


def test_the_upper_end_of_a_range_is_held_against_the_recipe_too():
    with pytest.raises(ConfigError, match=r"task.label_smoothing is 2.0"):
        space.check(space.of({"task.label_smoothing": "uniform(0, 2)"}), lambda changes: load(RECIPE, changes))


def test_values_reach_the_recipe_as_they_are():
    values = {"optim.lr": 1e-6, "optim": {"kind": "sgd"}, "name": 'it\'s $(x) "quoted"'}
    experiment = load(RECIPE, space.changes(values))
    assert (experiment.optim.kind, experiment.optim.lr, experiment.name) == ("sgd", 1e-6, values["name"])
    assert space.changes(values)[0].startswith("optim=")


def test_a_space_file_may_be_nested_dotted_and_say_how_to_search(tmp_path):
    file = tmp_path / "it's a space.yaml"
    file.write_text("samples: 4\nspace:\n  optim:\n    lr: loguniform(1e-5, 1)\n  task.balance: [none, weights]\n")
    texts, place, rest = space.load(str(file))
    found = space.of(texts, place)
    assert found.names == ("optim.lr", "task.balance") and found.dimensions[1].choices == ("none", "weights")
    assert found.dimensions[0].place == f"{file}:4" and dict(rest) == {"samples": 4}


def test_a_plain_value_is_no_range():
    assert space.is_drawn("optim.lr=uniform(0,1)") and space.is_drawn("optim.lr=lgouniform(0,1)")
    assert not space.is_drawn("optim.lr=0.1") and not space.is_drawn("name='choice(a)'")
