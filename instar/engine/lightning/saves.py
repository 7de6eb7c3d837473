"""What a run keeps of a training that Lightning turns: its whole state, and its best weights."""

import time
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from instar.engine import faults
from instar.engine.checkpoint import foreign

if TYPE_CHECKING:
    from instar.engine.lightning.session import Session


def save(session: "Session", trainer: Trainer, *, samples: int, epochs: float) -> float:
    """Save the whole state; every rank calls it. Returns the seconds it took."""
    begun = time.monotonic()
    target = foreign.begin(session.run.checkpoints, samples)
    faults.point("save.copy")
    trainer.save_checkpoint(target / foreign.FILE)
    if session.world.rank == 0:
        session.metrics.sync()
        state = {
            "samples": samples,
            "batches": session.position.batches,
            "epoch": epochs,
            "best": session.position.best,
            "metrics_bytes": session.metrics.length,
        }
        keep = session.brought.train.keep
        saved = foreign.finish(target, state, samples=samples, best=False, keep=keep, held=session.held())
        seconds = time.monotonic() - begun
        size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
        facts = {"checkpoint": saved.name, "samples": samples, "seconds": round(seconds, 3), "bytes": size}
        session.run.log_event("saved", rank=0, **facts)
    faults.point("save.handed")
    return time.monotonic() - begun


def keep_best(session: "Session", trainer: Trainer, *, samples: int) -> None:
    """Keep the weights as the best so far; every rank calls it."""
    target = foreign.begin(session.run.checkpoints, samples)
    trainer.save_checkpoint(target / foreign.FILE, weights_only=True)
    if session.world.rank == 0:
        state = {"best": session.position.best}
        keep = session.brought.train.keep
        foreign.finish(target, state, samples=samples, best=True, keep=keep, held=session.held())
