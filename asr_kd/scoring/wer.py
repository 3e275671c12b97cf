"""Word and character errors of hypotheses against references, matched by utterance id; intervals are in `significance`.

Texts are aligned by jiwer's Levenshtein distance, in which all edits cost 1. sclite weighs a substitution 4 and the
others 3, so that it sometimes prefers one error more: its totals are never below these.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jiwer

from asr_kd.errors import EvaluationError, examples
from asr_kd.text.normalize import ScoringNormalizer, letters_beyond_english, normalize

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
    return _aligned(
        references, hypotheses, lambda *sides: jiwer.process_words(sides[0], sides[1], to_words, to_words), str.split
    )


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Align characters, the space between words among them, pair by pair."""
    to_characters = jiwer.ReduceToListOfListOfChars()
    return _aligned(
        references,
        hypotheses,
        lambda *sides: jiwer.process_characters(sides[0], sides[1], to_characters, to_characters),
        list,
    )


def _aligned(
    references: Sequence[str],
    hypotheses: Sequence[str],
    process: Callable[..., Any],
    split: Callable[[str], list[str]],
) -> list[Alignment]:
    """Only what differs goes to jiwer: of a good system's texts most do not."""
    pairs = list(zip(references, hypotheses, strict=True))
    different = [list(side) for side in zip(*(pair for pair in pairs if pair[0] != pair[1]), strict=True)]
    chunks = iter(process(*different).alignments if different else [])
    aligned: list[Alignment] = []
    for reference, hypothesis in pairs:
        if reference == hypothesis:
            size = len(split(reference))
            aligned.append((Edit("equal", 0, size, 0, size),) if size else ())
        else:
            edits = next(chunks)
            places = ((edit.ref_start_idx, edit.ref_end_idx, edit.hyp_start_idx, edit.hyp_end_idx) for edit in edits)
            aligned.append(tuple(Edit(edit.type, *place) for edit, place in zip(edits, places, strict=True)))
    return aligned


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Edits that turn references into hypotheses, and the words (or characters) that needed none."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def length(self) -> int:
        """Words (or characters) of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors divided by the references' length, a fraction; above 1 when insertions abound.

        Raises:
            EvaluationError: the references are empty, so that there is no rate.
        """
        if not self.length:
            raise EvaluationError(
                f"an error rate over empty references ({self.insertions} insertions) does not exist",
                expected="at least one word in the references",
            )
        return self.errors / self.length

    @property
    def row(self) -> dict[str, int]:
        """Edits and length of words as a row of results."""
        edits = {"substitutions": self.substitutions, "deletions": self.deletions, "insertions": self.insertions}
        return edits | {"words": self.length}

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
        )


@dataclass(frozen=True, slots=True)
class UtteranceScore:
    """One utterance as it was scored: both texts after the normalizer."""

    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts
    """One space between words counts as a character."""
    alignment: Alignment
    """Of the words of both texts."""


@dataclass(frozen=True, slots=True)
class Score:
    """A test set's errors: every utterance by id, in the references' order, and the sums."""

    normalizer: ScoringNormalizer
    utterances: dict[str, UtteranceScore]
    words: ErrorCounts
    characters: ErrorCounts

    @property
    def wer(self) -> float:
        return self.words.rate

    @property
    def cer(self) -> float:
        return self.characters.rate


class GroupErrors(NamedTuple):
    """The sums of some of a set's utterances, such as a speaker's."""

    utterances: int = 0
    words: ErrorCounts = ErrorCounts()
    characters: ErrorCounts = ErrorCounts()


