"""What a student shares with its teacher, in words."""

import pytest

from asr_kd.errors import EvaluationError
from asr_kd.scoring.paired import word_agreement
from asr_kd.scoring.wer import score

REFERENCES = {"1": "the cat sat on the mat", "2": "so it is", "3": ""}
TEACHER = {"1": "the cat sat on a mat", "2": "so it was", "3": "uh"}
STUDENT = {"1": "a cat sat on the mat", "2": "so it was", "3": ""}


def test_known_answers():
    found = word_agreement(score(REFERENCES, TEACHER, "none"), score(REFERENCES, STUDENT, "none"))
    assert (found.only_teacher_words, found.only_student_words) == (1, 1)
    assert (found.both_words, found.neither_words) == (6, 1)
    assert (found.only_teacher_most, found.only_student_most) == ((("the", 1),), (("the", 1),))
    assert found.wer_against_teacher == 3 / 10  # the→a, a→the, and the missing uh, of ten words of the teacher


def test_a_student_that_says_what_its_teacher_says_agrees_whatever_was_said():
    scored = score(REFERENCES, TEACHER, "none")
    found = word_agreement(scored, scored)
    assert (found.wer_against_teacher, found.only_teacher_words, found.only_student_words) == (0.0, 0, 0)
    assert found.both_words + found.neither_words == scored.words.words


def test_a_silent_teacher_leaves_no_rate_and_says_why():
    empty = score(REFERENCES, dict.fromkeys(REFERENCES, ""), "none")
    found = word_agreement(empty, score(REFERENCES, STUDENT, "none"))
    assert (found.wer_against_teacher, found.wer_against_teacher_reason) == (None, "the teacher wrote no word")
    assert found.only_student_words == 7


def test_other_normalizers_utterances_or_references_are_refused():
    teacher = score(REFERENCES, TEACHER, "none")
    with pytest.raises(EvaluationError, match="under the normalizer 'none', the other under 'librispeech'"):
        word_agreement(teacher, score(REFERENCES, STUDENT, "librispeech"))
    with pytest.raises(EvaluationError, match="not of the same utterances"):
        word_agreement(teacher, score({"1": "a"}, {"1": "a"}, "none"))
    with pytest.raises(EvaluationError, match="2: the two scores have different references"):
        word_agreement(teacher, score(REFERENCES | {"2": "so it be"}, STUDENT, "none"))
