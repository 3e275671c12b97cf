"""Our counts beside jiwer's and kaldialign's, on any pair of texts."""

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.scoring.alignment import align_words
from asr_kd.scoring.wer import score

TEXTS = st.lists(st.sampled_from(["a", "b", "see", "dee", "e"]), max_size=12)
kaldialign = pytest.importorskip("kaldialign")


@settings(deadline=None)  # no test asserts a time
@given(reference=TEXTS, hypothesis=TEXTS)
def test_errors_are_those_of_jiwer_and_kaldialign(reference, hypothesis):
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
@given(reference=TEXTS, hypothesis=TEXTS)
def test_an_alignment_covers_both_texts_and_its_equal_words_are_equal(reference, hypothesis):
    (alignment,) = align_words([" ".join(reference)], [" ".join(hypothesis)])
    here = there = 0
    for edit in alignment:
        assert (edit.reference_start, edit.hypothesis_start) == (here, there)
        here, there = edit.reference_end, edit.hypothesis_end
        same = reference[edit.reference_start : here] == hypothesis[edit.hypothesis_start : there]
        assert same == (edit.kind == "equal")
    assert (here, there) == (len(reference), len(hypothesis))
