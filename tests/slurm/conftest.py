"""A real Slurm for the whole session, and a folder with images, a recipe and a site that uses it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from instar.run import Run
from tests.fakes.images import folder_of_images
from tests.fakes.searches import recipe

CLUSTER = Path(__file__).with_name("cluster.sh")
ROOT = Path(__file__).parents[2]
RECIPE = recipe('{epochs: 200, batch: 16, every: "160 samples", evaluate: "20 epochs"}')
SITE = """\
scheduler: slurm
partition: day
cores: 4
memory: 3000M
longest: 10 min
again: requeue
lead: 45 s
environment: {OMP_NUM_THREADS: "1"}
"""


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands reach the cluster."""
    if os.geteuid() != 0 or (shutil.which("apt-get") is None and shutil.which("slurmctld") is None):
        pytest.skip("a Slurm of our own needs root and Debian's packages")
    folder = Path(os.environ.get("INSTAR_SLURM", "/var/lib/instar-slurm"))
    environment = {**os.environ, "INSTAR_SLURM": str(folder), "SLURM_CONF": str(folder / "slurm.conf")}
    environment["PYTHONPATH"] = str(ROOT)
    environment["OMP_NUM_THREADS"] = "1"  # sums of another number of threads are other sums
    environment["PATH"] = f"{CLUSTER.parent}:{environment['PATH']}"  # where `apptainer` is
    subprocess.run([CLUSTER, "start"], check=True, env=environment)
    yield environment
    subprocess.run([CLUSTER, "stop"], check=False, env=environment)


@dataclass(frozen=True)
class Home:
    """A user's folder on the cluster."""

    folder: Path
    environ: dict[str, str]
    words: tuple[str, ...] = field(default=("workers=0", "device=cpu", "--on", "./here.yaml"))

    def instar(self, *words: str, code: int | None = 0) -> str:
        """What a command prints; fails where it ends otherwise than with `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "instar", *words],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert code is None or done.returncode == code, (
            f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout + done.stderr

    def call(self, *words: str, code: int | None = 0) -> str:
        """The same with a command of Slurm's."""
        done = subprocess.run(words, cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False)
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, name: str, *words: str) -> Run:
        """Submit the training of the recipe as a run of this name."""
        self.instar("submit", "train", "recipe.yaml", f"run={name}", *words, *self.words)
        return self.run(name)

    def run(self, name: str) -> Run:
        return Run(self.folder / "runs" / name)

    def number(self, name: str) -> str:
        """The number of the newest job of a run."""
        return max((self.folder / "runs" / name / "jobs").glob("*/ids")).read_text().split()[-1]

    def log(self, name: str) -> str:
        return "".join(log.read_text() for log in sorted((self.folder / "runs" / name / "jobs").glob("*/log*.txt")))

    def cluster(self, *words: str) -> None:
        subprocess.run([CLUSTER, *words], check=True, env=self.environ)


@pytest.fixture
def home(slurm, tmp_path) -> Iterator[Home]:
    images = folder_of_images(tmp_path / "my 'images'", classes=3, each=40)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("IMAGES", str(images)))
    (tmp_path / "here.yaml").write_text(SITE)
    at = Home(tmp_path, slurm)
    yield at
    left = at.call("squeue", "--noheader", "--format=%A").split()
    if left:
        at.call("scancel", *left, code=None)
        until(lambda: not at.call("squeue", "--noheader").strip(), 30, "the queue is empty")


def until(true: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something to become true; fails with what was awaited."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def happened(run: Run, event: str) -> int:
    """How often something happened to a run."""
    return sum(line["event"] == event for line in run.events())
