"""What a learner says about rows: every row exactly once, on any number of ranks.

Shards are unpadded, results are gathered by row number, and the union is checked before anybody may score it.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from itertools import takewhile
from typing import Any

import numpy as np
import torch

from instar.engine.ranks.world import World
from instar.engine.step import Batch, autocast, to_device
from instar.networks import Learner, train_mode

Columns = dict[str, np.ndarray]


class Abandoned(Exception):
    """An evaluation was given up because the process was told to stop."""


def split(
    learner: Learner,
    batches: Callable[[np.ndarray], Iterable[Batch]],
    row_N: np.ndarray,
    *,
    precision: str,
    world: World,
    tick: Callable[[int], None] = lambda rows: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Columns:
    """Predictions for `row_N`, sorted by row, on rank 0; an empty dict on the others.

    batches   makes the batches of some rows, for example loaders.eval_stream with its settings bound
    tick      told the rows done so far on this rank
    stopping  asked between batches; where it says yes on any rank, all raise Abandoned
    """
    shard_M = row_N[world.rank :: world.size]
    with closing(_predicted(learner, batches(shard_M), precision, world.device, tick)) as predicted:
        mine = collect(takewhile(lambda _: not stopping(), predicted))
    if any(world.agree([float(len(mine["row"]) < len(shard_M))])):
        raise Abandoned
    whole = world.gather_rows(mine)
    if world.rank != 0:
        return {}
    order = np.argsort(whole["row"], kind="stable")
    whole = {name: column[order] for name, column in whole.items()}
    found = whole["row"]
    assert len(found) == len(row_N) and np.array_equal(found, np.sort(row_N)), (
        f"each of {len(row_N)} rows must be seen once; {len(found)} were, {len(np.unique(found))} of them different"
    )
    return whole


def collect(batches: Iterable[Columns]) -> Columns:
    """Row-aligned columns of all batches, one after the other."""
    parts = list(batches)
    if not parts:
        return {"row": np.zeros(0, np.int64)}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _predicted(
    learner: Learner, batches: Iterable[Batch], precision: str, device: torch.device, tick: Callable[[int], None]
) -> Generator[Columns, None, None]:
    context = autocast(precision, device)
    was_training = learner.module.training
    learner.module.eval()
    done = 0
    try:
        with torch.inference_mode():
            for batch in batches:
                with context():
                    outputs = learner.predict(to_device(batch, device))
                columns: dict[str, Any] = {"row": batch["row"], "label": batch["label"], **outputs}
                done += len(batch["row"])
                tick(done)
                yield {name: value.cpu().numpy() for name, value in columns.items() if isinstance(value, torch.Tensor)}
    finally:
        train_mode(learner.module, was_training)
