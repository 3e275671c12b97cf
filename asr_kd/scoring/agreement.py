"""Agreement of a student's words with its teacher's: WER against the teacher, and words that only one has right."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from asr_kd.scoring.alignment import Alignment, align_words
from asr_kd.scoring.wer import Score, WordErrors, check_comparable, count_words

LISTED = 10
"""Words listed of those that only one of the two has right."""


@dataclass(frozen=True, slots=True)
class WordAgreement:
    """A teacher and a student on the same references."""

    wer_against_teacher: float | None
    """WER of the student with the teacher's words as the reference; None when the teacher wrote none."""
    only_teacher_words: int
    """Reference words that the teacher has right and the student has not."""
    only_student_words: int
    both_words: int
    neither_words: int
    only_teacher_most: tuple[tuple[str, int], ...]
    """The most frequent of them, with how often."""
    only_student_most: tuple[tuple[str, int], ...]
    wer_against_teacher_reason: str | None = None
    """Why there is no WER."""


def word_agreement(teacher: Score, student: Score) -> WordAgreement:
    """Compare two scores of the same references under one normalizer.

    Raises:
        EvaluationError: they are not of the same utterances, or of other normalizers.
    """
    check_comparable(teacher, student)
    outcomes: Counter[tuple[bool, bool]] = Counter()
    only: dict[tuple[bool, bool], Counter[str]] = {(True, False): Counter(), (False, True): Counter()}
    for utterance_id, first in teacher.utterances.items():
        second = student.utterances[utterance_id]
        rights = zip(
            first.reference.split(), correct_words(first.alignment), correct_words(second.alignment), strict=True
        )
        for word, by_teacher, by_student in rights:
            outcome = (by_teacher, by_student)
            outcomes[outcome] += 1
            if by_teacher != by_student:
                only[outcome][word] += 1
    against, reason = _against_teacher(teacher, student)
    return WordAgreement(
        wer_against_teacher=against,
        only_teacher_words=outcomes[True, False],
        only_student_words=outcomes[False, True],
        both_words=outcomes[True, True],
        neither_words=outcomes[False, False],
        only_teacher_most=tuple(only[True, False].most_common(LISTED)),
        only_student_most=tuple(only[False, True].most_common(LISTED)),
        wer_against_teacher_reason=reason,
    )


def correct_words(alignment: Alignment) -> Iterator[bool]:
    """For every word of the reference, whether the hypothesis has it."""
    for edit in alignment:
        yield from [edit.kind == "equal"] * (edit.reference_end - edit.reference_start)


def _against_teacher(teacher: Score, student: Score) -> tuple[float | None, str | None]:
    """Both texts are normalized already; whisper's normalizer would rewrite its own output."""
    references = [scored.hypothesis for scored in teacher.utterances.values()]
    hypotheses = [student.utterances[utterance_id].hypothesis for utterance_id in teacher.utterances]
    words = sum((count_words(alignment) for alignment in align_words(references, hypotheses)), WordErrors())
    return (words.wer, None) if words.words else (None, "the teacher wrote no word")
