"""A training with every tracker, killed with -9 and resumed: one curve in each, and no secret in any file."""

import os
import signal
import sys

import pytest

from instar import plugins
from tests.fakes.processes import command
from tests.faults.test_processes import SECRETS
from tests.shelves.test_trackers import check_curves

pytestmark = [
    pytest.mark.scenario,  # loads MLflow and W&B three times
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
    pytest.mark.filterwarnings("ignore"),
]


def test_killed_and_resumed_every_tracker_has_the_curve_once_and_no_secret(tmp_path):
    canary = "canary-55c1"
    secrets = {name: f"{canary} {name}" for name in SECRETS}
    with command(tmp_path, run="runs/it is $(a) run", train__epochs=6, track=plugins.kinds("trackers")) as it:
        killed = it.go(fault="step.end:14:kill", **secrets)
        assert killed.code == -signal.SIGKILL
        stopped = it.go(fault="step.end:9:term", **secrets)
        assert stopped.code == 75, stopped.output
        done = it.go(**secrets)
        assert done.code == 0, done.output
        assert not it.left()
        for kind in plugins.kinds("trackers"):
            assert f"track    {kind}: " in done.output, done.output
            check_curves(kind, it.run)
        files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
        assert len(files) > 25
        for file in files:
            assert canary.encode() not in file.read_bytes(), file
        assert canary not in done.output
        assert os.path.commonpath(files) == str(tmp_path / "runs")
