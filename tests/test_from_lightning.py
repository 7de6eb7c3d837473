"""The page that moves a Lightning project over is true: its files are written, its commands run."""

import re

import pytest

from tests.fakes.pages import typed
from tests.fakes.processes import ROOT

PAGE = (ROOT / "docs" / "how-to" / "from-lightning.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.scenario  # a dozen commands, and each training imports Lightning
def test_the_page_works_by_copy_and_paste(tmp_path):
    (module,), (recipe, model, composed, starter) = blocks("python"), blocks("yaml")
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "wide.yaml").write_text(model, encoding="utf-8")
    (tmp_path / "configs" / "instar.yaml").write_text(composed, encoding="utf-8")
    (tmp_path / "my" / "models").mkdir(parents=True)
    (tmp_path / "my" / "models" / "baseline.py").write_text(module, encoding="utf-8")
    (tmp_path / "baseline.yaml").write_text(recipe, encoding="utf-8")
    (tmp_path / "starter.yaml").write_text(starter, encoding="utf-8")
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) == 12
    told = ""
    for command in commands:
        told += typed(command, tmp_path, patience=300)
    assert "Neptune's service was shut down" in told
    assert "task.definition" in told and '"Wider"' in told
    assert list((tmp_path / "runs" / "first" / "trackers" / "tensorboard").glob("events.*"))
