"""The site of the documentation builds without a warning, has every page in its tree, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from instar import plugins
from instar.cli import VERBS

pytestmark = pytest.mark.scenario  # mkdocs takes ten seconds

ROOT = Path(__file__).parent.parent.parent


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(folder)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def test_every_page_and_every_setting_is_in_the_site_and_nothing_comes_from_elsewhere(tmp_path):
    built = build(tmp_path / "site")
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    for page in (ROOT / "docs").rglob("*.md"):
        assert (tmp_path / "site" / page.relative_to(ROOT / "docs").with_suffix(".html")).exists(), page
    landing = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[^>]*https?://", landing)
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in commands for name in VERBS)
    settings = (tmp_path / "site" / "reference" / "settings.html").read_text(encoding="utf-8")
    assert all(f'id="model-{kind}"' in settings for kind in plugins.kinds("models"))
    assert "label_smoothing" in settings
    style = (tmp_path / "site" / "_site.css").read_text(encoding="utf-8")
    assert "--accent: #1d5f86" in style and "--accent: #79b4da" in style  # those of the run page, light and dark


def test_a_page_that_loads_from_another_host_and_a_link_that_leads_nowhere_are_mistakes(tmp_path):
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    bad = ROOT / "build" / "bad.yml"
    bad.parent.mkdir(exist_ok=True)
    config = config.replace("docs_dir: docs", f"docs_dir: {ROOT / 'docs'}").replace(
        "font: false", "font: {text: Roboto}"
    )
    config = config.replace("docs/_build", f"{ROOT}/docs/_build").replace("paths: [.]", f"paths: [{ROOT}]")
    bad.write_text(config, encoding="utf-8")
    built = build(tmp_path / "site", bad)
    assert (
        built.returncode != 0 and "would load from elsewhere" in built.stderr and "fonts.googleapis.com" in built.stderr
    )
