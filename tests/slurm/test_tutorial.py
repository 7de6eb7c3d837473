"""The tutorial works by copy and paste: its commands, in its order, in one shell."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from instar import demo
from tests.slurm.conftest import until

pytestmark = pytest.mark.slurm
PAGE = Path(__file__).parents[2] / "docs" / "tutorial-cluster.md"


def test_the_commands_of_the_tutorial_do_what_it_says(home):
    commands = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    typed = [command for command in commands if "cluster.sh" not in command and not command.startswith("source ")]
    assert len(typed) == 10 and len(commands) == 13
    made = demo.prepare(home.folder / "instar-demo")
    assert made.recipe == home.folder / "instar-demo" / "digits.yaml"
    said = []
    for command in typed:
        if "instar stop" in command:
            until(lambda: list(home.run("first").checkpoints.glob("samples-*[1-9]*")), 90, "it has saved something")
        # A whole training takes minutes; the words are the same.
        command = command.replace("train.epochs=150", "train.epochs=12").replace(
            "time=20min", "time=20min train.every='2 s'"
        )
        shell = f'instar() {{ {shlex.quote(sys.executable)} -m instar "$@"; }}\n{command}'
        done = subprocess.run(["bash", "-c", shell], cwd=home.folder, env=home.environ, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
        if "instar stop" in command:
            until(lambda: home.run("first").status()["state"] == "stopped", 60, "it has stopped")
    page = PAGE.read_text(encoding="utf-8")
    assert "ok       gpus: 2 fake a node in day" in said[1] and said[1].strip() in page, said[1]
    assert "#SBATCH --nodes=2" in said[2] and "queued   job" in said[3]
    until(lambda: home.run("first").status()["state"] == "done", 200, f"the first is done\n{home.log('first')}")
    runs = [home.run(f"seeds/{number:04}") for number in range(4)]
    until(lambda: all(run.status()["state"] == "done" for run in runs), 200, f"the seeds are done\n{home.log('seeds')}")
    assert {json.loads(run.plan_file.read_text())["seed"] for run in runs} == {0, 1, 2, 3}
