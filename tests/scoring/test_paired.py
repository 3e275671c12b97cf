"""MAPSSWE and the agreement of words, at known answers."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.errors import EvaluationError
from asr_kd.scoring.paired import matched_pairs, segment_errors, word_agreement
from asr_kd.scoring.wer import score

REFERENCES = {
    "ann-1": "the cat sat on the mat",
    "ann-2": "one two three four five six seven eight",
    "bob-1": "a b c d e f g h i j k l",
    "bob-2": "what is it",
}
FIRST = {
    "ann-1": "the cat sat on a mat",
    "ann-2": "one two three for five six seven eight eight",
    "bob-1": "a b c x e f g h i z k l",
    "bob-2": "what was it",
}
SECOND = {
    "ann-1": "the cat sat on the mat",
    "ann-2": "one too three four five six seven eight",
    "bob-1": "a b c d e f g h i j k",
    "bob-2": "what is it",
}
WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=9).map(" ".join)


def aligned(references, *systems):
    """Alignments of the systems, and the lengths of the references."""
    scored = [score(references, system, "none") for system in systems]
    lengths = [utterance.words.length for utterance in scored[0].utterances.values()]
    return [[utterance.alignment for utterance in one.utterances.values()] for one in scored], lengths


def segments(reference, first, second):
    """Errors of both systems in the segments of one utterance."""
    systems, lengths = aligned({"u": reference, "x": "x"}, {"u": first, "x": "x"}, {"u": second, "x": "x"})
    return segment_errors(*systems, lengths).T.tolist()


def test_the_test_of_a_set_computed_by_hand():
    """Segments (errors of first, of second): on-the, four with two (1 word between), eight, d, j-l, is.

    Differences 1, 0, 1, 1, 0, 1: mean 2/3, deviation √(4/15), z = √10; sc_stats 1.3 gives the same: 6, 0.667, 3.162.
    """
    systems, lengths = aligned(REFERENCES, FIRST, SECOND)
    assert segment_errors(*systems, lengths).T.tolist() == [[1, 0], [1, 1], [1, 0], [1, 0], [1, 1], [1, 0]]
    found = matched_pairs(*systems, lengths)
    assert found.segments == 6
    assert found.mean == pytest.approx(2 / 3)
    assert found.z == pytest.approx(math.sqrt(10))
    assert found.p == pytest.approx(0.0015654, abs=1e-7)


@pytest.mark.parametrize(
    ("reference", "first", "second", "expected"),
    [
        ("a b c d", "x b c d", "a b c x", [[1, 0], [0, 1]]),  # two right words between: two segments
        ("a b c", "x b c", "a b x", [[1, 1]]),  # one between: one
        ("a b c d", "x b c d", "a b q c x", [[1, 2]]),  # an insertion between the right words parts them
        ("a b", "a b x", "a b", [[1, 0]]),  # words inserted at the end count for the first …
        ("a b", "a b", "a b x y", [[0, 2]]),  # … and, other than in sc_stats, for the second
        ("a b", "x a b", "a b", [[1, 0]]),
        ("", "x y", "x", [[2, 1]]),  # an empty reference
        ("a b c", "a b c", "a b c", []),
        ("a b c", "", "a b c", [[3, 0]]),
    ],
)
def test_where_segments_begin_and_end(reference, first, second, expected):
    assert segments(reference, first, second) == expected


def test_no_segment_spans_utterances():
    systems, lengths = aligned({"1": "a", "2": "b"}, {"1": "x", "2": "x"}, {"1": "a", "2": "x"})
    assert segment_errors(*systems, lengths).T.tolist() == [[1, 0], [1, 1]]


def test_equal_systems_do_not_differ():
    systems, lengths = aligned(REFERENCES, FIRST, FIRST)
    found = matched_pairs(*systems, lengths)
    assert (found.z, found.p, found.mean) == (0.0, 1.0, 0.0)
    assert found.segments == 6
    right, lengths = aligned(REFERENCES, REFERENCES, REFERENCES)
    assert matched_pairs(*right, lengths).segments == 0


def test_without_a_spread_it_is_undefined_with_a_reason():
    systems, lengths = aligned({"1": "a b c"}, {"1": "x b c"}, {"1": "a b c"})
    found = matched_pairs(*systems, lengths)
    assert (found.z, found.p, found.segments, found.mean) == (None, None, 1, 1.0)
    assert "one segment only" in found.reason
    systems, lengths = aligned({"1": "a", "2": "a"}, {"1": "x", "2": "x"}, {"1": "a", "2": "a"})
    assert "all segments differ by the same number" in matched_pairs(*systems, lengths).reason


def test_other_lengths_are_a_programming_error():
    with pytest.raises(ValueError, match="1 and 0 alignments for 1 utterances"):
        segment_errors([()], [], [0])


def test_between_equal_systems_p_has_its_level():
    rng = random.Random(1)
    reference = " ".join(f"w{n}" for n in range(20))
    sure = 0
    for _ in range(150):
        systems = [
            {str(n): " ".join(word if rng.random() > 0.1 else "x" for word in reference.split()) for n in range(20)}
            for _ in range(2)
        ]
        alignments, lengths = aligned({str(n): reference for n in range(20)}, *systems)
        sure += matched_pairs(*alignments, lengths).p < 0.05
    assert 1 <= sure <= 17


@settings(deadline=None)  # no test asserts a time
@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=5))
def test_every_error_is_in_one_segment_and_swapping_turns_the_sign(rows):
    references, first, second = ({str(n): row[side] for n, row in enumerate(rows)} for side in range(3))
    systems, lengths = aligned(references, first, second)
    counts = segment_errors(*systems, lengths)
    totals = [score(references, system, "none").words.errors for system in (first, second)]
    assert counts.sum(axis=1).tolist() == totals
    assert (counts.sum(axis=0) > 0).all()
    there, back = matched_pairs(*systems, lengths), matched_pairs(*reversed(systems), lengths)
    assert (there.segments, there.p) == (back.segments, back.p)
    assert there.mean == -back.mean
    assert there.z is None or there.z == -back.z


AGREED = {"1": "the cat sat on the mat", "2": "so it is", "3": ""}
TEACHER = {"1": "the cat sat on a mat", "2": "so it was", "3": "uh"}
STUDENT = {"1": "a cat sat on the mat", "2": "so it was", "3": ""}


def test_agreement_computed_by_hand():
    found = word_agreement(score(AGREED, TEACHER, "none"), score(AGREED, STUDENT, "none"))
    assert (found["only_teacher_words"], found["only_student_words"]) == (1, 1)
    assert (found["both_words"], found["neither_words"]) == (6, 1)
    assert (found["only_teacher_most"], found["only_student_most"]) == ([("the", 1)], [("the", 1)])
    assert found["wer_against_teacher"] == 3 / 10  # the→a, a→the, and the missing uh, of ten words of the teacher


def test_a_student_that_writes_what_its_teacher_writes_agrees():
    scored = score(AGREED, TEACHER, "none")
    found = word_agreement(scored, scored)
    assert (found["wer_against_teacher"], found["only_teacher_words"], found["only_student_words"]) == (0.0, 0, 0)
    assert found["both_words"] + found["neither_words"] == scored.words.length


def test_a_teacher_without_words_leaves_no_rate_with_a_reason():
    empty = score(AGREED, dict.fromkeys(AGREED, ""), "none")
    found = word_agreement(empty, score(AGREED, STUDENT, "none"))
    assert (found["wer_against_teacher"], found["wer_against_teacher_reason"]) == (None, "the teacher wrote no word")
    assert found["only_student_words"] == 7


def test_other_normalizers_utterances_or_references_are_refused():
    teacher = score(AGREED, TEACHER, "none")
    with pytest.raises(EvaluationError, match="under the normalizer 'none', the other under 'librispeech'"):
        word_agreement(teacher, score(AGREED, STUDENT, "librispeech"))
    with pytest.raises(EvaluationError, match="not of the same utterances"):
        word_agreement(teacher, score({"1": "a"}, {"1": "a"}, "none"))
    with pytest.raises(EvaluationError, match="2: the two scores have different references"):
        word_agreement(teacher, score(AGREED | {"2": "so it be"}, STUDENT, "none"))
