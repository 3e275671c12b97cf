"""tokens.txt round trips, and what is refused in it."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_kd.errors import VocabularyError
from asr_kd.text.vocabulary import BLANK, WORD_SEPARATOR, Vocabulary

characters = st.characters(codec="utf-8", exclude_characters=WORD_SEPARATOR)
texts = st.lists(st.text(characters, max_size=20), min_size=1, max_size=5)


def test_characters_are_blank_separator_then_sorted():
    vocabulary = Vocabulary.characters(["BA D", "A'"])
    assert vocabulary.symbols == (BLANK, WORD_SEPARATOR, "'", "A", "B", "D")
    assert vocabulary.blank_id == 0
    assert len(vocabulary) == 6


def test_known_tokens():
    vocabulary = Vocabulary.characters(["ABC"])
    assert vocabulary.encode(" AB  C ") == [2, 3, 1, 4]
    assert vocabulary.decode([2, 3, 1, 4]) == "AB C"
    assert vocabulary.decode([1, 2, 1, 1, 3, 1]) == "A B"
    assert vocabulary.decode([]) == ""


def test_subword_symbols_decode_to_words():
    vocabulary = Vocabulary((BLANK, "▁THE", "▁C", "AT", "S"))
    assert vocabulary.decode([1, 2, 3, 4]) == "THE CATS"


@given(texts)
def test_decoding_the_encoding_gives_the_words(transcripts):
    vocabulary = Vocabulary.characters(transcripts)
    for text in transcripts:
        tokens = vocabulary.encode(text)
        assert vocabulary.blank_id not in tokens
        assert vocabulary.decode(tokens) == " ".join(text.split())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts)
def test_tokens_txt_round_trip(tmp_path, transcripts):
    vocabulary = Vocabulary.characters(transcripts)
    path = tmp_path / "tokens.txt"
    vocabulary.save(path)
    loaded = Vocabulary.load(path)
    assert loaded == vocabulary
    assert loaded.sha256 == vocabulary.sha256


def test_the_file_is_what_the_client_reads(tmp_path):
    path = tmp_path / "tokens.txt"
    Vocabulary.characters(["AB"]).save(path)
    assert path.read_bytes() == "<blk> 0\n▁ 1\nA 2\nB 3\n".encode()


def test_the_hash_tells_vocabularies_apart():
    assert Vocabulary.characters(["AB"]).sha256 != Vocabulary.characters(["AC"]).sha256
    assert Vocabulary((BLANK, "A", "B")).sha256 != Vocabulary((BLANK, "B", "A")).sha256


def test_unknown_characters_are_named():
    vocabulary = Vocabulary.characters(["AB"])
    assert vocabulary.unknown_characters("AX BÉ X") == ["X", "É"]
    with pytest.raises(VocabularyError, match=r"'X'.*'É'"):
        vocabulary.encode("AX BÉ")


@pytest.mark.parametrize("tokens", [[7], [-1], [0, 99]])
def test_ids_outside_are_refused(tokens):
    with pytest.raises(VocabularyError, match="expected 0 to 3"):
        Vocabulary.characters(["AB"]).decode(tokens)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("A 0\nB 1\n", "no <blk>"),
        ("<blk> 0\nA 2\n", "tokens.txt:2"),
        ("<blk> 0\nA 1\nA 2\n", "ids 1 and 2"),
        ("<blk> 0\nA B 1\n", "white space"),
        ("<blk> 0\n\u00a0 1\n", "white space"),
        ("<blk> 0\n 1\n", "tokens.txt:2"),
        ("<blk> 0\nA one\n", "tokens.txt:2"),
        ("<blk> 0\nA 1\n\n", "tokens.txt:3"),
        ("<blk> 1\nA 0\n", "tokens.txt:1"),
        ("", "tokens.txt:1"),
    ],
)
def test_a_wrong_file_is_refused_by_row(tmp_path, content, message):
    path = tmp_path / "tokens.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.load(path)


def test_an_unreadable_file_is_refused(tmp_path):
    path = tmp_path / "tokens.txt"
    with pytest.raises(VocabularyError, match="cannot be read"):
        Vocabulary.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VocabularyError, match="cannot be read"):
        Vocabulary.load(path)


def test_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_bytes(b"<blk> 0\r\nA 1\r\n")
    assert Vocabulary.load(path).symbols == (BLANK, "A")


def test_the_separator_inside_a_transcript_is_refused():
    with pytest.raises(VocabularyError, match="U\\+2581"):
        Vocabulary.characters(["A▁B"])
