"""MLflow: one run there for each run here, in a database file beside the runs, or on a server.

    track: [mlflow]
    track: [{kind: mlflow, uri: "https://mlflow.example.org", experiment: butterflies}]
    mlflow ui --backend-store-uri sqlite:///runs/mlflow.db

A server's password is read by MLflow from MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN; nothing of it is kept.
"""

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from instar.run import Run
from instar.settings import Settings as Base

Point = dict[str, Any]
_MOST = 900  # numbers that a server takes in one request are 1000


def _without_password(uri: str) -> str:
    if "@" in uri.partition("//")[2].partition("/")[0]:
        raise ValueError("must be an address without a password: MLflow reads that from the environment")
    return uri


class Settings(Base):
    """MLflow, in runs/mlflow.db or on a server."""

    kind: Literal["mlflow"] = "mlflow"
    """MLflow, in runs/mlflow.db or on a server."""
    uri: Annotated[str, AfterValidator(_without_password)] | None = None
    """Address of the server, without a password in it; null for a database file beside the runs."""
    experiment: str = "instar"
    """The experiment there that runs are listed under."""


def open(settings: Settings, run: Run, recipe: dict[str, Any], state: dict[str, Any]) -> "Flow":
    return Flow(settings, run, recipe, state)


class Flow:
    """The same run there at every start: its number is kept."""

    def __init__(self, settings: Settings, run: Run, recipe: dict[str, Any], state: dict[str, Any]):
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(settings.uri or f"sqlite:///{run.path.absolute().parent / 'mlflow.db'}")
        if "run_id" not in state:
            found = self._client.get_experiment_by_name(settings.experiment)
            number = found.experiment_id if found else self._client.create_experiment(settings.experiment)
            state["run_id"] = self._client.create_run(number, run_name=run.name).info.run_id
            params = [Param(name[:250], str(value)[:500]) for name, value in recipe.items()]
            for start in range(0, len(params), 100):
                self._client.log_batch(state["run_id"], params=params[start : start + 100])
        self._id = state["run_id"]

    def write(self, points: list[Point]) -> None:
        from mlflow.entities import Metric

        from instar.mirror import numbers

        found = [
            Metric(name, value, int(1000 * point.get("time", 0)), int(point["samples"]))
            for point in points
            for name, value in numbers(point).items()
        ]
        for start in range(0, len(found), _MOST):
            self._client.log_batch(self._id, metrics=found[start : start + _MOST])

    def close(self) -> None:
        self._client.set_terminated(self._id)
