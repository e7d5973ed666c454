"""The notebook runs from start to end in a real kernel, shows images, and holds the output of such a run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"
MOST_BYTES = 1_500_000


def shown(notebook: nbformat.NotebookNode) -> list[set[str]]:
    """The kinds of what each code cell shows as its result."""
    return [
        {kind for output in cell.outputs for kind in output.get("data", {})}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_is_kept_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    kept = nbformat.read(NOTEBOOK, as_version=4)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kernel = tmp_path / "jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    # The Python that runs the tests, whatever kernels are installed elsewhere.
    command = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernel / "kernel.json").write_text(f'{{"argv": {command}, "display_name": "Python 3", "language": "python"}}')
    (tmp_path / "here").mkdir()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "here")}}).execute()
    assert shown(notebook) == shown(kept)
    everything = set().union(*shown(notebook))
    assert {"image/jpeg", "text/html"} <= everything
    assert (tmp_path / "here/work/notebook/records/tiny/report.html").is_file()
    shutil.rmtree(tmp_path / "here")


def test_the_kept_output_is_whole_and_small_and_names_no_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    assert '"output_type": "error"' not in text
    assert "\\u001b" not in text  # plain lines, not the states of a bar in a terminal
    for folder in ("home", "root"):
        assert f"/{folder}/" not in text
