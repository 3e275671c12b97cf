"""What the report's files hold, on recognizers whose errors are known."""

import json

import pytest

from asr_kd.errors import AsrKdError, EvaluationError
from asr_kd.evaluation import cells
from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.report import Report, open_report, read_results
from asr_kd.evaluation.report.assemble import SYNTHETIC_NOTICE, assemble
from asr_kd.evaluation.report.text_renderers import markdown, terminal_table
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.system import System
from tests.helpers.evaluations import QUICK, printed

SETTINGS = QUICK.model_copy(update={"normalizer": "librispeech"})
FACTS = RunFacts(
    synthetic=True, seeds=(7,), absent_sets={"test": "its files are not here"}, command="asr-kd evaluate recipe.yaml"
)
SYSTEM_KEYS = {
    "name", "wer", "wer_low", "wer_high", "wer_low_speakers", "wer_high_speakers", "substitutions", "deletions",
    "insertions", "words", "cer", "characters", "utterances", "seconds",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, utterances, stored):
    """A report of three systems, where KD recovers half of what the student lacks."""
    every_first = {utterance.id: (utterance.text or "x").split(" ", 1)[-1] for utterance in utterances}
    half = {key: text for key, text in every_first.items() if key.endswith("1")}
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(1_234_000))
    systems = [
        System("own", "other", stored(half)),
        System("student-kd", "student_kd", stored(half), details={"chunk_ms": 320}),
        System("student-hard", "student_hard", stored(every_first), parameters=1_020_000),
        System("teacher-1", "teacher", stored(), weights=weights, details={"chunk_ms": None}),
    ]
    evaluate_systems(systems, {"dev": utterances}, SETTINGS, tmp_path / "report", FACTS)
    return tmp_path / "report"


def test_results_json_has_the_agreed_form(folder):
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = results["test_sets"]["dev"]
    assert list(found)[:4] == ["teacher", "student_hard", "student_kd", "own"]
    for key in ("teacher", "student_hard", "student_kd", "own"):
        assert set(found[key]) >= SYSTEM_KEYS
        assert found[key]["wer_low"] <= found[key]["wer"] <= found[key]["wer_high"]
    assert found["student_hard"]["wer"] == 6 / 16  # a fraction, 5 deletions and 1 insertion on 16 words
    assert [found["student_hard"][name] for name in ("substitutions", "deletions", "insertions")] == [0, 5, 1]
    assert found["gap_recovered"] == pytest.approx(3 / 6)
    assert found["gap_recovered_low"] <= 0.5 <= found["gap_recovered_high"]
    assert (found["utterances"], found["speakers"], found["excluded"]) == (6, 3, [])
    assert found["resampled_by"] == "speakers"
    assert results["test_sets"]["test"] == {"skipped": "its files are not here"}
    assert results["models"]["student_kd"]["chunk_ms"] == 320
    assert results["models"]["student_hard"]["parameters"] == 1_020_000
    assert results["models"]["teacher"]["size_bytes"] == 1_234_000
    assert set(results["models"]) == {"teacher", "student_hard", "student_kd", "own"}


def test_results_json_has_its_provenance(folder):
    facts = read_results(folder)["provenance"]
    assert (facts["normalizer"], facts["synthetic"], facts["seeds"]) == ("librispeech", True, [7])
    assert facts["command"] == "asr-kd evaluate recipe.yaml"
    assert facts["date"].startswith("20")
    assert facts["date"].endswith("+00:00")
    assert facts["machine"]["cpu"]
    assert facts["machine"]["cpus"] >= 1
    assert {"python", "asr-kd", "torch", "jiwer"} <= set(facts["versions"])
    assert set(facts) >= {"git_commit", "bootstrap"}