def score(references: Mapping[str, str], hypotheses: Mapping[str, str], normalizer: ScoringNormalizer) -> Score:
    """Score hypotheses against the references of the same ids.

    Args:
        references: utterance id → reference text. An empty one is legal: every hypothesised word is an insertion.
        hypotheses: utterance id → what was recognised.
        normalizer: applied to both sides; WERs of different normalizers cannot be compared.

    Raises:
        EvaluationError: no references, other ids on one side, not one word in all references, or references in other
            scripts under `whisper`.
    """
    _check_ids(references, hypotheses)
    beyond = letters_beyond_english(references.values()) if normalizer == "whisper" else ()
    if beyond:  # of which Whisper's English normalizer drops marks, so that different words are equal
        raise EvaluationError(
            f"the references hold {' '.join(beyond[:20])}",
            expected="English under the normalizer 'whisper'",
            remedy="Score with the normalizer 'unicode', which is for all scripts",
        )
    reference_texts = [spaced(normalize(text, normalizer)) for text in references.values()]
    hypothesis_texts = [spaced(normalize(hypotheses[utterance_id], normalizer)) for utterance_id in references]
    if not any(reference_texts):
        raise EvaluationError(
            f"all {len(references)} references are empty after the normalizer {normalizer!r}",
            expected="at least one word",
            remedy="Look at the texts of this test set; `asr-kd check` lists empty transcripts",
        )
    alignments = align_words(reference_texts, hypothesis_texts)
    words = [count_edits(alignment) for alignment in alignments]
    characters = [count_edits(alignment) for alignment in align_characters(reference_texts, hypothesis_texts)]
    scored = map(UtteranceScore, reference_texts, hypothesis_texts, words, characters, alignments)
    return Score(
        normalizer=normalizer,
        utterances=dict(zip(references, scored, strict=True)),
        words=sum(words, ErrorCounts()),
        characters=sum(characters, ErrorCounts()),
    )


def score_groups(scored: Score, groups: Mapping[str, str]) -> dict[str, GroupErrors]:
    """The errors of each group of utterances, such as each speaker's, in the order of the groups' names."""
    found: dict[str, GroupErrors] = {}
    for utterance_id, utterance in scored.utterances.items():
        count, words, characters = found.get(groups[utterance_id], GroupErrors())
        found[groups[utterance_id]] = GroupErrors(count + 1, words + utterance.words, characters + utterance.characters)
    return dict(sorted(found.items()))


def check_comparable(first: Score, second: Score) -> None:
    """Check that two systems were scored on the same utterances under the same normalizer.

    Raises:
        EvaluationError: other normalizers, utterances or references.
    """
    if first.normalizer != second.normalizer:
        raise EvaluationError(
            f"one score is under the normalizer {first.normalizer!r}, the other under {second.normalizer!r}",
            expected="one normalizer for both",
            remedy="Score both again with the same one: error rates under different normalizers are not comparable",
        )
    if list(first.utterances) != list(second.utterances):
        raise EvaluationError("the two scores are not of the same utterances", expected="the same ids in one order")
    for utterance_id, scored in first.utterances.items():
        if scored.reference != second.utterances[utterance_id].reference:
            raise EvaluationError("the two scores have different references", where=utterance_id, expected="the same")


def _check_ids(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> None:
    if not references:
        raise EvaluationError(
            "the test set is empty",
            expected="at least one utterance",
            remedy="Check the manifest that it was read from",
        )
    missing = [utterance_id for utterance_id in references if utterance_id not in hypotheses]
    unknown = [utterance_id for utterance_id in hypotheses if utterance_id not in references]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(references)} references lack a hypothesis ({examples(missing)})")
    if unknown:
        problems.append(f"{len(unknown)} of {len(hypotheses)} hypotheses lack a reference ({examples(unknown)})")
    if problems:
        raise EvaluationError(
            "; ".join(problems),
            expected="the same utterance ids on both sides",
            remedy="Score hypotheses of exactly this test set; an empty hypothesis still needs its id",
        )


def spaced(text: str) -> str:
    """Words separated by one space, so that white space can be no error."""
    return " ".join(text.split())


def count_edits(alignment: Alignment) -> ErrorCounts:
    """The errors of an alignment."""
    lengths: dict[EditKind, int] = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
    for edit in alignment:
        lengths[edit.kind] += edit.length
    return ErrorCounts(lengths["substitute"], lengths["delete"], lengths["insert"], lengths["equal"])
