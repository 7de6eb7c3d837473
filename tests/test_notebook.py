"""The example notebook runs, and shows what it says."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "examples" / "first-run.ipynb"


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_its_cells_run_in_order(notebook, tmp_path):
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "EPOCHS = 3" in code
    code = (
        code.replace("EPOCHS = 3", "EPOCHS = 0.2") + "\nassert first.scores['rows'] == 180 and len(api.runs()) == 2\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "did you mean 'train.epochs'" in ended.stdout


def test_it_holds_no_outputs_of_some_machine(notebook):
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)


@pytest.mark.scenario  # starts a kernel and trains twice
@pytest.mark.filterwarnings("ignore")  # of the kernel's own
def test_it_runs_in_a_kernel_and_shows_tables(notebook, tmp_path):
    from nbclient import NotebookClient

    done = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output.data.get("text/html", "")
        for cell in done.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    assert sum("<table>" in one for one in shown) == 3
    assert any("optim.lr" in one for one in shown)
