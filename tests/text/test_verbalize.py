"""Written forms that Whisper produced on AN4 and LibriSpeech, and forms that no speech of ours holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import VocabularyError
from asr_kd.text.normalize import normalize
from asr_kd.text.verbalize import MAX_READINGS, strip_annotations, verbalize


def readings(text: str) -> list[str]:
    return [normalize(reading, "librispeech") for reading in verbalize(text)]


@pytest.mark.parametrize(
    ("written", "first"),
    [
        ("Enter 45821.", "ENTER FOUR FIVE EIGHT TWO ONE"),
        ("M-A-R-G-A-R-E-T.", "M A R G A R E T"),
        ("WH-IT-N-E-Y.", "W H I T N E Y"),
        ("U.S.A.", "U S A"),
        ("Mr. Smith & Dr. Jones", "MISTER SMITH AND DOCTOR JONES"),
        ("In 1984", "IN NINETEEN EIGHTY FOUR"),
        ("in 1905", "IN NINETEEN OH FIVE"),
        ("1,305 miles", "ONE THOUSAND THREE HUNDRED FIVE MILES"),
        ("the 21st", "THE TWENTY FIRST"),
        ("January 12, 1966.", "JANUARY TWELFTH NINETEEN SIXTY SIX"),
        ("3.5%", "THREE POINT FIVE PERCENT"),
        ("$5.20", "FIVE DOLLARS AND TWENTY CENTS"),
        ("£1", "ONE POUND"),
        ("$1.5 million", "ONE POINT FIVE MILLION DOLLARS"),
        ("it cost £2,000 million", "IT COST TWO THOUSAND MILLION POUNDS"),
        ("in 2000", "IN TWO THOUSAND"),
        ("in 2005", "IN TWO THOUSAND FIVE"),
        ("in 2010", "IN TWENTY TEN"),
        ("the 2000s", "THE TWO THOUSANDS"),
        ("1000s of them", "THOUSANDS OF THEM"),
        ("at 10:30", "AT TEN THIRTY"),
        ("at 3:00", "AT THREE O'CLOCK"),
        ("the 1990s", "THE NINETEEN NINETIES"),
        ("Chapter IV", "CHAPTER FOUR"),
        ("555-1234", "FIVE FIVE FIVE ONE TWO THREE FOUR"),
        ("I'm here, e-mail me", "I'M HERE E MAIL ME"),
        ("[BLANK_AUDIO]", ""),
        ("♪ la la ♪ yes (laughs)", "YES"),
    ],
)
def test_the_most_usual_reading_comes_first(written, first):
    assert readings(written)[0] == first


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Enter 45821.", "ENTER FORTY FIVE THOUSAND EIGHT HUNDRED TWENTY ONE"),
        ("5809.5", "FIFTY EIGHT OH NINE AND A HALF"),
        ("516-69", "FIVE SIXTEEN SIXTY NINE"),
        ("CTLE7612.", "C T L E SEVENTY SIX TWELVE"),
        ("JOSEPH.", "J O S E P H"),
        ("1984", "ONE NINE EIGHT FOUR"),
        ("007", "OH OH SEVEN"),
        ("305", "THREE HUNDRED AND FIVE"),
        ("a $5 million house", "A FIVE MILLION DOLLAR HOUSE"),
        ("2005", "TWENTY OH FIVE"),
    ],
)
def test_other_readings_are_among_them(written, spoken):
    assert spoken in readings(written)


def test_a_text_all_in_capitals_keeps_its_words():
    assert readings("HE WAS NOT AT ALL PLEASED BY IT") == ["HE WAS NOT AT ALL PLEASED BY IT"]


def test_numbers_in_another_language():
    assert verbalize("Es kostet 21 Mark", "de")[0] == "Es kostet einundzwanzig Mark"


def test_an_ordinal_is_read_as_a_cardinal_where_num2words_has_no_ordinals():
    assert verbalize("21st", "cs") == ["dvacet jedna"]
    assert verbalize("0th", "pl") == ["zero"]


@pytest.mark.parametrize("form", ["${}", "{}th", "{}", "{}.5", "1-{}"])
def test_a_number_of_any_length_is_read(form):
    """A recognizer that repeats itself writes such numbers."""
    for number in ("1" + ",000" * 150, "9" * 5000):
        for reading in verbalize(form.format(number)):
            assert not any(symbol.isdigit() for symbol in reading)


def test_no_digit_of_a_group_is_lost():
    assert all("EIGHT NINE" in reading for reading in readings("1-5551234567890123456789"))


def test_an_unknown_language_is_refused_by_name():
    with pytest.raises(VocabularyError, match="'xx'"):
        verbalize("21", "xx")


def test_annotations_only_are_removed():
    assert strip_annotations("[NOISE] yes  (coughs) no") == "yes no"


@given(st.text(max_size=60))
def test_any_text_has_a_reading_and_few_of_them(text):
    found = verbalize(text)
    assert 1 <= len(found) <= MAX_READINGS
    assert len(set(found)) == len(found)


@given(st.integers(0, 10**14), st.sampled_from(["{}", "{:,}", "${}", "{}th", "A{}", "{}.5", "0{}"]))
def test_no_ascii_digit_is_left(number, form):
    assert not any(symbol in "0123456789" for reading in verbalize(form.format(number)) for symbol in reading)
