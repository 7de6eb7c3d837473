"""The log of a run that MLPerf's own checker reads: `mlperf.log` in the run folder. The only door to mlperf-logging.

Rank 0 writes it, a line at a time and at once. The checker wants most keys exactly once in a log, and a run here may be
killed and resumed; so every start reads what is there, and what stands there already is not said again. The clock is
the one on the wall: a run that waited in a queue between two starts took that long.

Keys are those of the checker's rule files (hpc 3.0.0), which differ from what the benchmark's README of 2021 names.
"""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instar.engine.loop import reaches
from instar.engine.training import Training
from instar.errors import Again, ConfigError
from instar.experiment import Experiment, Mlperf
from instar.run import cut_back

PREFIX = ":::MLLOG "
# These come once an epoch or oftener; everything else once in a log.
_OFTEN = frozenset(
    {
        *("epoch_start", "epoch_stop", "eval_start", "eval_stop", "eval_accuracy", "eval_loss", "learning_rate"),
        *("tracked_stats", "train_loss", "train_accuracy", "staging_start", "staging_stop", "resumed"),
    }
)
_OPTIMIZERS = {"Lamb": "LAMB"}  # classes whose name is not the benchmark's


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole line of a log, oldest first."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        _, found, data = line.partition(PREFIX)
        if found:
            try:
                said = json.loads(data)
            except ValueError:
                continue
            if isinstance(said, dict):
                yield said


class BenchmarkLog:
    """Writes the log of one run; an Observer. Raises ConfigError without the package, Again where the disk is full."""

    def __init__(self, path: Path, experiment: Experiment, settings: Mlperf):
        self._experiment = experiment
        self._said = {str(line.get("key")) for line in lines(path)} if path.exists() else set()
        if path.exists():
            cut_back(path, path.read_bytes().rfind(b"\n") + 1)  # half a line, by a kill
        self._logger = _logger(path)
        self._epoch = 0  # which one has begun and not ended; 0 between two
        self._start("init_start")
        self._point("cache_clear", settings.cache_cleared)
        self._point("submission_benchmark", settings.benchmark)
        self._point("submission_org", settings.organisation)
        self._point("submission_division", settings.division)
        self._point("submission_status", settings.status)
        self._point("submission_platform", settings.platform)
        self._is_resumed = "run_start" in self._said

    def staging(self) -> None:
        """Data are about to be brought to the node."""
        self._start("staging_start")

    def staged(self) -> None:
        """They are there."""
        self._stop("staging_stop")

    def going_on(self, training: Training) -> None:
        """The first time all that was chosen, then the start of the run; every time the start of an epoch."""
        for key, value in _chosen(self._experiment, training).items():
            self._point(key, value)
        self._stop("init_stop")
        self._start("run_start")
        if self._is_resumed:
            self._is_resumed = False
            self._point("resumed", training.standing.samples, **_where(training))
        samples = training.standing.samples
        epoch = samples // training.plan.epoch_samples + 1
        if epoch != self._epoch:
            self._epoch = epoch
            self._start("epoch_start", **_where(training, epoch))

    def evaluating(self, training: Training) -> None:
        self._start("eval_start", **_where(training))

    def evaluated(self, training: Training) -> None:
        """What was found, how fast it went, and the end of the epoch where it was one."""
        line, where = training.metrics.last, _where(training)
        self._point("learning_rate", line["lr"], **where)
        self._point("tracked_stats", {"throughput": line["images_per_second"]}, **where)
        self._point("eval_accuracy", line[training.metric], **where)
        self._point("eval_loss", line["loss"], **where)
        self._stop("eval_stop", **where)
        if training.standing.samples >= where["epoch_num"] * training.plan.epoch_samples:
            self._end_epoch(where)

    def ended(self, training: Training, state: str) -> None:
        """`run_stop`: success where the target was reached, aborted where it was missed."""
        target, where = training.settings.target, _where(training)
        if self._epoch:  # it ended in the middle of one
            self._end_epoch(where)
        reached = reaches(training.standing.history, training.mode, target)
        if reached:
            self._point("target_accuracy_reached", target, **where)
        self._stop("run_stop", status="success" if reached else "aborted", epoch=where["epoch_num"])

    def _end_epoch(self, where: dict[str, int]) -> None:
        self._epoch = 0
        self._stop("epoch_stop", **where)

    def _point(self, key: str, value: Any, **metadata: Any) -> None:
        if self._is_new(key):
            self._logger.event(key, value, metadata=metadata, stack_offset=2)

    def _start(self, key: str, **metadata: Any) -> None:
        if self._is_new(key):
            self._logger.start(key, metadata=metadata, stack_offset=2)

    def _stop(self, key: str, **metadata: Any) -> None:
        if self._is_new(key):
            self._logger.end(key, metadata=metadata, stack_offset=2)

    def _is_new(self, key: str) -> bool:
        if key in self._said and key not in _OFTEN:
            return False
        self._said.add(key)
        return True


