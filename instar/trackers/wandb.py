"""Weights & Biases: written beside the run without a network, and sent later, or at once.

    track: [wandb]
    wandb sync RUN/trackers/wandb/offline-run-*          on a node with network

Its key is read by wandb from WANDB_API_KEY or its own login; nothing of it is kept.
"""

import secrets
from typing import Any, Literal

from instar.run import Run
from instar.settings import Settings as Base

Point = dict[str, Any]


class Settings(Base):
    """Weights & Biases, without a network unless it is said otherwise."""

    kind: Literal["wandb"] = "wandb"
    """Weights & Biases, without a network unless it is said otherwise."""
    project: str = "instar"
    """The project there."""
    mode: Literal["offline", "online"] = "offline"
    """Whether to write beside the run, to be sent with `wandb sync`, or to send at once."""


def open(settings: Settings, run: Run, recipe: dict[str, Any], state: dict[str, Any]) -> "Sheet":
    return Sheet(settings, run, recipe, state)


class Sheet:
    """The same run there at every start: its name is kept, and parts that were written offline are put together."""

    def __init__(self, settings: Settings, run: Run, recipe: dict[str, Any], state: dict[str, Any]):
        import wandb

        state.setdefault("id", secrets.token_hex(4))
        self._run = wandb.init(
            project=settings.project,
            name=run.name,
            id=state["id"],
            resume="allow",
            mode=settings.mode,
            dir=str(run.trackers),
            config=recipe,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )

    def write(self, points: list[Point]) -> None:
        from instar.mirror import numbers

        for point in points:
            self._run.log({**numbers(point), "samples": point["samples"]})

    def close(self) -> None:
        self._run.finish()
