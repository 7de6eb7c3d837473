"""What a learner says about rows: every row exactly once, on any number of ranks.

Shards are unpadded, results are gathered by row number, and the union is checked before anybody may score it.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
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
    ask: Callable[[Batch], Mapping[str, torch.Tensor]] | None = None,
    keep: Callable[[Columns, Batch], Columns] | None = None,
    tick: Callable[[int], None] = lambda rows: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Columns:
    """Predictions for `row_N`, sorted by row, on rank 0; an empty dict on the others.

    batches   makes the batches of some rows, for example loaders.eval_stream with its settings bound
    ask       what is asked about a batch; by default what the learner predicts
    keep      from what was predicted of a batch, and the batch, to what is kept of it; None keeps all. A column of
              bytes, of any length, goes to rank 0 like a column of numbers
    tick      told the rows done so far on this rank
    stopping  asked between batches; where it says yes on any rank, all raise Abandoned
    """
    shard_M = row_N[world.rank :: world.size]
    with closing(
        _predicted(learner, batches(shard_M), precision=precision, device=world.device, ask=ask, keep=keep, tick=tick)
    ) as predicted:
        mine = collect(takewhile(lambda _: not stopping(), predicted))
    if any(world.agree([float(len(mine["row"]) < len(shard_M))])):
        raise Abandoned
    whole = _gathered(mine, world)
    if world.rank != 0:
        return {}
    order = np.argsort(whole["row"], kind="stable")
    whole = {name: column[order] for name, column in whole.items()}
    found = whole["row"]
    assert len(found) == len(row_N) and np.array_equal(found, np.sort(row_N)), (
        f"each of {len(row_N)} rows must be seen once; {len(found)} were, {len(np.unique(found))} of them different"
    )
    return whole


def _gathered(mine: Columns, world: World) -> Columns:
    """The rows of all ranks on rank 0; columns of bytes travel as their lengths and one long line."""
    texts = sorted(name for name, column in mine.items() if column.dtype == object)
    # A rank without rows has no columns of bytes; it takes part with empty ones, as many as the others have.
    many = len(texts) if world.size == 1 else round(world.agree([float(len(texts))])[0])
    if world.size == 1 or many == 0:
        return world.gather_rows(mine)
    lengths = {f"{name} length": np.array([len(one) for one in mine[name]], np.int64) for name in texts}
    whole = world.gather_rows({**{name: mine[name] for name in mine if name not in texts}, **lengths})
    names = sorted(name.removesuffix(" length") for name in whole if name.endswith(" length"))
    for at in range(many):
        line = b"".join(mine[texts[at]]) if texts else b""
        bytes_R = world.gather_rows({"byte": np.frombuffer(line, np.uint8)})
        if world.rank == 0:
            ends = np.cumsum(whole.pop(f"{names[at]} length")).tolist()
            joined = bytes_R["byte"].tobytes()
            parts = [joined[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
            whole[names[at]] = np.array([*parts, None], object)[:-1]
    return whole


def collect(batches: Iterable[Columns]) -> Columns:
    """Row-aligned columns of all batches, one after the other."""
    parts = list(batches)
    if not parts:
        return {"row": np.zeros(0, np.int64)}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _predicted(
    learner: Learner,
    batches: Iterable[Batch],
    *,
    precision: str,
    device: torch.device,
    ask: Callable[[Batch], Mapping[str, torch.Tensor]] | None,
    keep: Callable[[Columns, Batch], Columns] | None,
    tick: Callable[[int], None],
) -> Generator[Columns, None, None]:
    context = autocast(precision, device)
    was_training = learner.module.training
    learner.module.eval()
    done = 0
    try:
        with torch.inference_mode():
            for batch in batches:
                with context():
                    outputs = (ask or learner.predict)(to_device(batch, device))
                columns: dict[str, Any] = {"row": batch["row"], "label": batch["label"], **outputs}
                done += len(batch["row"])
                tick(done)
                made = {name: value.cpu().numpy() for name, value in columns.items() if isinstance(value, torch.Tensor)}
                yield made if keep is None else keep(made, batch)
    finally:
        train_mode(learner.module, was_training)
