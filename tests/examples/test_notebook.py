"""The notebook of the examples runs from top to bottom, and holds no output of anybody's machine."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from tests.client.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "notebook" / "first_audit.ipynb"


def test_it_is_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's own packages
def test_it_runs_and_shows_what_it_says() -> None:
    notebook = NotebookClient(nbformat.read(NOTEBOOK, as_version=4), timeout=240).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output.data for output in outputs if "data" in output]
    words = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "✗ race must not matter to approval: Race changes the score of approval by" in words
    assert [data["text/plain"] for data in shown if data["text/plain"] in ("True", "False")] == ["False"]
    assert any("image/png" in data for data in shown)
    assert shown[-1]["text/html"].startswith("<iframe sandbox ")
