"""Python does what the command line does, raises instead of exiting, and shows itself."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from instar import api
from instar.errors import ConfigError, RunError
from instar.run import everything
from instar.settings import dump
from tests.fakes.images import folder_of_images
from tests.fakes.training import recipe

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with two runs of one recipe, made from Python."""
    folder = tmp_path_factory.mktemp("api") / "it's <b>here"
    folder.mkdir()
    root = folder_of_images(folder / "images")
    (folder / "r.yaml").write_text(dump(recipe(root)), encoding="utf-8")
    given = {"runs": folder / "runs", "device": "cpu", "devices": 1, "workers": 0, "quiet": True}
    first = api.train(folder / "r.yaml", run="first", epochs=2, **given)
    second = api.train(folder / "r.yaml", run="second", epochs=2, optim__lr=0.02, **given)
    return folder, first, second


def test_a_training_gives_its_run_and_scores_and_the_same_call_again_has_nothing_left(two):
    _, first, _ = two
    assert (first.run.name, first.state, first.split) == ("first", "finished", "test")
    assert 0 <= first.scores["accuracy"] <= 1 and first.best["metric"] == "accuracy"
    again = api.train(first, device="cpu", devices=1, quiet=True)
    assert again.state == "already" and again.scores == first.scores
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL  # signals mean what they meant before


def test_it_says_what_the_command_line_says(two):
    _, first, second = two
    line = [sys.executable, "-m", "instar", "compare", str(first.run.path), str(second.run.path), "--json"]
    shell = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
    table = api.compare(first, second)
    assert __import__("json").loads(shell.stdout)["runs"] == list(table)
    assert ["optim.lr" in " ".join(row["differences"]) for row in table] == [False, True]


def test_runs_and_results_show_themselves_with_nothing_taken_for_markup(two):
    folder, first, _ = two
    table = api.runs(folder / "runs")
    assert [row["name"] for row in table] == [run.name for run in everything(folder / "runs")]
    assert "<th>state</th>" in table._repr_html_() and "first" in repr(table)
    shown = first._repr_html_()
    assert "run page</a>" in shown and "<b>here" not in shown and "&lt;b&gt;here" in shown
    assert repr(first).startswith("first: finished; test accuracy ")
    assert api.runs(folder / "nothing")._repr_html_() == "<p>no runs</p>"


def test_an_evaluation_of_other_rows_and_any_other_command(two):
    folder, first, _ = two
    scored = api.evaluate(first, split="val", device="cpu")
    assert (scored.split, scored.scores["rows"]) == ("val", 11)
    told = api.command("predict", first, folder / "images", runs=folder / "runs")
    assert len(told["rows"]) == 60
    assert api.command("track", first, to="csv")["tracker"] == "csv"
    assert set(api.command("show")) == {"groups", "kinds"}


def test_mistakes_are_raised_all_at_once_and_nothing_exits(two, tmp_path):
    folder, _, _ = two
    with pytest.raises(ConfigError) as caught:
        api.train(folder / "r.yaml", epocs=3, optim__lrr=1)
    assert len(caught.value.mistakes) == 2 and "train.epochs" in str(caught.value)
    with pytest.raises(RunError, match="there is no run called 'nothing'"):
        api.evaluate("nothing", runs=tmp_path)
    with pytest.raises(ConfigError, match=r"instar watch|no verb 'wach'"):
        api.command("wach")


def test_importing_it_is_light():
    code = (
        "import sys, instar.api; print([name for name in ('torch', 'numpy', 'pyarrow', 'PIL') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        == "[]\n"
    )
