"""Kill a training again and again at random moments, resume it by the same command, and compare by hash.

    python -m tests.scenarios.chaos --kills 100 --ranks 1
    python -m tests.scenarios.chaos --kills 20 --ranks 2

Each kill takes the whole process tree (kill -9) or sends it TERM, USR1, USR2 or INT, at a moment drawn uniformly
over the life of the process after its start-up, saves included. In the end the weights and the metrics (times
aside) must have the sha256 of a run that nobody disturbed. A process that lives on for more than ten seconds after it
was told to end, or does not come to train at all, counts as lost too.

The last line is the verdict; the exit code is 0 where nothing was lost, else 1.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.images import folder_of_images

ROOT = Path(__file__).parent.parent.parent
# How long a process may live on after TERM, USR1 or INT: the promise is "no hang over 10 s, ever".
PATIENCE = 10.0
# A start imports torch; a last start trains to the end. Longer than this is a hang.
START, REST = 120.0, 900.0
STATES_THAT_END = (0, 75)

RECIPE = """
name: chaos
seed: 7
data: {{root: {root}, split: {{test: 0.1, val: 0.2}}}}
model: {{kind: tests.fakes.tiny_cnn}}
task: {{kind: classification, balance: oversample}}
augment: {{kind: standard, size: 8}}
optim: {{kind: adamw, lr: 0.01, clip: 1.0}}
schedule: {{kind: cosine, warmup: 5 %}}
train: {{epochs: {epochs}, batch: 8, every: 0.2 s, log: 5, ema: 0.99, evaluate: 5 epochs}}
"""


@dataclass
class Tally:
    """What was done to the runs and what came of it."""

    wanted: int = 0
    runs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    longest_stop: float = 0.0
    slips: list[str] = field(default_factory=list)

    @property
    def struck(self) -> int:
        return sum(self.kills.values())


def command(recipe: Path, run: Path, ranks: int) -> list[str]:
    return [sys.executable, "-m", "instar", "train", str(recipe), f"run={run}", f"devices={ranks}", "workers=0",
            "device=cpu"]  # fmt: skip


def start(recipe: Path, run: Path, ranks: int) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}
    return subprocess.Popen(
        command(recipe, run, ranks),
        cwd=run.parent,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def disturb(
    recipe: Path, run: Path, *, ranks: int, kills: int, window: float, dice: random.Random, tally: Tally
) -> None:
    """Start, kill and resume until the run is finished, or `kills` are used up; then let it finish."""
    while True:
        begun = events(run, "started", "resumed")
        process, late = start(recipe, run, ranks), time.monotonic() + START
        last = tally.struck >= kills
        if not last:
            while process.poll() is None and events(run, "started", "resumed") == begun and time.monotonic() < late:
                time.sleep(0.01)
            if time.monotonic() >= late:
                tally.slips.append(f"it did not begin to train within {START:g} s:\n{ended_by_force(process)}")
                return
            time.sleep(dice.uniform(0, window))
        if last or process.poll() is not None:
            try:
                output, _ = process.communicate(timeout=REST)
            except subprocess.TimeoutExpired:
                tally.slips.append(f"it did not come to its end within {REST:g} s:\n{ended_by_force(process)}")
                return
            tally.codes[process.returncode] += 1
            if process.returncode == 0:
                return
            if process.returncode != 75:
                tally.slips.append(f"exit {process.returncode}:\n{output[-3000:]}")
                return
            continue
        strike(process, dice, tally)


def strike(process: subprocess.Popen[str], dice: random.Random, tally: Tally) -> None:
    kind = dice.choice(["KILL", "KILL", "TERM", "USR1", "USR2", "INT", "TERM TERM", "TERM KILL"])
    tally.kills[kind] += 1
    begun = time.monotonic()
    for name in kind.split():
        number = signal.Signals[f"SIG{name}"]
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        if name != "KILL" and len(kind.split()) > 1:
            time.sleep(dice.uniform(0, 0.1))
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        output = ended_by_force(process)
        tally.slips.append(f"{kind}: still there after {PATIENCE:g} s:\n{output[-3000:]}")
    tally.longest_stop = max(tally.longest_stop, time.monotonic() - begun)
    tally.codes[process.returncode] += 1
    expected = (-9, 137, 0, 75) if "KILL" in kind else STATES_THAT_END
    if process.returncode not in expected:
        tally.slips.append(f"{kind}: exit {process.returncode}:\n{output[-3000:]}")
    if tally.struck % 10 == 0:
        told(tally)


def ended_by_force(process: "subprocess.Popen[str]") -> str:
    """What a process that hangs had printed; it is gone afterwards."""
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    return output[-3000:]


def told(tally: Tally) -> None:
    print(
        f"  {tally.struck:3} of {tally.wanted} kills, {tally.runs} runs to the end and equal by hash, "
        f"slowest ending {tally.longest_stop:.1f} s",
        flush=True,
    )


def events(run: Path, *names: str) -> int:
    path = run / "events.jsonl"
    if not path.exists():
        return 0
    return sum(any(f'"event": "{name}"' in line for name in names) for line in path.read_text().splitlines())


def fingerprint(run: Path) -> dict[str, str]:
    """sha256 of the final weights, the averaged weights, the optimiser and the metrics without times."""
    newest = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    prints = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(newest.glob("*.safetensors"))}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    aside = ("time", "images_per_second", "loader_ceiling")
    kept = [{name: value for name, value in line.items() if name not in aside} for line in lines]
    prints["metrics.jsonl"] = hashlib.sha256(json.dumps(kept).encode()).hexdigest()
    return prints


def chaos(*, kills: int, ranks: int, seed: int, epochs: int, window: float) -> Tally:
    tally, dice = Tally(wanted=kills), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="instar chaos ") as name:
        folder = Path(name)
        root = folder_of_images(folder / "the 'images'")
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.format(root=json.dumps(str(root)), epochs=epochs))
        undisturbed = folder / "undisturbed"
        disturb(recipe, undisturbed, ranks=ranks, kills=0, window=0, dice=dice, tally=tally)
        if tally.slips:
            return tally
        wanted = fingerprint(undisturbed)
        print(f"  the run that nobody disturbs: weights {wanted['model.safetensors'][:16]}…", flush=True)
        while tally.struck < kills and not tally.slips:
            run = folder / f"disturbed {tally.runs + 1}"
            disturb(recipe, run, ranks=ranks, kills=kills, window=window, dice=dice, tally=tally)
            if tally.slips:
                break
            found = fingerprint(run)
            tally.slips += [
                f"{run.name}: {name} differs: {found.get(name)} instead of {digest}"
                for name, digest in wanted.items()
                if found.get(name) != digest
            ]
            tally.runs += not tally.slips
            told(tally)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--window", type=float, default=2.0, help="seconds after start-up in which a kill falls")
    arguments = parser.parse_args()
    begun = time.monotonic()
    tally = chaos(**vars(arguments))
    seconds = time.monotonic() - begun
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.kills.items()))
    codes = ", ".join(f"{code} ({count} times)" for code, count in sorted(tally.codes.items()))
    print(f"{tally.struck} kills in {seconds:.0f} s: {kinds}; exit codes {codes}")
    for slip in tally.slips:
        print(f"LOST: {slip}")
    print(
        f"{'SOMETHING WAS LOST' if tally.slips else 'NOTHING LOST'}: {tally.struck} kills on {arguments.ranks} "
        f"process{'es' if arguments.ranks > 1 else ''}, {tally.runs} runs equal by hash to an undisturbed one, "
        f"slowest ending {tally.longest_stop:.1f} s (limit {PATIENCE:g} s)"
    )
    return bool(tally.slips)


if __name__ == "__main__":
    sys.exit(main())
