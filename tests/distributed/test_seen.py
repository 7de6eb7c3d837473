"""What was seen of each class is the same count whether one process trains or two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.images import folder_of_images

pytestmark = pytest.mark.scenario  # imports torch five times


def seen(folder: Path, root: Path, devices: int) -> list[list[int]]:
    changes = ["model=resnet9", "task.balance=oversample", "epochs=2", "batch=8", "size=8", "workers=0", "device=cpu"]
    command = [sys.executable, "-m", "instar", "train", str(root), f"devices={devices}", *changes, "--quiet"]
    subprocess.run([*command, f"run=run {devices}", f"runs={folder}"], check=True, timeout=300)
    lines = (folder / f"run {devices}" / "metrics.jsonl").read_text().splitlines()
    return [line["seen"] for line in map(json.loads, lines) if line["kind"] == "val"]


def test_two_processes_see_of_each_class_what_one_does(tmp_path):
    root = folder_of_images(tmp_path / "data", classes=3, each=24)
    for number in range(6, 24):
        (root / "class 2's" / f"{number:04d}.png").unlink()
    one, two = seen(tmp_path, root, 1), seen(tmp_path, root, 2)
    assert one == two
    assert max(map(sum, zip(*one, strict=True))) - min(map(sum, zip(*one, strict=True))) <= 8