def test_hypotheses_are_written_as_they_were_scored(folder):
    assert sorted(path.name for path in (folder / "hypotheses" / "dev").iterdir()) == [
        "own.jsonl", "student-hard.jsonl", "student-kd.jsonl", "teacher.jsonl",
    ]  # fmt: skip
    lines = (folder / "hypotheses" / "dev" / "student-kd.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == ["ann-1", "ann-2", "bob-1", "bob-2", "eve-1", "eve-2"]
    assert rows[0] == {
        "id": "ann-1",
        "speaker": "ann",
        "reference": "ONE TWO THREE FOUR",
        "hypothesis": "TWO THREE FOUR",
        "errors": {"substitutions": 0, "deletions": 1, "insertions": 0, "words": 4},
        "raw_reference": "one two three four",
        "raw_hypothesis": "two three four",
    }
    assert "raw_reference" not in rows[3]  # empty before and after


def test_results_md_reads_as_it_should(folder):
    text = (folder / "results.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == "# Distillation reduces the word error rate by 18.8 points"
    assert SYNTHETIC_NOTICE in text
    assert "Normalizer: librispeech. One seed (7): " in text
    assert "6 utterances, 3 speakers, 0.1 min of speech." in text
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[0] == (
        "| System | WER % | 95 % interval | by speaker | S | D | I | Words | CER % | Parameters | Size | RTF "
        "| Gap recovered |"
    )
    assert rows[1].startswith("| :-- | --: |")
    assert rows[2].startswith(
        "| teacher-1 | 0.00 | [0.00, 0.00] | [0.00, 0.00] | 0 | 0 | 0 | 16 | 0.00 | – | 1.2 MB | – |"
    )
    assert rows[3].startswith("| student-hard | 37.50 | [")
    assert "| 0 | 5 | 1 | 16 |" in rows[3]
    assert "| 1.02 M | – | – |" in rows[3]
    assert rows[4].startswith("| student-kd | 18.75 | [")
    assert "| 50 % [" in rows[4]
    assert "Not evaluated: test (its files are not here)." in text
    assert "Gap recovered: 50 % [" in text
    assert "WER with KD minus WER without: −18.75 points [" in text
    assert "- Command: asr-kd evaluate recipe.yaml" in text


def test_every_markdown_row_has_as_many_cells_as_its_header(folder):
    tables = [
        block for block in (folder / "results.md").read_text(encoding="utf-8").split("\n\n") if block.startswith("|")
    ]
    assert len(tables) >= 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_terminal_table_prints_from_the_stored_results(folder):
    text = printed(terminal_table(open_report(folder)))
    assert "dev: 6 utterances, 3 speakers, 0.1 min of speech" in text
    line = next(line for line in text.splitlines() if "student-hard" in line)
    assert "37.50 [" in line
    assert "0/5/1" in line
    assert "Gap recovered: 50 % [" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert SYNTHETIC_NOTICE in text
    assert "Not evaluated: test (its files are not here)." in text


def test_markdown_of_stored_results_is_results_md(folder):
    assert markdown(assemble(open_report(folder))) == (folder / "results.md").read_text(encoding="utf-8")


def test_real_speech_carries_no_synthetic_notice(tmp_path, utterances, stored):
    evaluate_systems([System("t", "teacher", stored())], {"dev": utterances}, SETTINGS, tmp_path / "report")
    summary = read_results(tmp_path / "report")
    assert SYNTHETIC_NOTICE not in markdown(assemble(Report(summary)))
    assert "Seeds are not stated." in markdown(assemble(Report(summary)))
    found = summary["test_sets"]["dev"]
    assert found["gap_recovered"] is None
    assert found["gap_recovered_reason"] == "not among the systems: student_hard, student_kd"
    assert "ap recovered: undefined" not in markdown(assemble(Report(summary)))  # there is no pair


def test_an_undefined_gap_has_a_reason(tmp_path, utterances, stored):
    systems = [System(role, role, stored()) for role in ("teacher", "student_hard", "student_kd")]
    evaluate_systems(systems, {"dev": utterances}, SETTINGS, tmp_path / "report")
    summary = read_results(tmp_path / "report")
    assert summary["test_sets"]["dev"]["gap_recovered"] is None
    assert "undefined (the teacher's lead of 0.00 points has the 95 % interval" in markdown(assemble(Report(summary)))
    shown = printed(terminal_table(Report(summary)))
    assert "Gap recovered: undefined (the teacher's lead" in shown


def test_excluded_utterances_are_printed_as_data_and_not_as_markup(tmp_path, utterances, stored):
    utterances[0].audio.unlink()
    settings = SETTINGS.model_copy(update={"max_excluded_share": 0.2})
    evaluate_systems([System("t", "teacher", stored())], {"dev": utterances}, settings, tmp_path / "report")
    summary = read_results(tmp_path / "report")
    summary["test_sets"]["dev"]["excluded"][0]["reason"] = "<b>bold</b> | [red]\nnext"
    text = markdown(assemble(Report(summary)))
    assert (
        "1 of 6 utterances left out, for every system alike:\n\n- ann-1: &lt;b&gt;bold&lt;/b&gt; \\| [red] next" in text
    )
    shown = printed(terminal_table(Report(summary)))
    assert "1 of 6 utterances left out, listed in results.md" in shown


def test_a_second_evaluation_replaces_the_first_whole(folder, tmp_path, utterances, stored):
    evaluate_systems([System("t", "teacher", stored())], {"other": utterances}, SETTINGS, folder)
    hypotheses = folder / "hypotheses"
    assert [path.relative_to(hypotheses).as_posix() for path in hypotheses.rglob("*.jsonl")] == ["other/teacher.jsonl"]
    assert list(read_results(folder)["test_sets"]) == ["other"]
    files = [".asr-kd-files", "cards", "hypotheses", "index.html", "results.json", "results.md", "results.tex"]
    assert sorted(path.name for path in folder.iterdir()) == files


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path, utterances, stored):
    (tmp_path / "report").write_text("a file in the way")
    with pytest.raises(AsrKdError, match="report: cannot be written"):
        evaluate_systems([System("t", "teacher", stored())], {"dev": utterances}, SETTINGS, tmp_path / "report")


@pytest.mark.parametrize("content", [None, "", "[1]", '{"format": "asr-kd results", "version": 99}'])
def test_other_results_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(EvaluationError, match=r"results\.json: "):
        read_results(tmp_path)


def test_a_difference_that_rounds_to_zero_has_no_minus():
    pair = {"gap_recovered": -0.004, "gap_recovered_low": -0.012, "gap_recovered_high": -0.001}
    assert cells.gap(pair) == "0 % [−1, 0]"
    assert cells.points(-0.00001) == "+0.00"
    assert cells.interval(-0.00001, 0.01) == "[0.00, 1.00]"
