"""Compare two systems on the same utterances, word by word: MAPSSWE, and the agreement of a student with its teacher.

MAPSSWE is the matched-pairs sentence-segment word error test (Gillick & Cox, ICASSP 1989) as NIST's sc_stats computes
it. Utterances are cut where both systems got at least two words in a row right; what lies between such places and holds
an error is a segment, and segments are taken as independent. The null hypothesis is that the mean difference of the two
systems' errors a segment is 0.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_kd.scoring.wer import Alignment, ErrorCounts, Score, align_words, check_comparable, count_edits

MIN_GOOD_WORDS = 2
"""Words that both must have right in a row for a segment to end; sc_stats' default."""
ENOUGH_SEGMENTS = 50
"""Below about this many the normal distribution is a poor approximation (Gillick & Cox)."""

Slots = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """Result of the test; `z` and `p` are None where they are undefined, with the `reason`."""

    z: float | None
    """Negative when the first system makes fewer errors."""
    p: float | None
    """Two-sided: probability of so large a |z| between equal systems."""
    segments: int
    mean: float
    """Errors of the first minus errors of the second, a segment."""
    reason: str | None = None


def matched_pairs(
    first: Sequence[Alignment], second: Sequence[Alignment], lengths: Sequence[int], min_good: int = MIN_GOOD_WORDS
) -> MatchedPairs:
    """Test two systems on the same utterances.

    Args:
        first: its alignment of each utterance, [N].
        lengths: reference words of each utterance, [N].
        min_good: words that both must have right between two segments.

    Raises:
        ValueError: not one alignment an utterance for each system.
    """
    errors = segment_errors(first, second, lengths, min_good)
    differences = (errors[0] - errors[1]).astype(np.float64)
    count = len(differences)
    if not differences.any():  # no segment, or both make as many errors in each: no sign of a difference
        return MatchedPairs(0.0, 1.0, count, 0.0)
    mean = float(differences.mean())
    deviation = float(differences.std(ddof=1)) if count > 1 else 0.0
    if not deviation:
        alike = "there is one segment only" if count == 1 else "all segments differ by the same number of errors"
        return MatchedPairs(None, None, count, mean, f"{alike}: no spread to compare with")
    z = mean / (deviation / math.sqrt(count))
    return MatchedPairs(z, math.erfc(abs(z) / math.sqrt(2)), count, mean)


def segment_errors(
    first: Sequence[Alignment], second: Sequence[Alignment], lengths: Sequence[int], min_good: int = MIN_GOOD_WORDS
) -> NDArray[np.int64]:
    """Errors of both systems in every segment, [2, segments]; arguments as of `matched_pairs`.

    Unlike sc_stats this counts words that only the second system inserts at the end of an utterance: its loop ends
    with the first system's alignment.
    """
    if not len(first) == len(second) == len(lengths):
        raise ValueError(f"{len(first)} and {len(second)} alignments for {len(lengths)} utterances")
    found = [_error_slots(alignments, lengths, min_good) for alignments in (first, second)]
    slots = np.unique(np.concatenate(found))
    # Between two slots lie the words of the odd numbers between them, and all of these are right in both systems.
    good_words = slots[1:] // 2 - (slots[:-1] + 1) // 2
    segment_of = np.concatenate([[0], np.cumsum(good_words >= min_good)]) if len(slots) else slots
    size = int(segment_of[-1]) + 1 if len(slots) else 0
    counts = [np.bincount(segment_of[np.searchsorted(slots, own)], minlength=size) for own in found]
    return np.stack(counts)


def _error_slots(alignments: Sequence[Alignment], lengths: Sequence[int], min_good: int) -> Slots:
    """Where a system's errors stand, once for each: 2n + 1 is reference word n, 2n the place before it.

    Words are counted through all utterances, with `min_good` right ones between two utterances: no segment spans them.
    """
    starts = np.cumsum([0, *(length + min_good for length in lengths)])
    return np.fromiter(
        (
            2 * int(start) + slot
            for start, alignment in zip(starts, alignments, strict=False)
            for slot in _slots(alignment)
        ),
        dtype=np.int64,
    )


def _slots(alignment: Alignment) -> Iterator[int]:
    for edit in alignment:
        if edit.kind == "insert":
            yield from [2 * edit.reference_start] * edit.length
        elif edit.kind != "equal":
            yield from range(2 * edit.reference_start + 1, 2 * edit.reference_end + 1, 2)


LISTED = 10
"""Words listed of those that only one of the two has right."""


def word_agreement(teacher: Score, student: Score) -> dict[str, Any]:
    """Compare two scores of the same references under one normalizer, as plain data.

    Returns:
        `wer_against_teacher`, the student's WER with the teacher's words as the reference, and why there is none;
        reference words that one has right and the other has not, that both have, and that neither has; and of the
        former the most frequent, with how often.

    Raises:
        EvaluationError: they are not of the same utterances, or of other normalizers.
    """
    check_comparable(teacher, student)
    words: dict[tuple[bool, bool], Counter[str]] = {(a, b): Counter() for a in (True, False) for b in (True, False)}
    for first, second in zip(teacher.utterances.values(), student.utterances.values(), strict=True):
        rights = zip(correct_words(first.alignment), correct_words(second.alignment), strict=True)
        for word, outcome in zip(first.reference.split(), rights, strict=True):
            words[outcome][word] += 1
    # Both texts are normalized already; whisper's normalizer would rewrite its own output.
    sides = ([utterance.hypothesis for utterance in scored.utterances.values()] for scored in (teacher, student))
    against = sum((count_edits(alignment) for alignment in align_words(*sides)), ErrorCounts())
    return {
        "wer_against_teacher": against.rate if against.length else None,
        "only_teacher_words": words[True, False].total(),
        "only_student_words": words[False, True].total(),
        "both_words": words[True, True].total(),
        "neither_words": words[False, False].total(),
        "only_teacher_most": words[True, False].most_common(LISTED),
        "only_student_most": words[False, True].most_common(LISTED),
        "wer_against_teacher_reason": None if against.length else "the teacher wrote no word",
    }


def correct_words(alignment: Alignment) -> Iterator[bool]:
    """For every word of the reference, whether the hypothesis has it."""
    for edit in alignment:
        yield from [edit.kind == "equal"] * (edit.reference_end - edit.reference_start)
