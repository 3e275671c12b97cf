"""The notebook runs from its first cell to its last."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.processes import Started, command_line

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_steps.ipynb"


def run_command_line(words: list[str], check: bool) -> None:
    """Run `python -m asr_kd …` in a process that has imported it already."""
    assert words[:3] == [sys.executable, "-m", "asr_kd"]
    code, _, err = Started(command_line, *words[3:]).end()
    assert code == 0 or not check, err


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert all(not cell.get("outputs") for cell in cells)
    (tmp_path / "notebook.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run_command_line)
    runpy.run_path("notebook.py", run_name="__main__")
