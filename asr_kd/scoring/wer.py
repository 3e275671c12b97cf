"""Word and character errors of hypotheses against references, matched by utterance id.

The alignment is that of `alignment`; intervals are in `significance`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TypeVar

from asr_kd.errors import EvaluationError, examples
from asr_kd.scoring.alignment import Alignment, align_characters, align_words
from asr_kd.text.normalize import ScoringNormalizer, letters_beyond_english, normalize


@dataclass(frozen=True, slots=True)
class EditCounts:
    """Edits that turn references into hypotheses, and the tokens that needed none."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors divided by the references' length, a fraction; above 1 when insertions abound.

        Raises:
            EvaluationError: the references are empty, so that there is no rate.
        """
        if not self.reference_length:
            raise EvaluationError(
                f"an error rate over empty references ({self.insertions} insertions) does not exist",
                expected="at least one word in the references",
            )
        return self.errors / self.reference_length

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
        )


Counts = TypeVar("Counts", bound=EditCounts)


@dataclass(frozen=True, slots=True)
class WordErrors(EditCounts):
    """Word errors of one utterance, or summed over many."""

    @property
    def words(self) -> int:
        return self.reference_length

    @property
    def wer(self) -> float:
        """Word error rate, a fraction. Raises EvaluationError when the references hold no word."""
        return self.rate

    @property
    def row(self) -> dict[str, int]:
        """Edits and reference words as a row of results."""
        edits = {"substitutions": self.substitutions, "deletions": self.deletions, "insertions": self.insertions}
        return edits | {"words": self.words}


@dataclass(frozen=True, slots=True)
class CharacterErrors(EditCounts):
    """Character errors; one space between words counts as a character."""

    @property
    def characters(self) -> int:
        return self.reference_length

    @property
    def cer(self) -> float:
        """Character error rate, a fraction. Raises EvaluationError when the references hold no character."""
        return self.rate


@dataclass(frozen=True, slots=True)
class UtteranceScore:
    """One utterance as it was scored: both texts after the normalizer."""

    reference: str
    hypothesis: str
    words: WordErrors
    characters: CharacterErrors
    alignment: Alignment
    """Of the words of both texts."""


@dataclass(frozen=True, slots=True)
class Score:
    """A test set's errors: every utterance by id, in the references' order, and the sums."""

    normalizer: ScoringNormalizer
    utterances: dict[str, UtteranceScore]
    words: WordErrors
    characters: CharacterErrors

    @property
    def wer(self) -> float:
        return self.words.wer

    @property
    def cer(self) -> float:
        return self.characters.cer


@dataclass(frozen=True, slots=True)
class GroupErrors:
    """The sums of some of a set's utterances, such as a speaker's."""

    utterances: int
    words: WordErrors
    characters: CharacterErrors


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
    if normalizer == "whisper":
        _check_english(references)
    reference_texts = [spaced(normalize(text, normalizer)) for text in references.values()]
    hypothesis_texts = [spaced(normalize(hypotheses[utterance_id], normalizer)) for utterance_id in references]
    if not any(reference_texts):
        raise EvaluationError(
            f"all {len(references)} references are empty after the normalizer {normalizer!r}",
            expected="at least one word",
            remedy="Look at the texts of this test set; `asr-kd check` lists empty transcripts",
        )
    alignments = align_words(reference_texts, hypothesis_texts)
    words = [count_words(alignment) for alignment in alignments]
    characters = [
        _counted(CharacterErrors, alignment) for alignment in align_characters(reference_texts, hypothesis_texts)
    ]
    scored = map(UtteranceScore, reference_texts, hypothesis_texts, words, characters, alignments)
    return Score(
        normalizer=normalizer,
        utterances=dict(zip(references, scored, strict=True)),
        words=sum(words, WordErrors()),
        characters=sum(characters, CharacterErrors()),
    )


def score_groups(scored: Score, groups: Mapping[str, str]) -> dict[str, GroupErrors]:
    """The errors of each group of utterances, such as each speaker's, in the order of the groups' names."""
    members: dict[str, list[UtteranceScore]] = {}
    for utterance_id, utterance in scored.utterances.items():
        members.setdefault(groups[utterance_id], []).append(utterance)
    return {
        group: GroupErrors(
            len(members[group]),
            sum((item.words for item in members[group]), WordErrors()),
            sum((item.characters for item in members[group]), CharacterErrors()),
        )
        for group in sorted(members)
    }


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


def count_words(alignment: Alignment) -> WordErrors:
    """The word errors of an alignment."""
    return _counted(WordErrors, alignment)


def _check_english(references: Mapping[str, str]) -> None:
    """Refuse other scripts, of which Whisper's English normalizer drops marks, so that different words are equal."""
    beyond = letters_beyond_english(references.values())
    if beyond:
        raise EvaluationError(
            f"the references hold {' '.join(beyond[:20])}",
            expected="English under the normalizer 'whisper'",
            remedy="Score with the normalizer 'unicode', which is for all scripts",
        )


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


def _counted(kind: type[Counts], alignment: Alignment) -> Counts:
    counts = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
    for edit in alignment:
        counts[edit.kind] += edit.length
    return kind(counts["substitute"], counts["delete"], counts["insert"], counts["equal"])
