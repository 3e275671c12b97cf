"""Model cards that the Hub's own library reads, and LaTeX rows that end where they should."""

import re

import pytest

from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.text_renderers import latex, latex_escape
from asr_kd.evaluation.report.writing import card, write_cards
from asr_kd.files import WRITTEN

hub = pytest.importorskip("huggingface_hub")


def test_the_hubs_library_reads_the_results(report):
    found = hub.ModelCard(card(report, "student_kd"))
    results = found.data.eval_results
    rates = {(item.dataset_split, item.metric_type): item.metric_value for item in results}
    assert rates == {
        (name, metric): round(100 * row["student_kd"][metric], 2)
        for name, row in report.sets.items()
        for metric in ("wer", "cer")
    }
    assert found.data.model_name == "student-kd"
    assert found.data.pipeline_tag == "automatic-speech-recognition"
    assert "knowledge-distillation" in found.data.tags
    assert {item.dataset_name for item in results} == {"made up dev", "made up test"}
    assert re.fullmatch(r"[\w.-]+", results[0].dataset_type)


def test_hostile_text_ends_no_front_matter(hostile):
    text = card(hostile, "student_kd")
    found = hub.ModelCard(text)
    assert found.data.model_name == hostile.name("student_kd")
    assert found.data.to_dict()["model-index"][0]["name"] == hostile.name("student_kd")
    assert "<script>" not in found.text
    assert "<img" not in found.text


def test_only_students_that_stream_have_a_card(report, tmp_path):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / WRITTEN).write_text("old.md\n")
    (tmp_path / "cards" / "old.md").write_text("of a run before")
    write_cards(report, tmp_path / "cards")
    assert [path.name for path in (tmp_path / "cards").glob("*.md")] == ["student-kd.md"]


def test_latex_has_a_row_a_system(report):
    rows = [
        line for line in latex(assemble(report)).splitlines() if line.endswith(r"\\") and "&" in line and line[0] != "%"
    ]
    assert len(rows) == 6
    assert {row.count("&") for row in rows} == {12}
    assert rows[0].startswith(r"teacher-1 & ")
    assert " & 4.00 M & 16.0 MB & " in rows[0]


def test_latex_takes_text_as_text(hostile):
    assert latex_escape("a_b & 5 % \\ {x} ~ # $ ^ |") == (
        r"a\_b \& 5 \% \textbackslash{} \{x\} \textasciitilde{} \# \$ \textasciicircum{} \textbar{}"
    )
    assert latex_escape("one\n\ntwo") == "one two"
    for line in latex(assemble(hostile)).splitlines():
        if not line.startswith("%"):
            assert not re.search(r"(?<!\\)[#$_~^]", line)
            assert "{{" not in line
