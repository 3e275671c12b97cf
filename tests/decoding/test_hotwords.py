"""Hotwords against a count of their occurrences: parts are given back, whole ones kept, borders of words respected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.decoding.beam import BeamSearch
from asr_kd.decoding.lexicon import Hotwords, written_hotword
from asr_kd.decoding.settings import DecodingSettings
from asr_kd.errors import LanguageModelError
from asr_kd.text.vocabulary import Vocabulary

SCORE = 6.0


def total(hotwords: Hotwords, symbols: list[str]) -> float:
    """What a text earns, symbol by symbol."""
    state, earned = hotwords.start, 0.0
    for symbol in symbols:
        state, added = hotwords.advance(state, symbol)
        earned += added
    return earned + hotwords.finish(state)


def occurrences(text: str, phrase: str) -> int:
    words, wanted = text.split(), phrase.split()
    return sum(words[place : place + len(wanted)] == wanted for place in range(len(words)))


texts = st.lists(st.text("AB", min_size=1, max_size=3), max_size=6).map(" ".join)
phrases = st.lists(st.lists(st.text("AB", min_size=1, max_size=3), min_size=1, max_size=3).map(" ".join), max_size=4)


@given(text=texts, given_phrases=phrases, by_words=st.booleans())
def test_a_text_earns_the_score_of_each_occurrence(text, given_phrases, by_words):
    hotwords = Hotwords(given_phrases, SCORE)
    symbols = [word + "▁" for word in text.split()] if by_words else list(text.replace(" ", "▁"))
    expected = SCORE * sum(occurrences(text, phrase) for phrase in set(given_phrases))
    assert total(hotwords, symbols) == pytest.approx(expected, abs=1e-9)


def test_a_phrase_does_not_match_inside_a_word():
    hotwords = Hotwords(["CAT"], SCORE)
    assert total(hotwords, list("CATALOG")) == pytest.approx(0)
    assert total(hotwords, list("A▁BOBCAT")) == pytest.approx(0)
    assert total(hotwords, list("A▁CAT▁SAT")) == pytest.approx(SCORE)
    assert total(hotwords, ["▁CA", "T"]) == pytest.approx(SCORE), "subwords begin with the separator"


def test_parts_are_given_in_advance_and_given_back():
    hotwords = Hotwords(["CAT"], SCORE)
    state, earned = hotwords.start, []
    for symbol in "CAB":
        state, added = hotwords.advance(state, symbol)
        earned.append(added)
    assert earned == pytest.approx([SCORE / 4, SCORE / 4, -SCORE / 2])


def test_no_phrase_earns_nothing():
    assert total(Hotwords([], SCORE), list("ANY▁TEXT")) == 0


@pytest.mark.parametrize(
    ("symbols", "phrase", "written"),
    [("ABC'", "Ab c", "AB C"), ("abc", "CAB", "cab"), ("aAbB", "Ab", "Ab"), ("É", "e\u0301", "É")],
)
def test_hotwords_are_written_as_the_vocabulary_writes(symbols, phrase, written):
    assert written_hotword(phrase, Vocabulary(("<blk>", "▁", *symbols))) == written


def test_characters_of_marks_are_no_characters_of_the_text():
    vocabulary = Vocabulary(("<blk>", "▁", *"ABKLNSU", "<unk>", "<unused-12>"))
    assert written_hotword("bulk sun", vocabulary) == "BULK SUN"
    with pytest.raises(LanguageModelError, match="holds '1', '2'"):
        written_hotword("12", vocabulary)


@pytest.mark.parametrize(("phrase", "found"), [("AB3", "'3'"), ("привет", "'в', 'е', 'и', 'п', 'р', 'т'")])
def test_a_hotword_that_cannot_match_is_refused_by_name(phrase, found):
    with pytest.raises(LanguageModelError, match=f"the hotword '{phrase}' holds {found}"):
        BeamSearch(Vocabulary(("<blk>", "▁", *"ABC")), DecodingSettings(kind="beam", hotwords=(phrase,)))
