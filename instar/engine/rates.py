"""What learning rate and weight decay do when the length of a training changes after its start. Never silent."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from instar.errors import RunError
from instar.plan import Progress

KINDS = ("stretch", "tail", "restart")


def through(policy: dict[str, Any], progress: Progress) -> Progress:
    """The progress the schedule is to see under a policy ({} for none).

    stretch   the schedule is spread over the new length
    tail      the schedule runs as it was; past its end the last rate stays
    restart   a whole schedule begins where the change was made and ends at the new end
    """
    kind = policy.get("kind", "stretch")
    if kind == "tail":
        total = policy["total"]
        return replace(progress, samples=min(progress.samples, total), total=total)
    if kind == "restart":
        at = policy["at"]
        return replace(progress, samples=max(0, progress.samples - at), total=max(progress.batch, progress.total - at))
    return progress


def choose(
    wanted: str | None,
    *,
    before: int,
    now: Progress,
    factor: Callable[[Progress, Sequence[float]], float],
    history: Sequence[float],
    previous: dict[str, Any],
    decay: Callable[[Progress], float] | None = None,
) -> dict[str, Any]:
    """The policy for a training that had `before` samples and now has `now.total`, standing at `now.samples`.

    factor   the schedule: progress, history -> factor of the base rate
    decay    the weight decay, where it moves: progress -> what it is
    Raises RunError, which says what each policy would do, where none was chosen.
    """
    policies: dict[str, dict[str, Any]] = {
        "stretch": {"kind": "stretch"},
        "tail": {"kind": "tail", "total": before},
        "restart": {"kind": "restart", "at": now.samples},
    }
    if wanted is not None:
        return policies[wanted]
    old = factor(through(previous, replace(now, total=before)), history)
    would = {name: factor(through(policy, now), history) for name, policy in policies.items()}
    told = ", ".join(f"{name} makes it {value:.4g} x optim.lr" for name, value in would.items())
    if decay is not None:
        decays = ", ".join(f"{name} {decay(through(policy, now)):.4g}" for name, policy in policies.items())
        told += (
            f". The weight decay was {decay(through(previous, replace(now, total=before))):.4g}; it becomes {decays}"
        )
    raise RunError(
        f"the training was {before:,} samples long and is now to be {now.total:,}, after {now.samples:,} of them. "
        f"The learning rate here was {old:.4g} x optim.lr; {told}. Choose with on_change=stretch, on_change=tail or "
        f"on_change=restart."
    )
