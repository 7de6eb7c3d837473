"""How long one waits for an answer: whole processes, interpreter included, beside importing torch and lightning.

    python benchmarks/startup.py [--rounds 9]

Goals in seconds on a quiet machine, disk cache warm: help 0.15, runs and why 0.3, a thousand runs 0.5, a wrong
recipe 0.3.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _side_by_side import Case, report, rounds

from instar.run import Run

BASE = "python -c pass"
GOALS = {"help": 0.15, "runs": 0.3, "why": 0.3, "runs (1000)": 0.5, "wrong recipe": 0.3}
WRONG = """\
data: {root: ., split: {test: x}}
modle: timm
optim: {lr: fast}
task: clasification
train: {epohcs: 3, batch: 0}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    number = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder, "few"), Path(folder, "many")
        made(few, 10)
        made(many, 1000)
        wrong = Path(folder, "wrong.yaml")
        wrong.write_text(WRONG)
        instar = [sys.executable, "-m", "instar"]
        cases: dict[str, Case] = {
            BASE: process([sys.executable, "-c", "pass"]),
            "help": process([*instar, "--help"]),
            "runs": process([*instar, "runs", str(few)]),
            "why": process([*instar, "why", "run-3", f"runs={few}"]),
            "runs (1000)": process([*instar, "runs", str(many)]),
            "show train": process([*instar, "show", "train"]),
            "schema": process([*instar, "schema"]),
            "wrong recipe": process([*instar, "train", str(wrong)], code=65),
            "import torch": process([sys.executable, "-c", "import torch"]),
        }
        if subprocess.run([sys.executable, "-c", "import lightning"], capture_output=True, check=False).returncode == 0:
            cases["import lightning"] = process([sys.executable, "-c", "import lightning"])
        results = rounds(cases, rounds=number)
    report("startup", results, "import torch", {})
    best = {name: min(results[name]) for name in GOALS}
    print("\nseconds, the best of each (other programs only add), and the goal")
    for name, goal in GOALS.items():
        print(f"  {name:<14} {best[name]:.3f}  {goal:.2f} {'met' if best[name] <= goal else 'MISSED'}")
    print(json.dumps({"benchmark": "startup seconds", "best": best, "goals": GOALS}))


def made(folder: Path, number: int) -> None:
    """Run folders as a training leaves them."""
    for index in range(number):
        run = Run(folder / f"run-{index}")
        run.path.mkdir(parents=True)
        run.experiment_file.write_text("data: {root: .}\n")
        run.plan_file.write_text(json.dumps({"total_samples": 1000, "epoch_samples": 100}))
        run.metrics_file.write_text('{"kind": "val", "samples": 1000, "accuracy": 0.9, "loss": 0.3}\n' * 50)
        run.events_file.write_text('{"time": 1.0, "event": "saved", "rank": 0, "samples": 900}\n' * 50)
        run.log_event("finished", rank=0, samples=1000)


def process(command: list[str], *, code: int = 0) -> Case:
    """A case that runs a command and wants this exit code."""

    def run() -> None:
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != code:
            raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr.decode()}")

    return run


if __name__ == "__main__":
    main()
