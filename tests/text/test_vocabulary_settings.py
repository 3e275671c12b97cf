"""Which vocabulary a recipe's settings give, and which settings make no sense."""

import gzip

import pytest

from asr_kd.config import parse_settings
from asr_kd.errors import AsrKdError, RecipeError, VocabularyError
from asr_kd.text.settings import VocabularySettings, build_vocabulary, vocabulary_fingerprint
from asr_kd.text.vocabulary import BLANK, WORD_SEPARATOR, Vocabulary

TEXTS = ["the cat sat", "on the mat."]
NORMALIZED = ["THE CAT SAT", "ON THE MAT"]


def test_characters_and_subwords_come_from_normalized_transcripts():
    assert build_vocabulary(VocabularySettings(), TEXTS) == Vocabulary.characters(NORMALIZED)
    found = build_vocabulary(VocabularySettings(kind="bpe", size=14), TEXTS)
    assert found == Vocabulary.subwords(NORMALIZED, 14)


def test_an_alphabet_needs_no_transcripts():
    found = build_vocabulary(VocabularySettings(alphabet="B A'"), [])
    assert found.symbols == (BLANK, WORD_SEPARATOR, "'", "A", "B")


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_file_serves_as_it_is_and_its_change_is_noticed(tmp_path, named):
    vocabulary = Vocabulary.subwords(NORMALIZED, 14)
    vocabulary.save(tmp_path / "tokens.txt")
    settings = VocabularySettings(kind="file", path=tmp_path / "tokens.txt" if named == "file" else tmp_path)
    assert build_vocabulary(settings, []) == vocabulary
    before = vocabulary_fingerprint(settings)
    assert len(before) == 2
    Vocabulary.characters(NORMALIZED).save(tmp_path / "tokens.txt")
    assert vocabulary_fingerprint(settings) != before
    assert vocabulary_fingerprint(VocabularySettings()) == []


@pytest.mark.parametrize("name", ["some.txt", "some.txt.gz"])
def test_subwords_of_a_text_need_no_transcripts_and_its_change_is_noticed(tmp_path, name):
    def write(sentences):
        with (gzip.open if name.endswith(".gz") else open)(tmp_path / name, "wt") as file:
            file.write("\n".join(sentences))

    write(TEXTS)
    settings = VocabularySettings(kind="bpe", size=14, text=tmp_path / name)
    assert build_vocabulary(settings, ["ZZZ"]) == Vocabulary.subwords(NORMALIZED, 14)
    before = vocabulary_fingerprint(settings)
    write(TEXTS[:1])
    assert vocabulary_fingerprint(settings) != before


@pytest.mark.parametrize(
    "settings", [{"kind": "file", "path": "tokens.txt"}, {"kind": "bpe", "size": 14, "text": "tokens.txt"}]
)
def test_what_is_not_there_is_named(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = VocabularySettings(**settings)
    for use in (lambda: build_vocabulary(found, []), lambda: vocabulary_fingerprint(found)):
        with pytest.raises(AsrKdError, match=r"tokens\.txt"):
            use()


@pytest.mark.parametrize("settings", [VocabularySettings(), VocabularySettings(kind="bpe", size=20)])
def test_without_transcripts_the_ways_out_are_named(settings):
    with pytest.raises(VocabularyError, match=r"no transcripts.*kind: file"):
        build_vocabulary(settings, ["", " - "])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "bpe"}, "needs size"),
        ({"kind": "bpe", "text": "some.txt"}, "needs size"),
        ({"kind": "file"}, "needs path"),
        ({"size": 100}, "size belongs to kind: bpe"),
        ({"text": "some.txt"}, "text belongs to kind: bpe"),
        ({"kind": "bpe", "size": 100, "alphabet": "ABC"}, "alphabet belongs to kind: characters"),
        ({"alphabet": "ABc"}, "never writes c"),
        ({"alphabet": " "}, "holds no character"),
        ({"kind": "bpe", "size": 1}, "at least 3"),
        ({"kind": "unigram"}, "'characters', 'bpe' or 'file'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        parse_settings(VocabularySettings, given, "recipe.yaml")
