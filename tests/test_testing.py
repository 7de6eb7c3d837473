"""The contract tests that outsiders run: they pass what keeps the contract, and name what does not."""

import sys
import textwrap

import pytest

from instar import plugins, testing
from instar.engine.checkpoint import store as checkpoint
from instar.plugins import SHELVES
from tests.fakes.images import folder_of_images
from tests.test_docs import ROOT, blocks


@pytest.fixture
def mylab(tmp_path, monkeypatch):
    """The plug-ins of the how-to, as a user would lay them down, and a way to break them."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def laid(**changes):
        names = (("models", "two_layers"), ("readers", "squares"), ("tasks", "margin"))
        code = blocks(ROOT / "docs" / "how-to" / "add-a-plug-in.md", "python")
        for (shelf, name), text in zip(names, code, strict=False):
            file = tmp_path / "mylab" / shelf / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            old, new = changes.get(name, ("", ""))
            assert old in text
            file.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")

    yield laid
    for name in [name for name in sys.modules if name.startswith("mylab")]:
        del sys.modules[name]


def test_the_plugins_of_the_how_to_keep_their_contracts(mylab, tmp_path):
    mylab()
    testing.check_model({"kind": "mylab.models.two_layers", "width": 4})
    testing.check_reader("mylab.readers.squares", root=folder_of_images(tmp_path / "images"))
    testing.check_kind("tasks", "mylab.tasks.margin")


@pytest.mark.scenario  # a process a plug-in
@pytest.mark.parametrize("shelf", [shelf for shelf in SHELVES if shelf not in ("clusters", "explainers", "exporters")])
def test_every_plugin_on_our_shelves_is_found_described_and_light(shelf):
    """Those that a recipe sets."""
    for kind in plugins.kinds(shelf):
        testing.check_kind(shelf, kind)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('    """Channels of the first layer."""\n', "", "every setting .* width has none"),
        ("nn.Linear(2 * settings.width, classes)", "nn.Linear(2 * settings.width, 2)", r"a logit a class: \(2, 5\)"),
        ("from typing import Literal", "import numpy\nfrom typing import Literal", "loads numpy"),
        ('Literal["mylab.models.two_layers"]', 'Literal["mylab.models.other"] = "x"', "not 'mylab.models.other'|other"),
        ("num_features=2 * settings.width", "num_features=3", "gives features"),
        ('"""Two convolutions: a model to measure others against."""', "", "its page in the manual"),
    ],
)
def test_a_model_that_breaks_a_promise_is_named_with_it(mylab, old, new, says):
    mylab(two_layers=(old, new))
    with pytest.raises(Exception, match=says):
        testing.check_model({"kind": "mylab.models.two_layers"})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"label": label}', '"label": label + 1}', "labels are those"),
        (
            "self._shape, dtype=np.uint8)",
            "self._shape, dtype=np.uint8) + np.random.randint(250, size=self._shape, dtype=np.uint8)",
            "same for the same row",
        ),
        ("return self._manifest.ids[row]", 'return "x"', "which sample it is"),
        ('"image": image_HWC', '"picture": image_HWC', "a sample holds"),
    ],
)
def test_a_reader_that_breaks_a_promise_is_named_with_it(mylab, tmp_path, old, new, says):
    mylab(squares=(old, new))
    with pytest.raises(AssertionError, match=says):
        testing.check_reader("mylab.readers.squares", root=folder_of_images(tmp_path / "images"))


@pytest.mark.scenario  # five trainings in processes of their own
def test_a_training_that_forgets_something_when_killed_is_found(mylab, tmp_path):
    mylab()
    recipe = {
        "data": {"root": str(folder_of_images(tmp_path / "images", classes=2)), "reader": "mylab.readers.squares"},
        "model": "mylab.models.two_layers",
        "task": {"kind": "mylab.tasks.margin"},
        "augment": {"kind": "none", "size": 16},
        "train": {"epochs": 2, "batch": 8},
    }
    (tmp_path / "a").mkdir()
    run = testing.check_training(recipe, tmp_path / "a")
    assert checkpoint.load(run.checkpoints).samples > 0
    forgets = (
        textwrap.dedent("""
        import os
        logits_BK = self._logits(batch) * (1 + os.getpid() % 97 / 97)
    """)
        .strip()
        .replace("\n", "\n        ")
    )
    mylab(margin=("logits_BK = self._logits(batch)\n", f"{forgets}\n"))
    (tmp_path / "b").mkdir()
    with pytest.raises(AssertionError, match="ends with the weights of a training that nobody disturbed"):
        testing.check_training(recipe, tmp_path / "b")
