"""A search beside the same one written directly with Optuna, and with Ray Tune; and what a search itself costs.

    python benchmarks/tune.py [--trials 8] [--epochs 6] [--images 1500] [--rounds 1] [--ray]

The peers are as quick as one can write them: an objective that trains the same recipe through `instar.api` in the
process that searches (Ray Tune: in one worker that all trials share), so nothing is imported twice; at the end they
score the best one's test rows, as we do. Trials are random and none is stopped early, so that all do the same work. The
page of the study is ours alone, and in our time. Beside the clock of the wall stands the processor time of everything a
case started, which other work on the machine disturbs less; Ray's workers cannot be counted so.
Goals: at most 1.05 of Optuna's and Ray Tune's time; `settings` at 1,000 trials in 50 ms; 2 s between two trials beyond
the run's own start.
"""

import argparse
import contextlib
import ctypes
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from _side_by_side import Case, report, rounds

_SET_CHILD_SUBREAPER = 36
RECIPE = """\
seed: 3
data: {{root: "{root}", split: {{test: 0.1, val: 0.2}}}}
model: {{kind: resnet9, width: 8}}
augment: {{kind: standard, size: 16}}
optim: {{kind: adamw, lr: 0.003}}
train: {{epochs: {epochs}, batch: 32}}
"""
PEER = """\
import sys, optuna
from instar import api
optuna.logging.set_verbosity(optuna.logging.ERROR)
def objective(trial):
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    run = f"{sys.argv[1]}/{trial.number}"
    done = api.train("recipe.yaml", quiet=True, run=run, optim__lr=lr, score=False, workers=0, device="cpu")
    return done.best["value"]
storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(sys.argv[1] + ".log"))
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1), storage=storage)
study.optimize(objective, n_trials=int(sys.argv[2]))
api.evaluate(f"{sys.argv[1]}/{study.best_trial.number}", workers=0, device="cpu")
"""
RAY = """\
import os, sys
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch
here = os.getcwd()
def objective(config):
    from instar import api
    run = f"{here}/{sys.argv[1]}-{tune.get_context().get_trial_id()}"
    words = {"run": run, "optim__lr": config["lr"], "score": False, "workers": 0, "device": "cpu"}
    done = api.train(f"{here}/recipe.yaml", quiet=True, **words)
    tune.report({"accuracy": done.best["value"], "run": run})
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
search = OptunaSearch(metric="accuracy", mode="max", space={"lr": tune.loguniform(1e-4, 1e-1)})
how = tune.TuneConfig(metric="accuracy", mode="max", num_samples=int(sys.argv[2]), search_alg=search, reuse_actors=True)
where = tune.RunConfig(storage_path=os.path.abspath(sys.argv[1]), verbose=0)
found = tune.Tuner(objective, tune_config=how, run_config=where).fit()
assert found.num_errors == 0, found.errors
from instar import api
api.evaluate(found.get_best_result("accuracy", "max").metrics["run"], workers=0, device="cpu")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="measure Ray Tune, too")
    asked = parser.parse_args()
    _adopt()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        images(home / "images", asked.images)
        (home / "recipe.yaml").write_text(RECIPE.format(root=home / "images", epochs=asked.epochs))
        (home / "peer.py").write_text(PEER)
        (home / "ray_peer.py").write_text(RAY)
        python, trials = sys.executable, str(asked.trials)
        commands = {
            "optuna, by hand": lambda name: [python, "peer.py", name, trials],
            "instar tune": lambda name: ours(asked.trials, name),
        }
        if asked.ray:
            commands["ray tune, by hand"] = lambda name: [python, "ray_peer.py", name, trials]
        processor: dict[str, list[float]] = {name: [] for name in commands}
        number = iter(range(10_000))

        def case(name: str) -> Case:
            def once() -> None:
                before = _processor()
                ran(home, commands[name](f"{name.partition(' ')[0].strip(',')}-{next(number)}"))
                processor[name].append(_processor() - before)

            return once

        results = rounds({name: case(name) for name in commands}, rounds=asked.rounds, warm=0)
        processor.pop("ray tune, by hand", None)
        report("search: processor time", processor, "optuna, by hand", {"instar tune": 1.05})
        for base in (name for name in commands if name != "instar tune"):
            report(f"search beside {base}: wall time", results, base, {"instar tune": 1.05})
        found = passages(max(home.glob("runs/instar-*"), key=lambda study: study.stat().st_mtime))
    facts = {
        "benchmark": "search costs",
        "from the end of a training to the end of its process, s": round(statistics.median(found.leaving), 3),
        "between two trials, s": round(statistics.median(found.between), 3),
        "from a trial's process to its training's first line, s": round(statistics.median(found.starting), 3),
        "settings at 1000 trials, ms of processor time": round(1e3 * statistics.median(suggestions()), 1),
    }
    print(json.dumps(facts))


def ours(trials: int, name: str) -> list[str]:
    words = ["recipe.yaml", "optim.lr=loguniform(1e-4,1e-1)", "sampler=random", "pruner=none", f"samples={trials}"]
    return [sys.executable, "-m", "instar", "tune", *words, f"study={name}", "parallel=1", "workers=0", "device=cpu"]


def ran(home: Path, command: list[str]) -> None:
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def _processor() -> float:
    """Seconds of processor time of everything that was started from here, when all of it has ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _adopt() -> None:
    """What is left behind by those that we start becomes a child of ours: Linux counts the time of such only."""
    ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def images(root: Path, number: int) -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.fakes.images import folder_of_images

    folder_of_images(root, classes=3, each=number // 3, size=16)


class Passages(NamedTuple):
    """Seconds from trial to trial.

    leaving    from the last line of a training to its being counted
    between    from that to the beginning of the next one's process: what the search itself takes
    starting   from that to the first line of the next training
    """

    leaving: list[float]
    between: list[float]
    starting: list[float]


def passages(study: Path) -> Passages:
    """What lay between each trial of a study and the next."""
    of_study = events(study)
    began = {line["trial"]: line["time"] for line in of_study if line["event"] == "trial_began"}
    counted = {line["trial"]: line["time"] for line in of_study if line["event"] == "trial_ended"}
    found = Passages([], [], [])
    for trial in sorted(began)[1:]:
        before, after = (
            {line["event"]: line["time"] for line in events(study / "trials" / f"{number:04}")}
            for number in (trial - 1, trial)
        )
        found.leaving.append(counted[trial - 1] - before["finished"])
        found.between.append(began[trial] - counted[trial - 1])
        found.starting.append(after["started"] - began[trial])
    return found


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def suggestions() -> list[float]:
    """Seconds of processor time to choose the settings of a trial after a thousand others, of four settings."""
    import optuna

    from instar import space, tune
    from instar.search import Search
    from instar.tune.searcher import Searcher

    texts = {
        "optim.kind": "choice(sgd, adamw)",
        "optim.lr": "loguniform(1e-5, 1e-1)",
        "optim.weight_decay": "loguniform(1e-6, 1)",
        "train.batch": "int(8, 64)",
    }
    definition = tune.define({"data": {"root": "/images"}}, space.of(texts), Search())
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Searcher(Path(folder) / "journal.log", definition, mode="max", evaluations=9)
        from instar.tune.searcher.terms import distribution_of

        sync, os.fsync = os.fsync, lambda descriptor: None
        for place in range(1000):
            values = {
                "optim.kind": chance.choice(["sgd", "adamw"]),
                "optim.lr": 10 ** chance.uniform(-5, -1),
                "optim.weight_decay": 10 ** chance.uniform(-6, 0),
                "train.batch": chance.randint(8, 64),
            }
            found._study.add_trial(
                optuna.trial.create_trial(
                    value=1 - abs(math.log10(values["optim.lr"]) + 3) / 5,
                    params=values,
                    distributions={one.name: distribution_of(one) for one in definition.space.dimensions},
                    user_attrs={"place": place, "settings": values},
                )
            )
        os.fsync = sync
        taken = []
        for place in range(1000, 1010):
            begun = time.process_time()
            found.settings(place)
            taken.append(time.process_time() - begun)
    return taken


if __name__ == "__main__":
    main()
