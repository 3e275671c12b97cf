"""Utterances word by word: what each system got wrong, which are shown, what is confused with what."""

from hypothesis import given
from hypothesis import strategies as st

from asr_kd.evaluation.report import Report
from asr_kd.evaluation.report.loading import MainSystems, choose, columns, confusions, views

WORDS = st.lists(st.sampled_from(["ab", "cd", "e", "f"]), max_size=6).map(" ".join)


def test_errors_are_marked_word_by_word(report):
    found = {view.id: view for view in report.views if view.test_set == "dev"}
    assert found["eve-1"].outputs["student_kd"].edits == "s="
    assert found["ann-1"].outputs["student_kd"].edits == "d==="
    assert found["bob-2"].outputs["student_hard"].edits == "i"
    assert found["eve-2"].outputs["teacher"].edits == "=s=="
    assert found["ann-2"].outputs["teacher"].edits == "=="


def test_the_worst_come_first_and_the_errors_are_those_of_the_rows(report):
    main, found = report.main, report.views
    wrong = [view.errors(main.student) for view in found]
    assert wrong == sorted(wrong, reverse=True)
    for view in found:
        for key, output in view.outputs.items():
            row = next(row for row in report.rows[view.test_set][key] if row["id"] == view.id)
            edits = {"substitutions": "s", "deletions": "d", "insertions": "i"}
            assert {kind: output.edits.count(edit) for kind, edit in edits.items()} == {
                kind: row["errors"][kind] for kind in edits
            }


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_columns_spell_both_texts_again(pairs):
    rows = [
        {"id": str(place), "reference": reference, "hypothesis": hypothesis, "errors": {}}
        for place, (reference, hypothesis) in enumerate(pairs)
    ]
    for view in views({"set": {"system": rows}}, MainSystems("set", "system")):
        output = view.outputs["system"]
        spelt = list(columns(view.reference, output))
        assert " ".join(word for _, word, _ in spelt if word) == view.reference
        assert " ".join(word for _, _, word in spelt if word) == output.text
        assert all((reference == hypothesis) == (edit == "=") for edit, reference, hypothesis in spelt)


def test_confusions_count_every_error_once(report):
    found = [view for view in report.views if view.test_set == "dev"]
    counts = confusions(found, "student_hard")
    assert counts["substitutions"] == {("ONE", "WON"): 1}
    assert counts["deletions"] == {("ONE", ""): 1, ("FIVE", ""): 1, ("SEVEN", ""): 1}
    assert counts["insertions"] == {("", "X"): 1}
    errors = report.sets["dev"]["student_hard"]
    assert {kind: sum(found.values()) for kind, found in counts.items()} == {kind: errors[kind] for kind in counts}


def test_utterances_of_every_kind_are_chosen(report):
    main = MainSystems("dev", "student_kd", "student_hard", "teacher")
    found = [view for view in report.views if view.test_set == "dev"]
    chosen = [view.id for view in choose(found, main, 4)]
    assert chosen == [
        "eve-1",
        "eve-2",
        "bob-1",
        "ann-1",
    ]  # the worst, only the teacher wrong, a long right one, the next
    assert len(choose(found, main, 100)) == len(found)
    assert choose(found, main, 0) == []


def test_the_parts_are_those_of_the_first_comparison(report):
    main = report.main
    assert (main.test_set, main.student, main.baseline, main.teacher) == (
        "test",
        "student_kd",
        "student_hard",
        "teacher",
    )
    assert Report({**report.summary, "provenance": {"dev_sets": ["test"]}}).main.test_set == "dev"


def test_without_a_comparison_there_is_a_student_all_the_same(report):
    found = {**report.sets["dev"], "comparisons": []}
    del found["student_hard"]
    alone = Report({**report.summary, "test_sets": {"dev": found}})
    assert alone.main == MainSystems("dev", "student_kd", None, "teacher")
    without = Report({**report.summary, "test_sets": {"dev": {k: v for k, v in found.items() if k != "student_kd"}}})
    assert without.main == MainSystems("dev", "teacher")
    assert Report({**report.summary, "test_sets": {}}).main == MainSystems()
