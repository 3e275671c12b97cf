"""Child processes of Python do not import from the working folder."""

import ast
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
