"""Comparable words: what is rewritten and what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.text.normalize import normalize


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("hello world", "HELLO WORLD"),
        ("  Hello,\tworld!\n", "HELLO WORLD"),
        ("don’t", "DON'T"),
        ("ʼtis — ‘so’", "'TIS 'SO'"),
        ("twenty-one", "TWENTY ONE"),
        ("I'M 21", "I'M 21"),
        ("cafe\u0301", "CAFÉ"),
        ("straße", "STRASSE"),
        ("a ' b '' c", "A B C"),
        ("under_score", "UNDER SCORE"),
        ("…?!", ""),
        ("", ""),
    ],
)
def test_librispeech_known_answers(given_text, expected):
    assert normalize(given_text, "librispeech") == expected


@given(st.text())
def test_twice_is_once(text):
    once = normalize(text, "librispeech")
    assert normalize(once, "librispeech") == once


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_plain_letters_take_a_shorter_way_to_the_same(text):
    assert normalize(f"{text} é", "librispeech") == f"{normalize(text, 'librispeech')} É".strip()


@given(st.text())
def test_only_words_with_single_spaces_are_left(text):
    words = normalize(text, "librispeech")
    assert words == " ".join(words.split())
    assert all(symbol in "' " or symbol.isalnum() or not symbol.isascii() for symbol in words)


@given(st.text())
def test_none_changes_nothing(text):
    assert normalize(text, "none") == text


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="expected one of none, librispeech, unicode, whisper"):
        normalize("a", "kaldi")  # type: ignore[arg-type]
