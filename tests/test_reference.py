"""docs/reference/ names every recipe key and every command, and nothing else: it is written from the code."""

import importlib.util
from types import ModuleType

import pytest

from tests.test_house import ROOT


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_reference_is_current(generator):
    assert len(generator.sections()) >= 10
    for path, text in generator.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run: {generator.COMMAND}"


def test_every_key_and_parameter_has_a_meaning(generator):
    rows = [line for text in generator.pages().values() for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row for row in rows if row.endswith("|  |")] == [], "write a string below each of these fields"
