"""What the command line does, from Python and notebooks: five functions.

    from instar.api import train, evaluate, predict, compare, submit

    run = train("flowers", "epochs=3")["run"]
    evaluate(run, "split=val")["scores"]

Each takes the words of the command of its name and returns what `--json` prints, as plain values; so what holds there
holds here, and `instar VERB --help` is the manual of both. A mistake raises the InstarError whose text the command line
would print, and a training that was told to stop raises Again: the same call carries on.
"""

import io
import json
from contextlib import redirect_stdout
from os import PathLike, fspath
from typing import Any

Word = str | PathLike[str]

__all__ = ["compare", "evaluate", "predict", "submit", "train"]


def train(what: Word, *changes: str) -> dict[str, Any]:
    """Learn from a folder, a recipe or a manifest, or carry on with a run.

    Returns state, run (its folder), best, split and scores.
    """
    return _done("train", what, *changes)


def evaluate(run: Word, *changes: str) -> dict[str, Any]:
    """Score a run on rows it has not learnt from; returns run, split and scores."""
    return _done("evaluate", run, *changes)


def predict(run: Word, *images_and_changes: Word) -> Any:
    """What a run says about images, files or folders of them."""
    return _done("predict", run, *images_and_changes)


def compare(*runs_and_changes: Word) -> dict[str, Any]:
    """Runs side by side, best first; runs that differ in their seed only as trials, with the mean and its interval."""
    return _done("compare", *runs_and_changes)


def submit(verb: str, *words: Word, on: str) -> dict[str, Any]:
    """Hand any command to a scheduler: `submit("train", "recipe.yaml", "nodes=2", on="lumi")`.

    Returns the numbers of its jobs, the folder of the job, and the run.
    """
    return _done("submit", verb, *words, f"on={on}")


def _done(verb: str, *words: Word) -> Any:
    """What a command prints as JSON; raises what it would report."""
    from importlib import import_module

    from instar.cli import COMMON_FLAGS
    from instar.cli.words import parse
    from instar.engine import deadline

    module = import_module(f"instar.cli.{verb}")
    line = [*(fspath(word) for word in words), "--json"]
    told = io.StringIO()
    try:
        with redirect_stdout(told):
            module.run(parse(verb, line, flags=(*COMMON_FLAGS, *module.FLAGS), things=module.THINGS))
    finally:
        deadline.restore()  # a notebook has signals of its own
    lines = [json.loads(one) for one in told.getvalue().splitlines() if one.strip()[:1] in ("{", "[")]
    return lines[-1] if lines else None
