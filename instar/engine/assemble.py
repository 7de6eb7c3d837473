"""Experiment + Plan + Manifest + World -> Training: everything one rank turns, put together once a start."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

from instar import plugins
from instar.engine import build, deadline, judge, predict, rates
from instar.engine import optimise as optimising
from instar.engine.checkpoint import store as checkpoint
from instar.engine.loading import loaders
from instar.engine.metrics_log import MetricsLog
from instar.engine.observer import Observer
from instar.engine.ranks.lease import Lease
from instar.engine.ranks.parallel import average_statistics, gathered, parallel, share_buffers
from instar.engine.ranks.syncnorm import convert as synchronise_norms
from instar.engine.ranks.watchdog import Watchdog
from instar.engine.ranks.world import World
from instar.engine.standing import Standing
from instar.engine.step import Forward, Stepper
from instar.engine.training import Training
from instar.engine.view import View
from instar.experiment import Experiment
from instar.machine import Machine
from instar.manifest import Manifest
from instar.plan import Plan, Progress
from instar.run import Run


def assemble(
    run: Run,
    experiment: Experiment,
    plan: Plan,
    manifest: Manifest,
    *,
    machine: Machine,
    world: World,
    writer: Lease | None,
    view: View,
    observer: Observer,
    stack: ExitStack,
) -> Training:
    """Everything one rank turns, at the very beginning of a training."""
    settings = experiment.train
    learner = build.learner(
        experiment, plan, empty=bool(checkpoint.names(run.checkpoints)), told=_told(run, world, view)
    )
    for doubt in optimising.doubts(experiment.schedule, plan.progress(0)):
        view.note(doubt)
    if settings.sync_bn or not learner.cuts:
        together = None if isinstance(settings.sync_bn, bool) else settings.sync_bn
        synchronise_norms(learner.module, world, group_size=together)
    forward = parallel(Forward(learner), world, kind=settings.parallel)
    if settings.compile:
        forward.compile(mode="reduce-overhead" if settings.compile == "graphs" else None)
    optimise = optimising.Optimise(learner.module, experiment.optim, precision=plan.precision, device=plan.device)
    ema = optimising.Ema(learner.module, settings.ema) if settings.ema else None
    replayed = settings.compile == "graphs"
    stepper = Stepper(learner, forward, optimise, plan=plan, rank=world.rank, ema=ema, replayed=replayed)
    stepper.micro = _remembered_micro(run, plan.micro)
    if machine.stage is not None:
        observer.staging()
    order = build.order(manifest, plan, settings, world)
    mine = build.rows_of_node(order, manifest, world)
    reader = build.reader(experiment, manifest, machine, mine=mine, told=view.note)
    if machine.stage is not None:
        observer.staged()
    timeout = machine.timeout.seconds
    val_rows = manifest.rows("val")

    def open_stream(start: int) -> Iterator[Any]:
        return loaders.train_stream(
            reader,
            order,
            start=start,
            total=plan.total_samples,
            batch=plan.batch,
            rank=world.rank,
            world=world.size,
            workers=plan.workers,
            seed=plan.seed,
            timeout=timeout,
        )

    def evaluate() -> dict[str, float]:
        (average_statistics if settings.average_bn else share_buffers)(learner.module, world)
        batches = partial(loaders.eval_stream, reader, batch=stepper.micro, workers=plan.workers, timeout=timeout)
        with ema.applied() if ema is not None else nullcontext(), gathered(forward):
            columns = predict.split(
                learner,
                batches,
                val_rows,
                precision=plan.precision,
                world=world,
                keep=build.keep(experiment, whole=False),
                tick=lambda done: view.evaluating(done * world.size, len(val_rows)),
                stopping=lambda: deadline.reason(clock) is not None,
            )
        return task.measure(columns) if columns else {}

    def set_rate(progress: Progress, standing: Standing) -> dict[str, float]:
        seen = rates.through(standing.rate_policy, progress)
        history = standing.history if mode == "max" else [-value for value in standing.history]
        optimizer, optim, schedule = optimise.optimizer, experiment.optim, experiment.schedule
        rate = optimising.set_rate(optimizer, optim, schedule, seen, history, scale=standing.rate_scale)
        if decay is None:
            return {"lr": rate}
        return {"lr": rate, "weight_decay": optimising.set_decay(optimizer, decay(seen))}

    decay = optimising.moving_decay(experiment.optim, experiment.schedule)
    task = plugins.load("tasks", experiment.task.kind)
    mode = settings.mode or task.MODE
    checkpoints = None
    if writer is not None:
        fence = (run.lease_file, writer.token)
        checkpoints = stack.enter_context(checkpoint.Checkpoints(run.checkpoints, keep=settings.keep, fence=fence))
    clock = deadline.Clock(machine.walltime.seconds if machine.walltime else None)
    metrics = MetricsLog(run.metrics_file if world.rank == 0 else None)
    stack.callback(metrics.close)
    return Training(
        run=run,
        plan=plan,
        settings=settings,
        stepper=stepper,
        order=order,
        world=world,
        watchdog=stack.enter_context(Watchdog(world, on_event=run.log_event)),
        checkpoints=checkpoints,
        metrics=metrics,
        clock=clock,
        view=view,
        open_stream=open_stream,
        evaluate=evaluate if len(val_rows) else dict,
        set_rate=set_rate,
        describe=lambda row: manifest.ids[row],
        metric=settings.metric or task.METRIC,
        mode=mode,
        alarms=getattr(task, "alarms", lambda line: []),
        observer=observer,
        judge=judge.here(),
    )


def _told(run: Run, world: World, view: View) -> Callable[[str], None]:
    """Says what of given weights did not fit, and keeps it."""

    def told(sentence: str) -> None:
        view.note(f"weights: {sentence}")
        if world.rank == 0:
            run.log_event("weights_unmatched", rank=0, reason=sentence)

    return told


def _remembered_micro(run: Run, micro: int) -> int:
    """What fitted into memory last time, where it did not fit at first."""
    fitted = [event["now"] for event in run.events() if event["event"] == "micro_batch"]
    return min([micro, *fitted])
