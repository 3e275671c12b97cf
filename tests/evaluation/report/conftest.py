"""Reports as plain data, whose errors are known."""

import copy
import json
from typing import Any

import pytest

from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.report import Report, open_report
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system import System
from tests.helpers.evaluations import QUICK

SETTINGS = QUICK.model_copy(update={"normalizer": "librispeech"})
FACTS = RunFacts(
    seeds=(7,),
    command="asr-kd evaluate recipe.yaml",
    recipe="tiny",
    corpus="made up",
    dev_sets=("dev",),
    curves={"student-kd": [{"epoch": 1, "dev_wer": 1.2}, {"epoch": 2, "dev_wer": 0.4}]},
)
HOSTILE = "<script>window.pwned=1</script></script><img src=x onerror=pwned=1>\"' &lt; {{ 7*7 }} \u2028 ]]> <!-- %s"
"""Text that would do something wherever it were taken for more than text."""


@pytest.fixture
def three_systems(stored):
    """The teacher is nearly right; the student deletes first words, half as many with distillation."""
    wrong = {"ann-1": "two three four", "ann-2": "six", "bob-1": "eight nine ten", "bob-2": "x", "eve-1": "won two"}
    half = {"ann-1": "two three four", "eve-1": "won two"}
    slip = stored({"eve-2": "three for five six"})
    small = {"parameters": 1_000_000, "size_bytes": 4_000_000}
    return [
        System("teacher-1", "teacher", slip, parameters=4_000_000, size_bytes=16_000_000),
        System("student-hard", "student_hard", stored(wrong), **small),
        System("student-kd", "student_kd", stored(half), details={"chunk_ms": 320}, **small),
    ]


@pytest.fixture
def settings() -> EvaluationSettings:
    """Quick ones."""
    return SETTINGS


@pytest.fixture
def folder(tmp_path, utterances, three_systems):
    """A run's work_dir, evaluated."""
    evaluate_systems(
        three_systems, {"dev": utterances, "test": utterances[:4]}, SETTINGS, tmp_path / "run" / "report", FACTS
    )
    return tmp_path / "run"


@pytest.fixture
def report(folder) -> Report:
    """The same, read again."""
    return open_report(folder)


@pytest.fixture
def hostile(report) -> Report:
    """The same with hostile text in every place that holds text."""

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: spoil(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [spoil(item, key) for item in value]
        keep = key in {"role", "format", "distilled", "baseline", "teacher", "first", "second", "normalizer"}
        return value if keep or not isinstance(value, str) else f"{value} {HOSTILE}"

    summary = spoil(copy.deepcopy(dict(report.summary)))
    summary["test_sets"] = {f"{name} {HOSTILE}": found for name, found in summary["test_sets"].items()}
    summary["curves"] = {f"{name} {HOSTILE}": found for name, found in summary["curves"].items()}
    rows = spoil(json.loads(json.dumps(report.rows)))
    return Report(summary, {f"{name} {HOSTILE}": found for name, found in rows.items()})
