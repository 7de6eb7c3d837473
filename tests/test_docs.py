"""The documentation is true: its code runs, its links lead somewhere, and it names no machine of ours."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.images import folder_of_images
from tests.fakes.training import train

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.md")),
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_plugins_of_the_how_to_train_a_model(tmp_path, monkeypatch):
    model, reader, task, _ = blocks(ROOT / "docs" / "how-to" / "add-a-plug-in.md", "python")
    for shelf, name, code in (
        ("models", "two_layers", model),
        ("readers", "squares", reader),
        ("tasks", "margin", task),
    ):
        file = tmp_path / "mylab" / shelf / f"{name}.py"
        file.parent.mkdir(parents=True)
        file.write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = train(
        tmp_path,
        root=folder_of_images(tmp_path / "images", classes=2),
        data__reader={"kind": "mylab.readers.squares"},
        model={"kind": "mylab.models.two_layers", "width": 4},
        task={"kind": "mylab.tasks.margin"},
        augment={"kind": "none", "size": 16},
        train__epochs=8,
        optim__lr=0.05,
    )
    assert outcome.state == "finished"
    assert outcome.best["value"] == 1.0
    for name in [name for name in sys.modules if name.startswith("mylab")]:
        del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        made = target.removeprefix("../").startswith("reference/")  # with the site, whose build checks it
        assert made or (page.parent / target).exists(), f"{page}: {target} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_pages_name_are_there(page):
    for name in re.findall(
        r"`((?:instar|tests|benchmarks|recipes|docs)/[\w/.-]+\.(?:py|md|yaml))`", page.read_text(encoding="utf-8")
    ):
        assert (ROOT / name).exists(), f"{page}: {name} does not exist"


@pytest.mark.scenario  # trains three times in processes of their own
def test_the_contract_tests_of_the_how_to_pass(tmp_path):
    *plugins, tests = blocks(ROOT / "docs" / "how-to" / "add-a-plug-in.md", "python")
    for name, code in zip(("models/two_layers", "readers/squares", "tasks/margin"), plugins, strict=True):
        file = tmp_path / "mylab" / f"{name}.py"
        file.parent.mkdir(parents=True)
        file.write_text(code, encoding="utf-8")
    (tmp_path / "test_mylab.py").write_text(tests, encoding="utf-8")
    environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "test_mylab.py")]
    ended = subprocess.run(line, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "3 passed" in ended.stdout, ended.stdout
