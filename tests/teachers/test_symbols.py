"""Other projects' labels in our vocabulary: ids stay, names are distinct and printable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import VocabularyError
from asr_kd.teachers.base import ctc_vocabulary
from asr_kd.text.vocabulary import BLANK, WORD_SEPARATOR


def test_blank_and_separator_get_our_names_and_the_rest_stays():
    vocabulary = ctc_vocabulary(("<pad>", "<s>", "|", "E", "T"), 0, "|", "here")
    assert vocabulary.symbols == ("<blk>", "<s>", "▁", "E", "T")
    assert vocabulary.decode([3, 4, 2, 3]) == "ET E"


def test_pieces_that_carry_their_separator_stay():
    assert ctc_vocabulary(("▁", "▁the", "s", "<blank>"), 3, None, "here").symbols == ("▁", "▁the", "s", "<blk>")


def test_a_bar_is_a_bar_where_it_is_not_the_separator():
    assert ctc_vocabulary(("<pad>", "|", " "), 0, " ", "here").symbols == ("<blk>", "|", "▁")


def test_what_cannot_be_printed_or_is_taken_is_named_by_its_id():
    labels = ("<pad>", None, "", "a b", "▁", "|", "<blk>", "a", "a")
    assert ctc_vocabulary(labels, 0, "|", "here").symbols == (
        *("<blk>", "<unused-1>", "<unused-2>", "<unused-3>"),
        *("▁", "<unused-5>", "<unused-6>", "a", "<unused-8>"),
    )


@given(st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1, max_size=12), st.data())
def test_any_labels_make_a_vocabulary_with_every_id_and_one_blank(labels, data):
    blank = data.draw(st.integers(0, len(labels) - 1))
    separator = data.draw(st.one_of(st.none(), st.sampled_from(labels)))
    vocabulary = ctc_vocabulary(labels, blank, separator, "here")
    assert len(vocabulary) == len(labels)
    assert vocabulary.blank_id == blank
    if separator is not None and labels.index(separator) != blank and separator != BLANK:
        assert WORD_SEPARATOR in vocabulary.symbols


@pytest.mark.parametrize("blank", [None, -1, 3])
def test_without_a_blank_it_is_refused(blank):
    with pytest.raises(VocabularyError, match=r"here: blank is .* one of the 3 outputs"):
        ctc_vocabulary(("a", "b", "c"), blank, None, "here")