def _where(training: Training, epoch: int | None = None) -> dict[str, int]:
    """Epoch, from 1, and steps so far; by default the epoch in which the newest step began: one may end in a step."""
    samples, plan = training.standing.samples, training.plan
    lived = max(0, samples - plan.batch) // plan.epoch_samples + 1
    return {"epoch_num": epoch or lived, "step_num": samples // plan.batch}


def _chosen(experiment: Experiment, training: Training) -> dict[str, Any]:
    """Everything that was chosen or follows, by the checker's keys."""
    plan, settings, world = training.plan, experiment.train, training.world
    nodes = len({process.host for process in world.processes}) or 1
    ranks_together = world.size if settings.sync_bn is True else int(settings.sync_bn or 1)
    optimizer = training.stepper.optimise.optimizer
    name = type(optimizer).__name__
    values = optimizer.param_groups[0]
    return {
        "seed": plan.seed,
        "number_of_ranks": world.size,
        "number_of_nodes": nodes,
        "accelerators_per_node": 0 if plan.device == "cpu" else world.size // nodes,
        "global_batch_size": plan.batch,
        "batchnorm_group_size": min(ranks_together, world.size),
        "gradient_accumulation_frequency": -(-plan.rows_per_rank // training.stepper.micro),
        "data_format": experiment.data.reader.kind,
        "shuffle_mode": "global",
        "data_oversampling_factor": 1,
        "precision_mode": plan.precision,
        "enable_nhwc": plan.channels_last,
        "enable_jit": settings.compile,
        "opt_name": _OPTIMIZERS.get(name, name),
        **{
            f"opt_{key}": value
            for key, value in values.items()
            if key not in ("params", "lr", "name") and _plain(value)
        },
        "opt_lr": experiment.optim.lr,
        **_of_schedule(experiment),
        "train_samples": plan.train_rows,
        "eval_samples": plan.val_rows,
        "target_accuracy": settings.target,
    }


def _of_schedule(experiment: Experiment) -> dict[str, Any]:
    """Every setting of the schedule. One that has the benchmark's names for them has a `type` too."""
    said = experiment.schedule.model_dump(mode="json")
    said = {"type": said["kind"], **said}
    if "eta_min" in said:
        said["eta_min"] *= experiment.optim.lr  # a share of the rate here, a rate there
    return {f"scheduler_{key}": value for key, value in said.items() if key not in ("kind", "warmup")}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | tuple | list)


def _logger(path: Path) -> Any:
    try:
        from mlperf_logging.mllog.mllog import MLLogger
    except ImportError as error:
        raise ConfigError(
            f"mlperf: the log needs mlperf-logging, but {error}. Install it: pip install 'instar[mlperf]'"
        ) from error
    # Its default logger prints every line too; and loggers of that name live as long as the process.
    quiet = logging.Logger(f"instar {path}")
    quiet.addHandler(_Lines(path))
    return MLLogger(logger=quiet, root_dir=str(Path(__file__).parents[2]))


class _Lines(logging.Handler):
    """Appends each line at once and as one write."""

    def __init__(self, path: Path):
        super().__init__()
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, f"{record.getMessage()}\n".encode())
            finally:
                os.close(file)
        except OSError as error:
            raise Again(f"{self._path} cannot be written ({error.strerror or error}). See to the disk.") from error
