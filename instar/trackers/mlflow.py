"""MLflow: runs side by side, in a database of files by default or on a server.

    track: [{kind: mlflow}]
    track: [{kind: mlflow, server: "https://mlflow.example.org", experiment: butterflies}]

Without `server`, the database is mlflow.db in the folder of the runs. Look at it with `mlflow ui --backend-store-uri
sqlite:///runs/mlflow.db`. Name and password of a server are read from MLFLOW_TRACKING_USERNAME, _PASSWORD or _TOKEN.
The recipe becomes parameters, points metrics, the run page an artifact. Its telemetry is off. The only door to the
library.

MLflow takes nothing back, but the same point twice is one point: so it is told what is saved for good, and a run that
was killed goes on in the same MLflow run, found by a tag.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from instar.points import About, Ending, Point, finite
from instar.settings import Settings as Base

PACKAGES = ("mlflow",)
SECRETS = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_")
_TAG = "instar.id"
_MOST_METRICS, _MOST_PARAMETERS, _LONGEST = 1000, 100, 6000  # what MLflow takes in one call, and of one text
_STATES = {"done": "FINISHED", "trained": "FINISHED", "failed": "FAILED"}


def _no_password(address: str | None) -> str | None:
    if address is not None and "@" in urlsplit(address).netloc:
        # Of this kind the value is not repeated.
        raise PydanticCustomError(
            "kind", "leave out name and password; MLFLOW_TRACKING_USERNAME and _PASSWORD hold them"
        )
    return address


class Settings(Base):
    """Runs side by side, in files or on a server."""

    kind: Literal["mlflow"] = "mlflow"
    """Runs side by side, in files or on a server."""
    server: Annotated[str, AfterValidator(_no_password)] | None = None
    """Address of a tracking server; null for a database file in the folder of the runs."""
    experiment: str = "instar"
    """What MLflow is to call the group of runs that this one is in."""


def open(settings: Settings, about: About, kept: dict[str, Any]) -> "Client":
    return Client(settings, about, kept)


class Client:
    """One run in MLflow."""

    starts_anew = False

    def __init__(self, settings: Settings, about: About, kept: dict[str, Any]):
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when it is imported; else it asks a host for settings
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # whoever calls tries again, later and later
        from mlflow.tracking import MlflowClient

        kept.setdefault("id", secrets.token_hex(8))
        self._embedded = settings.server is None
        self._database = (about.runs / "mlflow.db").absolute()
        address = settings.server or f"sqlite:///{self._database}"
        self._next = f"mlflow ui --backend-store-uri {address}" if self._embedded else address
        with self._alone(about.runs):  # two that make the tables at the same time disturb each other
            self._client = MlflowClient(tracking_uri=address)
            experiment = self._experiment(settings.experiment, about)
            self._run = self._find(experiment, kept["id"]) or self._make(experiment, kept["id"], about)
        self._settings(about)

    def write(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_name(name), value, round(point.seconds * 1000), point.step)
            for point in points
            for name, value in finite(point.values).items()
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + _MOST_METRICS])

    def finish(self, ending: Ending) -> None:
        from mlflow.entities import Metric

        scores = [Metric(_name(name), value, 0, ending.step) for name, value in finite(ending.scores).items()]
        known = self._client.get_run(self._run).data.metrics
        self._client.log_batch(self._run, metrics=[score for score in scores if known.get(score.key) != score.value])
        if ending.report is not None:
            self._client.log_artifact(self._run, str(ending.report))
        if ending.state in _STATES:
            self._client.set_terminated(self._run, status=_STATES[ending.state])

    def close(self) -> str:
        return self._next

    @contextmanager
    def _alone(self, runs: Path) -> Iterator[None]:
        with (runs / ".mlflow.lock").open("w") as file:
            if self._embedded:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _experiment(self, name: str, about: About) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # Without a word it would make a folder wherever this process happens to be.
        place = (about.runs / "mlflow-artifacts").absolute().as_uri() if self._embedded else None
        return str(self._client.create_experiment(name, artifact_location=place))

    def _find(self, experiment: str, mark: str) -> str | None:
        found = self._client.search_runs([experiment], filter_string=f"tags.`{_TAG}` = '{mark}'", max_results=1)
        if not found:
            return None
        name = str(found[0].info.run_id)
        self._client.update_run(name, status="RUNNING")
        return name

    def _make(self, experiment: str, mark: str, about: About) -> str:
        tags = {_TAG: mark, **{_name(name): value for name, value in about.tags.items()}}
        return str(self._client.create_run(experiment, run_name=about.name, tags=tags).info.run_id)

    def _settings(self, about: About) -> None:
        """The recipe. A parameter never changes in MLflow, so what was changed at a later start becomes a tag."""
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(self._run).data.params
        wanted = {_name(name): value[:_LONGEST] for name, value in about.settings.items()}
        new = [Param(name, value) for name, value in wanted.items() if name not in known]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=new[start : start + _MOST_PARAMETERS])
        changed = [RunTag(f"now.{name}", value) for name, value in wanted.items() if known.get(name, value) != value]
        if changed:
            self._client.log_batch(self._run, tags=changed)


def _name(name: str) -> str:
    """The name in letters that MLflow takes."""
    return re.sub(r"[^\w .:/-]", "_", name, flags=re.ASCII)[:250]
