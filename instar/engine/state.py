"""Everything a checkpoint holds: taken from a training and given back to one, bit for bit.

Random generators are not in it: order, augmentation, mixing and dropout are functions of (seed, position).
"""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from instar.engine.checkpoint import store as checkpoint
from instar.engine.ranks.parallel import flat_statistics, full, full_state, load_full_state, put_statistics
from instar.engine.ranks.world import World
from instar.engine.standing import Standing
from instar.engine.step import Stepper

Files = dict[str, dict[str, Tensor]]


def capture(
    stepper: Stepper, standing: Standing, world: World, *, metrics_bytes: int, own_statistics: bool = False
) -> tuple[Files, dict[str, Any]]:
    """The tensors by file, and the rest as JSON. Every rank calls it; rank 0's answer is the whole.

    own_statistics   whether each rank's running statistics are kept, and not rank 0's only
    """
    optimizer_tensors, optimizer_rest = checkpoint.flatten_optimizer(stepper.optimise.optimizer)
    totals = stepper.totals
    # Floating-point sums depend on the order of adding, so each rank gets its own back; whole numbers do not.
    sums_WS = torch.zeros(world.size, len(totals.names) + 1, dtype=torch.float64)
    sums_WS[world.rank, :-1] = totals.sums.cpu()
    sums_WS[world.rank, -1] = totals.rows
    counts = {name: world.sum(count.detach().cpu().clone()) for name, count in stepper.learner.counts.items()}
    files: Files = {
        "model": full_state(stepper.learner.module),
        "optimizer": full(optimizer_tensors),
        "running": {"sums": world.sum(sums_WS), **{f"counts.{name}": count for name, count in counts.items()}},
    }
    mine = flat_statistics(stepper.learner.module) if own_statistics and world.size > 1 else None
    if mine is not None:
        statistics_WF = torch.zeros(world.size, len(mine), dtype=mine.dtype)
        statistics_WF[world.rank] = mine.cpu()
        files["running"]["statistics"] = world.sum(statistics_WF)  # one number and zeros: exact
    if stepper.ema is not None:
        files["ema"] = full(stepper.ema.state())
    rest = {
        **asdict(standing),
        "optimizer": optimizer_rest,
        "scaler": stepper.optimise.scaler_state(),
        "totals": list(totals.names),
        "metrics_bytes": metrics_bytes,
        "ranks": world.size,
        "versions": {"torch": torch.__version__},
    }
    return files, rest


def restore(found: checkpoint.Checkpoint, stepper: Stepper, world: World) -> Standing:
    """Put a checkpoint back into a training; returns where it stood."""
    state = found.state
    load_full_state(stepper.learner.module, found.files["model"])
    checkpoint.restore_optimizer(stepper.optimise.optimizer, found.files["optimizer"], state["optimizer"])
    stepper.optimise.load_scaler_state(state["scaler"])
    if stepper.ema is not None and "ema" in found.files:
        stepper.ema.load(found.files["ema"])
    _restore_running(found, stepper, world)
    known = Standing.__dataclass_fields__
    return Standing(**{name: value for name, value in state.items() if name in known})


def _restore_running(found: checkpoint.Checkpoint, stepper: Stepper, world: World) -> None:
    stepper.forget()
    running, totals = found.files["running"], stepper.totals
    sums_WS = running["sums"]
    statistics_WF = running.get("statistics")
    if statistics_WF is not None and len(statistics_WF) == world.size:
        put_statistics(stepper.learner.module, statistics_WF[world.rank].to(stepper.device))
    totals.names = tuple(found.state["totals"])
    if len(sums_WS) == world.size:
        mine_S = sums_WS[world.rank]
    else:  # another number of ranks: rank 0 carries what there was
        mine_S = sums_WS.sum(0) if world.rank == 0 else torch.zeros_like(sums_WS[0])
    totals.sums = mine_S[:-1].to(stepper.device).clone()
    totals.rows = int(mine_S[-1])
    for name, count in stepper.learner.counts.items():
        saved = running[f"counts.{name}"]
        count.copy_(saved if world.rank == 0 else torch.zeros_like(saved))
