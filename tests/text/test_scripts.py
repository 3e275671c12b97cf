"""Languages and scripts: words that differ stay apart, and spellings of one word are equal."""

import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.utterance_checks import check_utterances
from asr_kd.errors import EvaluationError
from asr_kd.scoring.wer import score
from asr_kd.text.normalize import letters_beyond_english, normalize
from asr_kd.text.settings import VocabularySettings, build_vocabulary

DIFFERENT = {
    "Hindi": ("कल", "काल"),
    "Bengali": ("বল", "বলি"),
    "Tamil": ("மரம்", "மரமா"),
    "Thai": ("มา", "ม้า"),
    "Arabic": ("كتب", "كاتب"),
    "Hebrew": ("שלום", "שלם"),
    "Turkish": ("ılık", "ilik"),
    "Russian": ("мел", "мёл"),
    "Greek": ("νόμος", "νομός"),
    "German": ("schon", "schön"),
    "French": ("pêche", "péché"),
    "Korean": ("말", "물"),
    "Japanese": ("はは", "はば"),
}
EQUAL = {
    "Persian with and without ZWNJ": ("می\u200cروم", "میروم"),
    "Hindi with ZWJ": ("क्\u200dष", "क्ष"),
    "soft hyphen": ("Wörter\u00adbuch", "wörterbuch"),
    "Greek final sigma": ("ΝΟΜΟΣ", "νομος"),
    "German": ("Straße", "STRASSE"),
    "Russian": ("Привет, мир!", "привет мир"),
    "composed": ("cafe\u0301", "CAFÉ"),
    "full width": ("ＡＢＣ１", "abc1"),
    "Spanish": ("¿Qué tal?", "qué tal"),
    "Catalan": ("Col·legi", "col·legi"),
    "French": ("L’eau «vive»", "l'eau vive"),
    "French with an acute accent for the apostrophe": ("l´eau", "l'eau"),
    "Japanese with a variation selector": ("\u845b\U000e0100", "\u845b"),
    "Hangul fillers": ("\u3164\u1112\u3164\u1161", "하"),
    "degrees with a ring": ("20˚ und 5¨", "20 und 5"),
    "Japanese with a detached mark": ("か゛ ー", "か ー"),
    "direction marks": ("\u200fשלום\u200e", "שלום"),
}


@pytest.mark.parametrize("language", DIFFERENT)
def test_words_that_differ_stay_apart(language):
    for normalizer in ("unicode", "librispeech"):
        first, second = (normalize(word, normalizer) for word in DIFFERENT[language])
        assert first != second
        assert len(first.split()) == len(second.split()) == 1


@pytest.mark.parametrize("language", EQUAL)
def test_spellings_of_one_word_are_equal(language):
    first, second = (normalize(word, "unicode") for word in EQUAL[language])
    assert first == second


@pytest.mark.parametrize("word", ["می\u200cروم", "Wörter\u00adbuch", "क्\u200dष"])
def test_the_english_rules_do_not_split_words_at_invisible_characters(word):
    assert len(normalize(word, "librispeech").split()) == 1


@given(st.text())
def test_any_text_twice_is_once(text):
    for normalizer in ("unicode", "librispeech"):
        once = normalize(text, normalizer)
        assert normalize(once, normalizer) == once
        assert once == " ".join(once.split())


def test_no_word_begins_with_a_mark():
    """Every character of Unicode by itself, and after a letter."""
    for code in (*range(0xD800), *range(0xE000, 0x30000)):
        character = chr(code)
        for word in normalize(f"{character} a{character} {character}b", "unicode").split():
            assert unicodedata.category(word[0])[0] != "M", hex(code)


def test_letters_beyond_english_are_named():
    assert letters_beyond_english(["It's a café, naïve Dvořák — “so” 21 ½"]) == ""
    assert letters_beyond_english(["ılık", "कि"]) == "ıकि"


def test_whispers_rules_refuse_other_scripts():
    with pytest.raises(EvaluationError, match="hold क ल ा; expected English"):
        score({"u": "कल काल"}, {"u": "कल"}, "whisper")


def test_english_rules_on_another_script_are_a_warning_and_a_note(caplog, tmp_path):
    settings = VocabularySettings()
    with caplog.at_level(logging.WARNING):
        build_vocabulary(settings, ["привет мир"])
    assert "the transcripts hold в е и м п р т. Set vocabulary.normalizer" in caplog.text
    report = check_utterances([Utterance("u", tmp_path / "a.wav", 1.0, "привет", "s")], None, "librispeech")
    assert [row.detail for row in report.notes] == ["веипрт: the normalizer librispeech is for English; use unicode"]
    caplog.clear()
    vocabulary = build_vocabulary(VocabularySettings(normalizer="unicode"), ["Привет, МИР"])
    assert not caplog.text
    assert vocabulary.symbols == ("<blk>", "▁", *sorted("приветм"))
    assert VocabularySettings(normalizer="unicode", alphabet="abc'").alphabet == "abc'"
    with pytest.raises(ValueError, match="normalizer unicode never writes A"):
        VocabularySettings(normalizer="unicode", alphabet="A")
