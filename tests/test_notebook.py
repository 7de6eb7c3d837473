"""The example notebook runs from top to bottom."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "examples" / "first.ipynb"


@pytest.mark.scenario  # a kernel of its own, and two trainings
@pytest.mark.filterwarnings("ignore")
def test_the_example_notebook_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    mean = notebook.cells[-1].outputs[-1]["data"]["text/plain"]
    assert 0.5 < float(mean.strip("()").split(",")[0]) <= 1
