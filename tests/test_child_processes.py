"""Child processes of Python do not import from the working folder."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAFE = ("-P", "-I")


@pytest.mark.parametrize("folder", ["asr_kd", "benchmarks", "recipes"])
def test_every_child_starts_with_a_safe_path(folder):
    """Without -P, `python -m` and `python -c` import a torch.py that lies in the working folder."""
    unsafe = []
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable":
                second = node.elts[1]
                if not (isinstance(second, ast.Constant) and second.value in SAFE):
                    unsafe.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert unsafe == []


def test_the_child_that_measures_memory_ignores_a_module_in_the_working_folder(tmp_path):
    from asr_kd.evaluation import cost_measures

    (tmp_path / "torch.py").write_text("raise SystemExit('the module of the working folder ran')")
    command = [sys.executable, "-P", "-m", cost_measures.__name__]
    done = subprocess.run(command, input="{}", cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert "of the working folder" not in done.stderr
    unsafe = subprocess.run([sys.executable, "-m", cost_measures.__name__], input="{}", cwd=tmp_path,
                            capture_output=True, text=True, timeout=600, check=False)  # fmt: skip
    assert "of the working folder" in unsafe.stderr
