"""Subwords: round trips, order, what cannot be written, files that do not belong together."""

import copy
import io

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import VocabularyError
from asr_kd.text.bpe import BpeModel
from asr_kd.text.vocabulary import BLANK, WORD_SEPARATOR, Vocabulary

TEXTS = ["THE CAT SAT ON THE MAT", "A DOG'S LIFE", "THE DOG AND THE CAT"]
SIZE = 30
LETTERS = "".join(sorted({character for text in TEXTS for character in text if character != " "}))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.subwords(TEXTS, SIZE)


def test_the_blank_comes_first_and_subwords_begin_words_with_the_separator(vocabulary):
    assert len(vocabulary) == SIZE
    assert vocabulary.symbols[0] == BLANK
    assert "▁THE" in vocabulary.symbols
    assert "<unk>" not in vocabulary.symbols
    assert set(LETTERS) <= set(vocabulary.symbols)
    assert len(vocabulary.encode("THE CAT")) < len(Vocabulary.characters(TEXTS).encode("THE CAT"))


@given(st.lists(st.text(LETTERS, min_size=1, max_size=8), max_size=6))
def test_decoding_the_encoding_gives_the_words(vocabulary, words):
    tokens = vocabulary.encode("  ".join(words))
    assert vocabulary.blank_id not in tokens
    assert vocabulary.decode(tokens) == " ".join(words)


def test_white_space_of_any_kind_is_one_space(vocabulary):
    assert vocabulary.encode("\tTHE\u00a0 CAT\n") == vocabulary.encode("THE CAT")
    assert vocabulary.encode(" ") == []


def test_learning_is_the_same_every_time_and_in_any_order(vocabulary):
    assert Vocabulary.subwords(reversed(TEXTS), SIZE) == vocabulary
    assert Vocabulary.subwords(TEXTS, SIZE + 1).sha256 != vocabulary.sha256


def test_no_sentence_is_too_long_to_learn_from():
    """sentencepiece passes over lines above 4,192 bytes unless told otherwise."""
    vocabulary = Vocabulary.subwords(["AB " * 3_000 + "Q", "AB"], 6)
    assert vocabulary.unknown_characters("Q") == []
    assert len(Vocabulary.subwords(["AB", "C"], 5)) == 5


def test_unknown_characters_are_named(vocabulary):
    assert vocabulary.unknown_characters("THE XÉX CAT") == ["X", "É"]
    assert vocabulary.unknown_characters("THE CAT") == []
    with pytest.raises(VocabularyError, match=r"'X'.*'É'"):
        vocabulary.encode("AX BÉ")
    assert "<" in vocabulary.unknown_characters("THE <blk>")


def test_the_hash_covers_how_text_is_cut(vocabulary):
    assert vocabulary.sha256 != Vocabulary(vocabulary.symbols).sha256


def test_files_round_trip_and_a_stale_model_goes(vocabulary, tmp_path):
    path = tmp_path / "tokens.txt"
    vocabulary.save(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bpe.model", "tokens.txt"]
    loaded = Vocabulary.load(path)
    assert loaded == vocabulary
    assert loaded.sha256 == vocabulary.sha256
    assert loaded.encode("A CAT'S LIFE") == vocabulary.encode("A CAT'S LIFE")
    Vocabulary.characters(TEXTS).save(path)
    assert Vocabulary.load(path) == Vocabulary.characters(TEXTS)


def test_subwords_without_their_model_are_decoded_but_never_guessed_at(vocabulary, tmp_path):
    path = tmp_path / "tokens.txt"
    vocabulary.save(path)
    (tmp_path / "bpe.model").unlink()
    bare = Vocabulary.load(path)
    assert bare.decode(vocabulary.encode("THE CAT")) == "THE CAT"
    with pytest.raises(VocabularyError, match=r"no bpe\.model"):
        bare.encode("THE CAT")


def test_marks_do_not_make_a_vocabulary_of_subwords():
    assert Vocabulary((BLANK, "<unk>", WORD_SEPARATOR, "A")).encode("A A") == [3, 2, 3]


def test_files_of_two_vocabularies_are_refused(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "tokens.txt")
    model = tmp_path / "bpe.model"
    model.write_bytes(Vocabulary.subwords(TEXTS, SIZE - 1).bpe or b"")
    with pytest.raises(VocabularyError, match=r"id \d+ is .* there and .* in tokens.txt"):
        Vocabulary.load(tmp_path / "tokens.txt")
    model.write_bytes(b"not a model at all")
    with pytest.raises(VocabularyError, match="not a sentencepiece model"):
        Vocabulary.load(tmp_path / "tokens.txt")
    model.write_bytes(b"")
    with pytest.raises(VocabularyError, match="empty"):
        Vocabulary.load(tmp_path / "tokens.txt")


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        (TEXTS, 5, "at least 17: 15 characters"),
        (TEXTS, 5_000, r"at most \d+"),
        ([" ", ""], 30, "no transcripts"),
        (["A▁B"], 30, r"U\+2581"),
        (["A▅B"], 30, r"U\+2585"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_what_can(texts, size, message):
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.subwords(texts, size)


def test_the_least_size_is_as_the_message_says():
    assert len(Vocabulary.subwords(TEXTS, 17)) == 17


def model_of_another_system() -> bytes:
    """As icefall trains them: blank and <unk> are pieces of their own, and rare characters have none."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS * 50, "Q"]),
        model_writer=content,
        model_type="bpe",
        vocab_size=30,
        character_coverage=0.999,
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return content.getvalue()


def test_a_model_of_another_system_serves():
    content = model_of_another_system()
    vocabulary = Vocabulary(BpeModel(content).symbols, content)
    assert vocabulary.symbols[:3] == ("<blk>", "<sos/eos>", "<unk>")
    assert vocabulary.decode(vocabulary.encode("THE CAT")) == "THE CAT"
    assert vocabulary.unknown_characters("THE QAT") == ["Q"]
    assert vocabulary.unknown_characters("A<blk>") != []


def test_a_vocabulary_survives_pickling(vocabulary):
    """Reading processes get copies."""
    assert copy.deepcopy(vocabulary).encode("THE CAT") == vocabulary.encode("THE CAT")
