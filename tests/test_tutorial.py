"""The first tutorial is true: its commands run one after the other, and say what the page says they do."""

import re

import pytest

from instar import demo
from tests.fakes.pages import typed
from tests.fakes.processes import ROOT

PAGE = (ROOT / "docs" / "tutorial-first-model.md").read_text(encoding="utf-8")


@pytest.mark.scenario  # three trainings, maps and an export
def test_the_page_works_by_copy_and_paste(tmp_path):
    pytest.importorskip("onnxruntime")
    demo.prepare(tmp_path / "instar-demo")
    commands = [block.strip() for block in re.findall(r"```bash\n(instar .*?)```", PAGE, re.DOTALL)]
    assert len(commands) == 11
    told = {}
    for command in commands:
        told[command] = typed(command, tmp_path, patience=500)
    same_everywhere = ("instar check instar-demo/digits", "instar config diff first wider")
    for command in same_everywhere:
        block = PAGE.partition(f"{command}\n```\n\n```\n")[2].partition("```")[0]
        shown = [line for line in block.splitlines() if line.strip() != "…"]
        assert shown == [line for line in told[command].splitlines() if line in shown]
