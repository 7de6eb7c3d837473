"""Real `instar tune` processes on made-up images: started, waited for, and looked for when they should have gone."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from instar.study import Study
from tests.fakes.images import folder_of_images
from tests.fakes.processes import NOT_OURS, ROOT


def recipe(train: str) -> str:
    """A small network on IMAGES, trained as `train` says."""
    return f"""\
seed: 3
data: {{root: "IMAGES", split: {{test: 0.1, val: 0.2}}}}
model: {{kind: resnet9, width: 4}}
augment: {{kind: standard, size: 8}}
optim: {{kind: adamw, lr: 0.003}}
train: {train}
"""


RECIPE = recipe("{epochs: 4, batch: 16, every: 16 samples}")
SPACE = (
    "optim.lr=loguniform(1e-5,1e-1)",
    "task.balance=choice(none,oversample)",
    "optim.weight_decay=loguniform(1e-6,1e-1)",
)
HOW = ("samples=8", "startup=3", "workers=0", "device=cpu", "parallel=1")


def home(folder: Path, *, images: Path | None = None) -> Path:
    """A folder with a recipe and its images, made up unless there are some."""
    own = folder / "some 'images'"
    if images is None:
        folder_of_images(own, classes=3, each=40)
    else:
        own.symlink_to(images)
    (folder / "recipe.yaml").write_text(RECIPE.replace("IMAGES", str(own)))
    return folder


def started(home: Path, *words: str, **environ: str) -> subprocess.Popen:
    """`instar tune WORDS`, there."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    return subprocess.Popen(
        [sys.executable, "-m", "instar", "tune", *words],
        cwd=home,
        env={**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def searched(home: Path, *words: str, code: int = 0, **environ: str) -> str:
    """What `instar tune WORDS` printed until it ended with this code."""
    process = started(home, *words, **environ)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == code, said
    return said


def until(true: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until it is true, but not for ever."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)


def trials(home: Path, name: str) -> list[dict]:
    """All that a study found, without times and hosts."""
    kept = ("trial", "state", "value", "settings", "curve", "reason")
    found = Study(home / "runs" / name).summary()["trials"]
    return [{key: one.get(key) for key in kept} for one in found]


def processes(home: Path) -> dict[int, str]:
    """Command lines of processes that work in this home, by their numbers."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(home) in str((entry / "cwd").readlink()):
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def orphans(home: Path) -> list[str]:
    """Command lines of processes that work in this home."""
    return list(processes(home).values())
