"""Several pairs of students in one report: each with its own gap, and what cannot be compared."""

import pytest

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.comparison import Comparison, resolve_comparisons, without_absent
from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.report import Report, read_results
from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.text_renderers import markdown, terminal_table
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.system import System
from tests.helpers.evaluations import QUICK, printed

SETTINGS = QUICK
PAIRS = (Comparison("5m-kd", "5m-hard", "big"), Comparison("10m-kd", "10m-hard", "big"))


@pytest.fixture
def systems(utterances, stored):
    """Two pairs: the first closes half of its gap, the second all of a smaller one."""
    every_first = {utterance.id: (utterance.text or "x").split(" ", 1)[-1] for utterance in utterances}
    half = {key: text for key, text in every_first.items() if key.endswith("1")}
    return [
        System("big", "teacher", stored(), parameters=300_000_000),
        System("5m-hard", "other", stored(every_first), parameters=5_000_000),
        System("5m-kd", "other", stored(half), parameters=5_000_000),
        System("10m-hard", "other", stored(half)),
        System("10m-kd", "other", stored()),
    ]


@pytest.fixture
def summary(systems, utterances, tmp_path):
    evaluate_systems(systems, {"dev": utterances}, SETTINGS, tmp_path, RunFacts(comparisons=PAIRS))
    return read_results(tmp_path)


def test_every_pair_has_its_own_gap_and_difference(summary):
    found = summary["test_sets"]["dev"]
    pairs = {pair["distilled"]: pair for pair in found["comparisons"]}
    assert list(pairs) == ["5m-kd", "10m-kd"]
    assert (pairs["5m-kd"]["baseline"], pairs["5m-kd"]["teacher"]) == ("5m-hard", "teacher")
    assert pairs["5m-kd"]["gap_recovered"] == pytest.approx(3 / 6)
    assert pairs["5m-kd"]["difference"]["wer"] == pytest.approx(-3 / 16)
    assert pairs["5m-kd"]["difference"]["low"] <= -3 / 16 <= pairs["5m-kd"]["difference"]["high"]
    assert pairs["10m-kd"]["gap_recovered"] == pytest.approx(1.0)
    assert pairs["10m-kd"]["difference"]["wer"] == pytest.approx(-3 / 16)
    assert set(found) >= {"teacher", "5m-hard", "5m-kd", "10m-hard", "10m-kd"}


def test_the_keys_of_the_default_pair_state_that_there_is_none(summary):
    found = summary["test_sets"]["dev"]
    assert found["gap_recovered"] is None
    reason = "not among the systems: student_hard, student_kd; comparisons: 5m-kd, 10m-kd"
    assert found["gap_recovered_reason"] == reason


def test_results_md_has_a_row_for_every_pair(summary):
    text = markdown(assemble(Report(summary)))
    rows = [line for line in text.splitlines() if line.startswith("| 5m-kd | 5m-hard | big | ")]
    assert len(rows) == 1
    assert " | 50 % [" in rows[0]
    assert " | −18.75 [" in rows[0]
    assert "| 10m-kd | 10m-hard | big | 100 % [100, 100] | −18.75 [" in text
    in_table = [line for line in text.splitlines() if line.startswith("| 5m-kd | 18.75 | ")]
    assert in_table[0].rstrip(" |").rsplit("| ", 1)[1].startswith("50 % [")
    assert "## Distillation" not in text  # the teacher was trained by this run


def test_the_terminal_names_the_students(summary):
    shown = printed(terminal_table(Report(summary)))
    assert "Gap recovered by 5m-kd, against 5m-hard: 50 % [" in shown
    assert "Gap recovered by 10m-kd, against 10m-hard: 100 % [100, 100]" in shown


def test_the_roles_make_a_pair_unasked_and_come_first(systems, stored):
    roles = [System("student-kd", "student_kd", stored()), System("student-hard", "student_hard", stored())]
    pairs = resolve_comparisons([*systems, *roles], PAIRS)
    assert pairs[0] == Comparison("student_kd", "student_hard", "teacher")
    assert pairs[1] == Comparison("5m-kd", "5m-hard", "teacher")
    assert len(pairs) == 3
    stated = Comparison("student-kd", "student-hard", None)
    assert resolve_comparisons(roles, [stated]) == [Comparison("student_kd", "student_hard", None)]
    assert resolve_comparisons(roles, []) == [Comparison("student_kd", "student_hard", None)]
    assert resolve_comparisons(systems, []) == []


def test_a_pair_without_a_teacher_has_a_difference_but_no_gap(systems, utterances, tmp_path):
    facts = RunFacts(comparisons=(Comparison("5m-kd", "5m-hard"),))
    evaluate_systems(systems[1:3], {"dev": utterances}, SETTINGS, tmp_path, facts)
    pair = read_results(tmp_path)["test_sets"]["dev"]["comparisons"][0]
    assert (pair["gap_recovered"], pair["gap_recovered_reason"]) == (None, "its teacher was not evaluated")
    assert pair["difference"]["wer"] == pytest.approx(-3 / 16)
    assert "Gap recovered: undefined (its teacher was not evaluated)." in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (Comparison("5m-kd", "nobody", "big"), "'5m-kd' with 'nobody' needs 'nobody', which is not evaluated"),
        (
            Comparison("5m-kd", "5m-hard", "giant"),
            "needs 'giant', which is not evaluated; expected one of big",
        ),
        (Comparison("5m-kd", "5m-kd", "big"), "names one system twice"),
        (Comparison("5m-kd", "big", "big"), "names one system twice"),
        (PAIRS[0], "is stated twice"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_first_transcript(pair, message, systems, utterances, tmp_path):
    with pytest.raises(EvaluationError, match=message):
        evaluate_systems(
            systems, {"dev": utterances}, SETTINGS, tmp_path / "report", RunFacts(comparisons=(PAIRS[0], pair))
        )
    assert not (tmp_path / "report").exists()
    assert not any(system.recognizer.batches for system in systems)


def test_systems_that_are_not_there_yet_are_named_and_their_pairs_left_out(systems, utterances, tmp_path):
    facts = RunFacts(comparisons=PAIRS, absent_systems={"10m-kd": "not trained yet"})
    evaluate_systems(systems[:4], {"dev": utterances}, SETTINGS, tmp_path, facts)
    summary = read_results(tmp_path)
    assert summary["absent_systems"] == {"10m-kd": "not trained yet"}
    assert [pair["distilled"] for pair in summary["test_sets"]["dev"]["comparisons"]] == ["5m-kd"]
    assert "Not evaluated: 10m-kd (not trained yet)." in markdown(assemble(Report(summary)))
    shown = printed(terminal_table(Report(summary)))
    assert "Not evaluated: 10m-kd (not trained yet)." in shown


def test_an_absent_teacher_leaves_the_difference():
    (pair,) = without_absent([PAIRS[0]], {"big": "its weights are not here"})
    assert pair == Comparison("5m-kd", "5m-hard", None)
    assert without_absent(PAIRS, {"5m-hard": "not trained yet"}) == [PAIRS[1]]
    assert without_absent(PAIRS, {}) == list(PAIRS)
