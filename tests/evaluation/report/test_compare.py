"""Runs side by side: what is refused, what differs, and how it is written."""

import copy
import json
import shutil

import pytest
from typer.testing import CliRunner

from asr_kd.cli import app
from asr_kd.errors import EvaluationError
from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.report import Report
from asr_kd.evaluation.report.compare_report import comparison_document
from asr_kd.evaluation.report.compare_runs import compare_runs, open_runs
from asr_kd.evaluation.report.page import render
from asr_kd.evaluation.report.text_renderers import markdown
from asr_kd.evaluation.system import System


@pytest.fixture
def other(tmp_path, utterances, stored, settings):
    """A run whose student-kd is right."""
    systems = [System("teacher-1", "teacher", stored()), System("student-kd", "student_kd", stored())]
    evaluate_systems(systems, {"dev": utterances}, settings, tmp_path / "better" / "report")
    return tmp_path / "better"


def test_the_same_system_is_compared_with_that_of_the_first_run(folder, other):
    found = compare_runs(open_runs([folder, other]), samples=200)
    rows = {(row["run"], row["key"]): row for row in found["sets"]["dev"]}
    assert list(found["runs"]) == ["run", "better"]
    assert [key for run, key in rows if run == "run"] == ["teacher", "student_hard", "student_kd"]
    assert [key for run, key in rows if run == "better"] == ["teacher", "student_kd"]
    assert "difference" not in rows["run", "student_kd"]
    difference = rows["better", "student_kd"]["difference"]
    assert difference["wer"] == pytest.approx(-2 / 16)
    assert difference["low"] <= difference["wer"] <= difference["high"] <= 0
    assert {row["run"] for row in found["sets"]["test"]} == {"run"}  # the other has no such set


def test_results_alone_have_differences_without_interval(folder, other, tmp_path):
    (tmp_path / "alone").mkdir()
    shutil.copy(other / "report" / "results.json", tmp_path / "alone" / "results.json")
    found = compare_runs(open_runs([folder, tmp_path / "alone" / "results.json"]), samples=200)
    row = next(row for row in found["sets"]["dev"] if row["run"] == "alone" and row["key"] == "student_kd")
    assert (row["difference"]["low"], row["difference_reason"]) == (None, "hypotheses were not kept: no interval")


def test_other_normalizers_are_refused_by_name(report):
    changed = Report(
        {**report.summary, "provenance": {**report.summary["provenance"], "normalizer": "none"}}, report.rows
    )
    with pytest.raises(EvaluationError, match=r"different normalizers \(one: librispeech, two: none\)"):
        compare_runs({"one": report, "two": changed})


def test_sets_with_other_references_are_refused_by_name(report):
    rows = copy.deepcopy(report.rows)
    for found in rows["dev"].values():
        found[1]["reference"] += " MORE"
    summary = copy.deepcopy(dict(report.summary))
    summary["test_sets"]["dev"]["references_sha256"] = "other"
    message = r"^dev: one and two were scored on different references \(1 utterances, for example ann-2\);"
    with pytest.raises(EvaluationError, match=message):
        compare_runs({"one": report, "two": Report(summary, rows)})


def test_runs_without_a_set_in_common_are_refused(report):
    only = [Report({**report.summary, "test_sets": {name: report.sets[name]}}) for name in ("dev", "test")]
    with pytest.raises(EvaluationError, match=r"no test set in common \(one: dev; two: test\)"):
        compare_runs(dict(zip(("one", "two"), only, strict=True)))


def test_names_of_runs_are_unique(folder, other, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere" / "run")
    runs = open_runs([folder, tmp_path / "elsewhere" / "run" / "report"])
    assert list(runs) == [f"{tmp_path.name}/run", "elsewhere/run"]
    with pytest.raises(EvaluationError, match="is named twice"):
        open_runs([folder, folder / "report" / "results.json"])
    with pytest.raises(EvaluationError, match="at least two"):
        open_runs([folder])
    with pytest.raises(EvaluationError, match=r"has no report; expected .*itself\. Run the evaluate stage"):
        open_runs([folder, tmp_path])


def test_hostile_text_stays_text(report, hostile):
    found = compare_runs({"<script>run": hostile, "two": hostile}, samples=200)
    text = render(comparison_document(found))
    assert text.count("<script") == render(
        comparison_document(compare_runs({"one": report, "two": report}, samples=200))
    ).count("<script")
    assert "<img src" not in text
    assert "<img src" not in markdown(comparison_document(found))


def test_the_command_prints_and_writes(folder, other, tmp_path):
    done = CliRunner().invoke(
        app, ["compare", str(folder), str(other), "--out", str(tmp_path / "out"), "--samples", "200"]
    )
    assert done.exit_code == 0, done.output
    assert "student-kd" in done.output
    assert "-12.50" in done.output.replace("−", "-")
    assert sorted(path.name for path in (tmp_path / "out").glob("c*")) == ["compare.html", "compare.json", "compare.md"]
    stored = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert (stored["format"], stored["normalizer"]) == ("asr-kd comparison", "librispeech")
    assert "| better | student-kd | 0.00 |" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
