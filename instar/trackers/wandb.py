"""Weights & Biases: offline by default, so that nothing leaves the machine until you say so.

    track: [wandb]
    track: [{kind: wandb, project: butterflies, mode: online}]

Offline, the whole curve is one file in RUN/trackers/wandb, made anew at every start: `wandb sync` of it, which the
training prints at its end, gives one run however often it was killed. Online, points go to the same W&B run as soon
as they are saved for good. The key is read from WANDB_API_KEY or what `wandb login` left. The only door to the
library.
"""

import os
import secrets
import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from pydantic import Field

from instar.points import About, Ending, Point, finite
from instar.settings import Settings as Base

PACKAGES = ("wandb",)
SECRETS = ("WANDB_",)


class Settings(Base):
    """Weights & Biases, offline or online."""

    kind: Literal["wandb"] = "wandb"
    """Weights & Biases, offline or online."""
    project: str = Field(default="instar", pattern=r"^[^/\\#?%:]{1,128}$")
    """The project that the run is in."""
    entity: str | None = None
    """The user or team that the project belongs to; null for your own."""
    mode: Literal["offline", "online"] = "offline"
    """Whether points go to a file, to be sent with `wandb sync`, or to the server as they come."""


def open(settings: Settings, about: About, kept: dict[str, Any]) -> "Session":
    return Session(settings, about, kept)


class Session:
    """One run in W&B."""

    def __init__(self, settings: Settings, about: About, kept: dict[str, Any]):
        import wandb

        kept.setdefault("id", secrets.token_hex(4))
        self.starts_anew = settings.mode == "offline"
        self._offline = about.folder.absolute()
        if self.starts_anew:
            shutil.rmtree(about.folder, ignore_errors=True)
        about.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            id=kept["id"],
            name=about.name,
            dir=str(about.folder.parent),  # it makes a folder called wandb in there
            mode=settings.mode,
            resume=None if self.starts_anew else "allow",
            config=dict(about.settings),
            tags=[value[:64] for value in about.tags.values() if value],
            save_code=False,
            # Its own look at machine, console and repository is left out: provenance.json has what is safe to tell.
            settings=wandb.Settings(
                console="off", silent=True, x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
                disable_git=True, disable_code=True, disable_job_creation=True, init_timeout=30.0,
            ),
        )  # fmt: skip
        # Points of one step come in several lines, and W&B merges or drops what has no step of its own.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step", step_sync=True)

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log({**finite(point.values), "step": point.step, "measured": point.seconds})

    def finish(self, ending: Ending) -> None:
        import wandb

        self._run.summary.update({**ending.scores, "state": ending.state})
        if ending.report is not None:
            page = wandb.Artifact(f"report-{self._run.id}", type="report")
            page.add_file(str(ending.report), name="report.html", policy="immutable", skip_cache=True)
            self._run.log_artifact(page)

    def close(self) -> str:
        self._run.finish()
        with suppress(OSError):
            (self._offline / "latest-run").unlink()
        runs = sorted(self._offline.glob("offline-run-*"))
        return f"wandb sync {shlex.quote(os.path.relpath(runs[-1]))}" if self.starts_anew and runs else ""
