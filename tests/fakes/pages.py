"""Commands of a page, typed as a reader would."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.fakes.processes import ROOT


def typed(command: str, folder: Path, *, patience: float) -> str:
    """What a command prints in a folder; fails where it does not end well. patience: seconds."""
    name, *words = shlex.split(command)
    assert name == "instar"
    done = subprocess.run(
        [sys.executable, "-m", "instar", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=patience,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
