"""What MLPerf's own checker says of a log, and what it cannot see: whether the log tells what was run."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instar import experiment as experiments
from instar import plan as plans
from instar.engine.mllog import lines
from instar.errors import ConfigError, DataError
from instar.run import Run

RULES = "3.0.0"  # the last round of MLPerf HPC
OPTIMIZERS = ("adam", "adamw", "lamb")
_SECONDS = 120

Said = dict[str, dict[str, Any]]  # the first line of each key


@dataclass(frozen=True)
class Verdict:
    """What came of a check.

    passed       whether MLPerf's checker says SUCCESS, and the log agrees with its run
    complaints   what was wrong, in the checker's words and ours
    differences  why its time may not stand beside published ones: an honest run in the open division has some
    division     closed, open, or '' where the log does not say
    minutes      from run_start to run_stop; None without both
    """

    passed: bool
    complaints: list[str]
    differences: list[str] = field(default_factory=list)
    division: str = ""
    minutes: float | None = None


def check(log: Path) -> Verdict:
    """Check a log, or the log of a run folder. Beside a run's plan it is compared with what was run.

    Raises DataError where there is no log, ConfigError where the checker is not installed.
    """
    file = Run(log).mlperf_file if log.is_dir() else log
    if not file.is_file():
        raise DataError(f"{file}: there is no such log. A recipe writes one with: mlperf={{benchmark: deepcam}}")
    said: Said = {}
    for line in lines(file):
        said.setdefault(str(line.get("key")), line)
    complaints = _checker(file) + _missed(file, said)
    run = Run(file.parent)
    differences = []
    if run.experiment_file.exists() and run.plan_file.exists() and file == run.mlperf_file:
        complaints += _untrue(said, run)
        differences = not_comparable(run)
    begun, ended = (said.get(key, {}).get("time_ms") for key in ("run_start", "run_stop"))
    minutes = (ended - begun) / 60_000 if isinstance(begun, int) and isinstance(ended, int) else None
    return Verdict(not complaints, complaints, differences, str(_value(said, "submission_division", "")), minutes)


def _checker(file: Path) -> list[str]:
    """The complaints of MLPerf's checker, in a process of its own: it keeps global state and runs its rules' code."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "hpc", "--ruleset", RULES]
        try:
            done = subprocess.run(
                [*command, "--log_output", f"{folder}/checker.log", str(file.absolute())],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return [f"MLPerf's checker did not end within {_SECONDS} s"]
    if "No module named" in done.stderr and "mlperf_logging" in done.stderr:
        raise ConfigError("MLPerf's checker is not here. Install it: pip install 'instar[mlperf]'")
    if done.returncode == 0 and "SUCCESS" in done.stderr + done.stdout:
        return []
    heard = [
        line.strip().removeprefix("WARNING - ").removeprefix("ERROR - ").strip() for line in done.stderr.splitlines()
    ]
    told = [line for line in heard if line.strip("-") and line != "FAILED" and not line.startswith("INFO")]
    return told or [f"MLPerf's checker ended with code {done.returncode} and no word"]


def _missed(file: Path, said: Said) -> list[str]:
    """That the target was missed, in plain words, where the log itself says so."""
    if said.get("run_stop", {}).get("metadata", {}).get("status") != "aborted":
        return []
    found = [line.get("value") for line in lines(file) if line.get("key") == "eval_accuracy"]
    numbers = [value for value in found if isinstance(value, int | float)]
    return (
        [f"the target was missed: the best eval_accuracy is {max(numbers):.3g}"] if numbers else ["the run was aborted"]
    )


def _value(said: Said, key: str, default: object = None) -> object:
    return said.get(key, {}).get("value", default)


def _untrue(said: Said, run: Run) -> list[str]:
    """Where the log tells of other sizes than the run had: a checker that sees only the log cannot know."""
    plan = plans.read(run.plan_file)
    true = {
        "train_samples": plan.train_rows,
        "eval_samples": plan.val_rows,
        "global_batch_size": plan.batch,
        "seed": plan.seed,
    }
    wrong = {key: value for key, value in true.items() if key in said and _value(said, key) != value}
    return [
        f"not valid: the log says {key} {_value(said, key)}, but this run had {value}" for key, value in wrong.items()
    ]


def not_comparable(run: Run) -> list[str]:
    """In what a run differs from the benchmark, so that its time may not stand beside published ones."""
    from instar import manifest as manifests
    from instar.bench import synthetic, weather

    experiment, plan = experiments.load(run.path), plans.read(run.plan_file)
    rows = manifests.read(run.manifest_file)
    found = ["the fields are synthetic"] if synthetic.is_synthetic(Path(rows.root)) else []
    sizes = {tuple(size) for size in rows.sizes[:: max(1, len(rows.sizes) // 64)].tolist()}
    pairs: dict[str, tuple[Any, Any]] = {
        "training samples": (f"{plan.train_rows:,}", "121,266"),
        "validation samples": (f"{plan.val_rows:,}", "15,158"),
        "fields": (", ".join(f"{height}x{width}" for width, height in sorted(sizes)), "768x1152"),
        "channels": (plan.channels, 16),
        "classes": (len(plan.classes), len(weather.CLASSES)),
        "network": (experiment.model.kind, "deeplab_xception"),
        "score": (experiment.train.metric, "sample_iou"),
        "target": (experiment.train.target, 0.82),
        "loss": (getattr(experiment.task, "loss", None), "cross_entropy"),
        "second loss": (getattr(experiment.task, "also", "none"), "none"),
        "class weights": (getattr(experiment.task, "frequencies", None), weather.FREQUENCIES),
        "their power": (getattr(experiment.task, "weight_power", None), 0.125),
        "average of weights": (experiment.train.ema, None),
        "schedule": (experiment.schedule.kind, "deepcam"),
    }
    found += [f"{what}: {here}, not {there}" for what, (here, there) in pairs.items() if here != there]
    if experiment.optim.kind not in OPTIMIZERS:
        found.append(f"optimizer: {experiment.optim.kind}, not {', '.join(OPTIMIZERS)}")
    return found
