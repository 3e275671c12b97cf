"""Known answers first, then what must hold for any pair of texts."""

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.errors import EvaluationError
from asr_kd.scoring.wer import ErrorCounts, align_words, score

TEXTS = st.lists(st.sampled_from(["a", "b", "see", "dee"]), max_size=8).map(" ".join)
LISTS = st.lists(st.sampled_from(["a", "b", "see", "dee", "e"]), max_size=12)


def test_counts_of_a_known_pair():
    scored = score({"u": "the cat sat on the mat"}, {"u": "a cat sat the mat now"}, "none")
    assert scored.words == ErrorCounts(substitutions=1, deletions=1, insertions=1, hits=4)
    assert (scored.words.length, scored.words.errors) == (6, 3)
    assert scored.wer == 0.5


def test_characters_count_the_space_between_words():
    scored = score({"u": "ab cd"}, {"u": "abcd"}, "none")
    assert scored.characters == ErrorCounts(deletions=1, hits=4)
    assert scored.cer == 1 / 5


def test_the_rate_of_a_set_is_of_the_sums_and_not_the_mean_of_rates():
    scored = score({"short": "no", "long": "one two three four"}, {"short": "", "long": "one two three four"}, "none")
    assert scored.wer == 1 / 5
    assert scored.utterances["short"].words == ErrorCounts(deletions=1)


def test_order_of_ids_does_not_matter_and_results_follow_the_references():
    scored = score({"b": "two", "a": "one"}, {"a": "one", "b": "two"}, "none")
    assert scored.words.errors == 0
    assert list(scored.utterances) == ["b", "a"]


def test_words_on_an_empty_reference_are_insertions():
    scored = score({"silence": "", "u": "yes"}, {"silence": "oh well", "u": "yes"}, "none")
    assert scored.words == ErrorCounts(insertions=2, hits=1)
    assert scored.wer == 2.0
    with pytest.raises(EvaluationError, match="2 insertions"):
        _ = scored.utterances["silence"].words.rate


def test_the_normalizer_is_applied_to_both_sides_and_stated():
    references, hypotheses = {"u": "Don't stop, now!"}, {"u": "DON’T STOP NOW"}
    assert score(references, hypotheses, "librispeech").wer == 0
    assert score(references, hypotheses, "librispeech").normalizer == "librispeech"
    assert score(references, hypotheses, "none").wer == 1
    assert score(references, hypotheses, "librispeech").utterances["u"].reference == "DON'T STOP NOW"


def test_white_space_is_no_error():
    assert score({"u": " one\ttwo\n"}, {"u": "one  two"}, "none").words == ErrorCounts(hits=2)
    assert score({"u": " one\ttwo\n"}, {"u": "one  two"}, "none").cer == 0


def test_an_empty_test_set_is_an_error_and_not_zero_percent():
    with pytest.raises(EvaluationError, match="test set is empty"):
        score({}, {}, "none")


def test_references_without_a_word_are_an_error():
    with pytest.raises(EvaluationError, match="all 2 references are empty"):
        score({"a": "", "b": "?!"}, {"a": "", "b": ""}, "librispeech")


def test_other_ids_are_refused_with_examples_from_both_sides():
    with pytest.raises(EvaluationError) as caught:
        score({f"r{n}": "x" for n in range(5)} | {"both": "x"}, {"h1": "x", "both": "x"}, "none")
    assert "5 of 6 references lack a hypothesis (r0, r1, r2, …)" in str(caught.value)
    assert "1 of 2 hypotheses lack a reference (h1)" in str(caught.value)


@settings(deadline=None)  # no test asserts a time
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6).filter(lambda pairs: any(a for a, _ in pairs)))
def test_sums_agree_with_jiwer_and_with_lengths(pairs):
    references = {str(row): reference for row, (reference, _) in enumerate(pairs)}
    hypotheses = {str(row): hypothesis for row, (_, hypothesis) in enumerate(pairs)}
    scored = score(references, hypotheses, "none")
    expected = jiwer.process_words(list(references.values()), list(hypotheses.values()))
    assert scored.wer == pytest.approx(expected.wer)
    assert scored.words.length == sum(len(text.split()) for text in references.values())
    total = sum((utterance.words for utterance in scored.utterances.values()), ErrorCounts())
    assert total == scored.words
    assert scored.words.hits + scored.words.substitutions + scored.words.insertions == sum(
        len(text.split()) for text in hypotheses.values()
    )


@settings(deadline=None)  # no test asserts a time
@given(reference=TEXTS.filter(bool), hypothesis=TEXTS)
def test_swapping_the_sides_swaps_deletions_and_insertions(reference, hypothesis):
    there = score({"u": reference, "anchor": "x"}, {"u": hypothesis, "anchor": "x"}, "none").words
    back = score({"u": hypothesis, "anchor": "x"}, {"u": reference, "anchor": "x"}, "none").words
    assert there.errors == back.errors
    assert there.deletions - there.insertions == back.insertions - back.deletions


@settings(deadline=None)  # no test asserts a time
@given(text=TEXTS.filter(bool))
def test_a_text_has_no_errors_against_itself(text):
    scored = score({"u": text}, {"u": text}, "none")
    assert (scored.wer, scored.cer) == (0, 0)


@settings(deadline=None)  # no test asserts a time
@given(reference=LISTS, hypothesis=LISTS)
def test_errors_are_those_of_jiwer_and_kaldialign(reference, hypothesis):
    kaldialign = pytest.importorskip("kaldialign")
    scored = score({"u": " ".join(reference), "x": "x"}, {"u": " ".join(hypothesis), "x": "x"}, "none")
    ours = scored.utterances["u"].words
    theirs = kaldialign.edit_distance(reference, hypothesis)
    assert ours.errors == theirs["total"]
    # Which of two equally short ways is taken may differ; how much longer one side is cannot.
    assert ours.insertions - ours.deletions == theirs["ins"] - theirs["del"] == len(hypothesis) - len(reference)
    if reference:
        jiwers = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        assert (ours.substitutions, ours.deletions, ours.insertions) == (
            jiwers.substitutions,
            jiwers.deletions,
            jiwers.insertions,
        )


@settings(deadline=None)  # no test asserts a time
@given(reference=LISTS, hypothesis=LISTS)
def test_an_alignment_covers_both_texts_and_its_equal_words_are_equal(reference, hypothesis):
    (alignment,) = align_words([" ".join(reference)], [" ".join(hypothesis)])
    here = there = 0
    for edit in alignment:
        assert (edit.reference_start, edit.hypothesis_start) == (here, there)
        here, there = edit.reference_end, edit.hypothesis_end
        same = reference[edit.reference_start : here] == hypothesis[edit.hypothesis_start : there]
        assert same == (edit.kind == "equal")
    assert (here, there) == (len(reference), len(hypothesis))
