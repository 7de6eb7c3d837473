"""From a save through the stages to the scores: what a start of a LightningModule's run goes through.

Lightning is not imported here: a session that is at hand does what it takes.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import brought as brought_ones
from instar.engine import definition, starts
from instar.engine.checkpoint import foreign
from instar.errors import ConfigError, InstarError
from instar.run import Run, write_atomically

if TYPE_CHECKING:
    from instar.engine.lightning.session import Session


def newest(session: "Session") -> Path | None:
    """The newest whole save of the run; the session stands where it does."""
    found, rejected = foreign.newest(session.run.checkpoints)
    for name, why in rejected if session.world.rank == 0 else ():
        session.run.log_event("rejected", rank=0, checkpoint=name, reason=why)
        session.view.note(f"checkpoint {name} is not whole ({why})")
    if found is not None:
        session.position.best = dict(foreign.state_of(found).get("best") or {})
    return found


def begin(session: "Session", found: Path | None) -> int:
    """Take up the save, or begin anew; returns the position in samples."""
    run, world, train = session.run, session.world, session.brought.train
    if found is None:
        session.metrics.cut(0)
        if world.rank == 0:
            run.log_event("started", rank=0, samples=0, ranks=world.size)
        if train.resume is not None:
            session.resume = _taken_up(train.resume, train.resume_epoch)
            session.view.note(f"takes up {session.resume}")
        elif train.warm_start is not None:
            session.warm(train.warm_start)
        return 0
    state = foreign.state_of(found)
    session.resume = found
    session.metrics.cut(state["metrics_bytes"])
    if world.rank == 0:
        starts.end_a_chain(run, state["samples"])
        run.log_event("resumed", rank=0, samples=state["samples"], checkpoint=found.name, ranks=world.size)
        session.view.note(f"resumed at epoch {state['epoch']:g} from {found.name}")
    return int(state["samples"])


def _taken_up(source: Path, epoch: int | None) -> Path:
    """The save of another run, or the checkpoint file, that this run goes on from."""
    if not source.is_dir():
        if epoch is not None:
            raise ConfigError(f"train.resume_epoch={epoch} needs a run, and {source} is a file")
        return source
    if (source / foreign.FILE).exists():
        return source
    other = Run(source)
    plan = plan_of(other)
    most = None if epoch is None else (epoch + 1) * int(plan.get("epoch_samples") or 0)
    found, _ = foreign.newest(other.checkpoints, most=most)
    if found is None:
        kept = sorted(entry.name for entry in other.checkpoints.glob("samples-*"))
        raise ConfigError(
            f"train.resume: {source} has no whole checkpoint{f' within {epoch} epochs' if epoch is not None else ''}; "
            f"it has {', '.join(kept) or 'none'}. Keep more with train.keep"
        )
    return found


def go_through(session: "Session") -> None:
    """The user's own stages, or ours: fit, perhaps validate, test."""
    brought, world, run = session.brought, session.world, session.run
    if brought.task.stages is not None:
        module, _, name = brought.task.stages.rpartition(".")
        stages = definition.find(brought_ones.Definition(module=module, definition=name))
        try:
            stages(session)
        except InstarError:
            raise
        except Exception as error:
            raise ConfigError(f"task.stages: {definition.blame(error)}") from error
        session.state = session.state or "finished"
    else:
        session.fit()
    if world.rank == 0:
        facts = {"state": session.state, "best": session.position.best}
        run.log_event("finished", rank=0, samples=samples_saved(run), **facts)
    if brought.task.stages is None:
        which = brought.train.test
        if brought.train.validate_after and session.has("val"):
            session.validate("best" if which == "none" else which)
        if which != "none" and session.has("test"):
            session.test(which)
    for split in session.scores:
        if world.rank == 0:
            write_scores(session, split, brought.train.test)


def write_scores(session: "Session", split: str, checkpoint: str) -> None:
    run = session.run
    file = session.checkpoint(checkpoint if checkpoint != "none" else "best")
    about = {"run": run.name, "split": split, "checkpoint": file.parent.name, "seed": session.brought.seed}
    about["parameters"] = sum(weight.numel() for weight in session.module.parameters())
    found = {**session.scores[split], "about": about}
    write_atomically(run.scores_file(split), json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    run.log_event("evaluated", rank=0, split=split, checkpoint=file.parent.name)


def samples_saved(run: Run) -> int:
    """How far the newest save is."""
    found, _ = foreign.newest(run.checkpoints)
    return int(foreign.state_of(found)["samples"]) if found else 0


def plan_of(run: Run) -> dict[str, Any]:
    """What followed from the module and its loaders at the start before; nothing where there was none."""
    try:
        return dict(json.loads(run.plan_file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
