"""The whole way: our launcher, ranks that import torch and meet, and a fault in one of them.

Slow (each imports torch twice), so `make scenarios` runs it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.scenario

RANK = """
import os, sys, time
from instar.engine import deadline
from instar.engine.ranks import place, reports
deadline.install()
here = place.here()
import torch
from pathlib import Path
from instar.engine.ranks import world as worlds
from instar.engine.ranks.watchdog import Watchdog
from instar.errors import Again

folder, what = Path(sys.argv[1]), sys.argv[2]
world = worlds.join(here, folder=folder)
try:
    with Watchdog(world, patience=2.0) as watchdog:
        for step in range(10_000):
            watchdog.at(step, "step")
            if world.agree([float(deadline.received() is not None)])[0]:
                raise Again("told to stop")
            if step == 10:
                (folder / f"running.{world.rank}").write_text(str(os.getpid()))
            if step == 30 and what == "short":
                break
            if step == 20 and what == "raise" and world.rank == 1:
                raise ValueError("the pixel is missing")
            time.sleep(0.01)
except Again as error:
    reports.tell(reports.of(error, world.rank))
    world.leave(75)
(folder / f"left.{world.rank}").write_text(f"{here.source} {world.rank} {world.size} {world.local_rank}")
world.leave(0)
"""
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("INSTAR_", "SLURM_"))}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", sys.executable]


class Launched:
    def __init__(self, folder: Path, what: str):
        script = folder / "a rank.py"
        script.write_text(RANK)
        self.folder = folder / "run"
        self.folder.mkdir()
        code = "import sys; from instar.engine.ranks import launch; n, *command = sys.argv[1:]\n"
        code += "sys.exit(launch.ranks([], int(n), command=command))"
        self.launcher = subprocess.Popen(
            [sys.executable, "-c", code, "2", sys.executable, str(script), str(self.folder), what],
            env=CLEAN,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pids(self) -> list[int]:
        """The ranks, once both are training."""
        files = [self.folder / f"running.{rank}" for rank in range(2)]
        end = time.monotonic() + 90
        while not all(file.exists() and file.read_text() for file in files):
            assert time.monotonic() < end and self.launcher.poll() is None, "the ranks did not begin to train"
            time.sleep(0.05)
        return [int(file.read_text()) for file in files]

    def end(self, seconds: float) -> tuple[int, str]:
        _, err = self.launcher.communicate(timeout=seconds)
        return self.launcher.returncode, err


@pytest.fixture
def begin(tmp_path: Path):
    started: list[Launched] = []

    def start(what: str) -> Launched:
        started.append(Launched(tmp_path, what))
        return started[-1]

    yield start
    for each in started:
        each.launcher.kill()
        each.launcher.communicate()


def test_one_rank_raises_and_one_traceback_is_printed(begin) -> None:
    launched = begin("raise")
    launched.pids()
    code, err = launched.end(12)
    assert code == 1 and err.count("Traceback") == 1
    assert "ValueError: the pixel is missing\ninstar: rank 1 of 2 on " in err


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(("number", "text"), [(signal.SIGKILL, "ended"), (signal.SIGSTOP, "")], ids=["kill", "stop"])
def test_a_rank_that_is_gone_is_named_and_the_run_can_carry_on(begin, victim: int, number: int, text: str) -> None:
    launched = begin("")
    pids = launched.pids()
    os.kill(pids[victim], number)
    code, err = launched.end(8)
    assert code == 75 and "Traceback" not in err
    assert f"instar: rank {victim} of 2 on " in err and f"process {pids[victim]}" in err and text in err
    assert err.count("\n") == 1


def test_a_signal_to_the_launcher_stops_all_ranks_at_the_same_step(begin) -> None:
    launched = begin("")
    launched.pids()
    launched.launcher.send_signal(signal.SIGTERM)
    assert launched.end(10) == (75, "stopped  told to stop\n")


def test_a_signal_to_one_rank_only_stops_all_of_them(begin) -> None:
    launched = begin("")
    os.kill(launched.pids()[1], signal.SIGUSR1)
    assert launched.end(10) == (75, "stopped  told to stop\n")


def test_nothing_survives_a_killed_launcher(begin) -> None:
    launched = begin("")
    pids = launched.pids()
    launched.launcher.kill()
    end = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end, "a rank is still there"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("launcher", "name"), [(TORCHRUN, "torchrun"), (MPIRUN, "openmpi")], ids=["torchrun", "mpirun"]
)
def test_what_another_launcher_started_is_joined(tmp_path: Path, launcher: list[str], name: str) -> None:
    if shutil.which(launcher[0]) is None:
        pytest.skip(f"{launcher[0]} is not installed")
    script, folder = tmp_path / "a rank.py", tmp_path / "run"
    script.write_text(RANK)
    folder.mkdir()
    done = subprocess.run([*launcher, str(script), str(folder), "short"], env=CLEAN, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert [(folder / f"left.{rank}").read_text() for rank in range(2)] == [f"{name} 0 2 0", f"{name} 1 2 1"]
