"""Show a run that is there in a tracker: TensorBoard, MLflow, Weights & Biases, a table

    instar track RUN to=tensorboard
    instar track RUN to=mlflow server=https://mlflow.example.org experiment=moths
    instar track RUN to=wandb project=moths

    key=value      any setting of the tracker: instar show track.mlflow
    runs=FOLDER    where runs are, instead of runs/
    --json         what to type next, as JSON

Told again, it goes on where it was: one curve a run, whatever happened to it. A training that is to be tracked while it
runs has `track: [mlflow]` in its recipe.
"""

import json
from pathlib import Path

from instar import caches, plugins, terminal
from instar.cli.words import Words, to_type
from instar.errors import DONE, ConfigError, RunError

FLAGS = ()
THINGS = (1, 1)
OURS = ("to", "runs")


def run(words: Words) -> int:
    from instar import run as runs
    from instar.validation import validate

    caches.refuse_network()
    given = dict(change.partition("=")[::2] for change in words.changes if change.partition("=")[0] in OURS)
    rest = [change for change in words.changes if change.partition("=")[0] not in OURS]
    kind = given.get("to")
    if not kind:
        raise ConfigError(f"say where to: to={'|'.join(plugins.kinds('trackers'))}")
    settings = validate(plugins.load("trackers", kind).Settings, {"kind": kind}, rest)
    found = runs.find(words.things[0], Path(given.get("runs", "runs")))
    if not found.metrics_file.exists():
        raise RunError(f"{found.path} has measured nothing yet. Train first, with: instar train {to_type(found.path)}")

    from instar.engine.tracking import followers

    followers.check([settings])
    mirrors = followers.Followers([settings])
    mirrors.begin(found)
    (word,) = mirrors.end(None)
    if word.problem:
        raise RunError(f"{kind} was not told everything: {word.problem}. The same command goes on from there.")
    if "json" in words:
        terminal.say(json.dumps({"run": str(found.path), "tracker": kind, "next": word.next}))
    elif "quiet" not in words:
        look = found.trackers / kind
        terminal.say(f"look     {look}" if kind in ("csv", "tensorboard") else f"track    {kind}")
        terminal.say(f"next     {word.next or 'instar runs'}")
    return DONE
