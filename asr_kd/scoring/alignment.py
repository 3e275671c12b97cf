"""Which word of a hypothesis stands for which of the reference: Levenshtein alignment, all edits cost 1, by jiwer.

Its only home. sclite weighs a substitution 4 and the others 3, so that it sometimes prefers one error more: its totals
are never below these (`tests/scoring/test_sclite.py`). Knows texts that are normalized already.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jiwer

EditKind = Literal["equal", "substitute", "delete", "insert"]


class Edit(NamedTuple):
    """A run of words (or characters) of one kind; places count from 0, ends are exclusive."""

    kind: EditKind
    reference_start: int
    reference_end: int
    hypothesis_start: int
    hypothesis_end: int

    @property
    def length(self) -> int:
        """Edits, or equal words; an insertion has no reference side, a deletion no hypothesis side."""
        return max(self.reference_end - self.reference_start, self.hypothesis_end - self.hypothesis_start)


Alignment = tuple[Edit, ...]
"""A reference and its hypothesis from left to right, without a gap on either side."""


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Align words, which one space separates, pair by pair."""
    # jiwer's default transforms would rewrite white space again; the normalizer has decided what a word is.
    to_words = jiwer.ReduceToListOfListOfWords()
    return _aligned(jiwer.process_words(list(references), list(hypotheses), to_words, to_words).alignments)


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Align characters, the space between words among them, pair by pair."""
    to_characters = jiwer.ReduceToListOfListOfChars()
    found = jiwer.process_characters(list(references), list(hypotheses), to_characters, to_characters)
    return _aligned(found.alignments)


def _aligned(alignments: Iterable[Iterable[Any]]) -> list[Alignment]:
    return [
        tuple(
            Edit(chunk.type, chunk.ref_start_idx, chunk.ref_end_idx, chunk.hyp_start_idx, chunk.hyp_end_idx)
            for chunk in alignment
        )
        for alignment in alignments
    ]
