"""The notebooks of docs/notebooks run, and show the progress of a search without widgets or standard error."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the kernel, about its own transport
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
@pytest.mark.slow
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    saved = [[output.output_type for output in cell.get("outputs", [])] for cell in notebook.cells]
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}, coalesce_streams=True
    ).execute()  # raises for a cell that does
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert [[output.output_type for output in cell.get("outputs", [])] for cell in notebook.cells] == saved, (
        "other outputs than those in the file: python scripts/notebooks.py"
    )
    if path.stem == "search":
        text = "".join(output["text"] for output in outputs if output.output_type == "stream")
        assert len(re.findall(r"^\d\d:\d\d:\d\d epoch \d/6  train", text, re.M)) == 6
        [bar] = [output for output in outputs if output.output_type == "display_data"]
        assert bar.data == {"text/plain": ""}, "the bar is left behind"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_what_is_saved_is_small_and_of_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert not re.search(r"/(work|home|root|tmp|usr)/|Traceback", text)
    cells = json.loads(text)["cells"]
    assert all(
        cell["outputs"] or cell["source"][0].startswith("import") for cell in cells if cell["cell_type"] == "code"
    )
