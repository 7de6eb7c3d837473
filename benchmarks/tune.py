"""A search beside the same one written directly with Optuna, and with Ray Tune; and what a search itself costs.

    python benchmarks/tune.py [--trials 6] [--epochs 4] [--images 3000] [--ray]

The peers are what one would write: an objective that starts `instar train` as a process of its own and reads its score;
they stop nothing early, so neither do we. Trials are random, so that all search the same kind of points.
Goals: at most 1.05 of Optuna's and Ray Tune's wall time; `settings` at 1,000 trials in 50 ms; 2 s between two trials
beyond the run's own start.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from _side_by_side import Case, report, rounds

RECIPE = """\
seed: 3
data: {{root: "{root}", split: {{test: 0.1, val: 0.2}}}}
model: {{kind: resnet9, width: 8}}
augment: {{kind: standard, size: 16}}
optim: {{kind: adamw, lr: 0.003}}
train: {{epochs: {epochs}, batch: 32}}
"""
PEER = """\
import json, subprocess, sys, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
def objective(trial):
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    words = ["train", "recipe.yaml", f"optim.lr={lr}", f"run={sys.argv[1]}/{trial.number}"]
    words += ["score=false", "workers=0", "device=cpu", "--json"]
    done = subprocess.run([sys.executable, "-m", "instar", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["best"]["value"]
storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(sys.argv[1] + ".log"))
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1), storage=storage)
study.optimize(objective, n_trials=int(sys.argv[2]))
"""
RAY = """\
import json, os, subprocess, sys
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch
here = os.getcwd()
def objective(config):
    run = f"{sys.argv[1]}/{tune.get_context().get_trial_id()}"
    words = ["train", "recipe.yaml", f"optim.lr={config['lr']}", f"run={run}", "score=false", "workers=0", "device=cpu"]
    command = [sys.executable, "-m", "instar", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=here)
    tune.report({"accuracy": json.loads(done.stdout)["best"]["value"]})
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
search = OptunaSearch(metric="accuracy", mode="max", space={"lr": tune.loguniform(1e-4, 1e-1)})
how = tune.TuneConfig(metric="accuracy", mode="max", num_samples=int(sys.argv[2]), search_alg=search)
where = tune.RunConfig(storage_path=os.path.abspath(sys.argv[1]), verbose=0)
tune.Tuner(objective, tune_config=how, run_config=where).fit()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="measure Ray Tune, too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        images(home / "images", asked.images)
        (home / "recipe.yaml").write_text(RECIPE.format(root=home / "images", epochs=asked.epochs))
        (home / "peer.py").write_text(PEER)
        (home / "ray_peer.py").write_text(RAY)
        number = iter(range(10_000))
        python, trials = sys.executable, str(asked.trials)
        cases: dict[str, Case] = {
            "optuna, by hand": lambda: ran(home, [python, "peer.py", f"by-hand-{next(number)}", trials]),
            "instar tune": lambda: ran(home, ours(asked.trials, f"ours-{next(number)}")),
        }
        if asked.ray:
            cases["ray tune, by hand"] = lambda: ran(home, [python, "ray_peer.py", f"ray-{next(number)}", trials])
        results = rounds(cases, rounds=asked.rounds, warm=0)
        report("search", results, "optuna, by hand", {"instar tune": 1.05})
        if asked.ray:
            report("search beside Ray Tune", results, "ray tune, by hand", {"instar tune": 1.05})
        gaps = between(max(home.glob("runs/ours-*"), key=lambda study: study.stat().st_mtime))
    facts = {
        "benchmark": "search costs",
        "between two trials, s": round(statistics.median(gaps), 3),
        "from one's end to the next one's first save, s": round(statistics.median(starts_of(gaps)), 3),
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


def images(root: Path, number: int) -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.fakes.images import folder_of_images

    folder_of_images(root, classes=3, each=number // 3, size=16)


def between(study: Path) -> list[float]:
    """Seconds from the end of a trial's training to the beginning of the next one's process."""
    lines = [json.loads(line) for line in (study / "events.jsonl").read_text().splitlines()]
    began = {line["trial"]: line["time"] for line in lines if line["event"] == "trial_began"}
    _FIRST.clear()
    gaps = []
    for trial in sorted(began)[1:]:
        before, after = (run_events(study, number) for number in (trial - 1, trial))
        gaps.append(began[trial] - before["finished"])
        _FIRST.append(after["started"] - before["finished"])
    return gaps


_FIRST: list[float] = []


def starts_of(gaps: list[float]) -> list[float]:
    """Seconds from the end of a training to the moment in which the next one stands, for each of these gaps."""
    return _FIRST[: len(gaps)]


def run_events(study: Path, trial: int) -> dict[str, float]:
    lines = (study / "trials" / f"{trial:04}" / "events.jsonl").read_text().splitlines()
    return {line["event"]: line["time"] for line in map(json.loads, lines)}


def suggestions() -> list[float]:
    """Seconds of processor time to choose the settings of a trial after a thousand others, of four settings."""
    import optuna

    from instar import space, tune
    from instar.study import Search
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
        from instar.tune.searcher import _distribution

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
                    distributions={one.name: _distribution(one) for one in definition.space.dimensions},
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
