"""Levenshtein alignment of hypotheses with references, in words or characters; all edits cost 1 (jiwer).

sclite weighs a substitution 4 and the others 3, so that it sometimes prefers one error more: its totals
are never below these (`tests/scoring/test_sclite.py`). Texts must be normalized already.
"""

from collections.abc import Callable, Sequence
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

    def process(references: list[str], written: list[str]) -> Any:
        return jiwer.process_words(references, written, to_words, to_words)

    return _aligned(references, hypotheses, process, lambda text: len(text.split()))


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Align characters, the space between words among them, pair by pair."""
    to_characters = jiwer.ReduceToListOfListOfChars()

    def process(references: list[str], written: list[str]) -> Any:
        return jiwer.process_characters(references, written, to_characters, to_characters)

    return _aligned(references, hypotheses, process, len)


def _aligned(
    references: Sequence[str],
    hypotheses: Sequence[str],
    process: Callable[[list[str], list[str]], Any],
    length: Callable[[str], int],
) -> list[Alignment]:
    """Only what differs goes to jiwer: of a good system's texts most do not."""
    pairs = list(zip(references, hypotheses, strict=True))
    different = [pair for pair in pairs if pair[0] != pair[1]]
    chunks = iter(
        process([reference for reference, _ in different], [text for _, text in different]).alignments
        if different
        else []
    )
    aligned: list[Alignment] = []
    for reference, written in pairs:
        size = length(reference)
        if reference == written:
            aligned.append((Edit("equal", 0, size, 0, size),) if size else ())
        else:
            aligned.append(
                tuple(
                    Edit(edit.type, edit.ref_start_idx, edit.ref_end_idx, edit.hyp_start_idx, edit.hyp_end_idx)
                    for edit in next(chunks)
                )
            )
    return aligned
