"""The page of a study: round numbers on its axes, what was stopped and what was gained, for any metric and any space."""

import math

import pytest

from instar import space as spaces
from instar import study as studies
from instar import tune
from instar.search import Search
from instar.study import Study
from instar.tune import page
from instar.tune.searcher import Searcher

TEXTS = {
    "optim.lr": "loguniform(1e-5, 1e-1)",
    "task.balance": "choice(none, oversample)",
    "optim.kind": "choice(sgd, adamw)",
    "optim.momentum": "uniform(0.5, 0.99) if optim.kind=sgd",
}
HOSTILE = "<script>alert('lr')</script>"


def made(folder, *, trials=12, mode="max", reason=""):
    """A study in a folder: every third trial was stopped early, one failed."""
    document = {"seed": 3, "data": {"root": "/images"}}
    definition = tune.define(document, spaces.of(TEXTS), Search(pruner="none", startup=100))
    study = Study(folder / "it's a study")
    study.path.mkdir()
    studies.write(study, definition)
    searcher = Searcher(study.journal_file, definition, mode=mode, evaluations=4.0)
    for place in range(trials):
        settings = searcher.settings(place)
        value = 1 - abs(math.log10(settings["optim.lr"]) + 3) / 5
        searcher.curve(place, [value / 2, value])
        searcher.note(place, {"seconds": 1800.0, "cores": 2, "gpus": 0, "epoch": 2.0})
        if place == 5:
            searcher.end(place, "failed", reason=reason or "out of memory")
        else:
            searcher.end(place, "finished", value=value)
    return study, definition, searcher


def test_the_page_says_what_was_best_what_mattered_and_what_each_hour_bought(tmp_path):
    study, _, _ = made(tmp_path)
    text = page.write(study).read_text()
    for words in ("Best settings", "What was tried", "What mattered", "How it went", "Every trial", "best.yaml"):
        assert words in text
    assert "11 finished, 0 stopped early, 1 failed" in text and "CPU hours" in text
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text


def test_what_somebody_else_wrote_is_text_on_the_page(tmp_path):
    study, _, _ = made(tmp_path, reason=HOSTILE)
    text = page.write(study).read_text()
    assert HOSTILE not in text and "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("text", "ticks"),
    [
        ("loguniform(1e-4, 3e-2)", [1e-4, 1e-3, 1e-2, 3e-2]),
        ("loguniform(1e-6, 1e-5)", [1e-6, 2e-6, 5e-6, 1e-5]),
        ("uniform(0, 0.3)", [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        ("uniform(0.5, 0.99)", [0.5, 0.6, 0.7, 0.8, 0.9, 0.99]),
        ("int(8, 64)", [8, 20, 30, 40, 50, 64]),
        ("normal(0, 1)", [-3, -2, -1, 0, 1, 2, 3]),
    ],
)
def test_axes_have_both_ends_and_round_numbers_between(text, ticks):
    (one,) = spaces.of({"optim.lr": text}).dimensions
    assert page._ticks(one) == pytest.approx(ticks)


def test_what_was_gained_is_a_stair(tmp_path):
    _, _, searcher = made(tmp_path)
    chart = page._gain(searcher.trials(), "accuracy", "max")
    assert chart is not None
    (line,) = chart.lines
    steps = zip(line.x, line.y, line.x[1:], line.y[1:], strict=False)
    assert all(x == next_x or y == next_y for x, y, next_x, next_y in steps)
    assert line.x[-1] == pytest.approx(12.0) and line.y[-1] == max(one.value or 0.0 for one in searcher.trials())
