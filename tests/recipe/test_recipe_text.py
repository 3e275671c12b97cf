"""The recipe that `asr-kd init` writes, for every kind of corpus and start of the student."""

from pathlib import Path

import pytest

from asr_kd.models.settings import WhisperSettings
from asr_kd.recipe.recipe_text import FoundCorpus, render_recipe
from asr_kd.recipe.settings import Recipe, load_recipe

SETTINGS = {"kind": "manifest", "train": "train.jsonl", "dev": "dev.jsonl"}


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(train_hours: float, start=None, language: str = "en", **found) -> Recipe:
        corpus = FoundCorpus(SETTINGS, "recordings", train_hours, **found)
        path = Path("mine.yaml")
        path.write_text(render_recipe("mine", Path("recordings"), corpus, "openai/whisper-base", language, start))
        return load_recipe(path, [])

    return write


@pytest.mark.parametrize("train_hours", [0.0, 3.7, 40.0, 2000.0])
@pytest.mark.parametrize("start", ["conformer", "whisper"])
@pytest.mark.parametrize("transcribed", [True, False])
def test_it_is_a_recipe(written, train_hours, start, transcribed):
    recipe = written(train_hours, start, transcribed=transcribed, alphabet=None if transcribed else "AB")
    assert list(recipe.students) == (["student-hard", "student-kd"] if transcribed else ["student"])
    assert all(isinstance(each.model, WhisperSettings) == (start == "whisper") for each in recipe.students.values())
    assert list(recipe.hypotheses) == ([] if transcribed else ["whisper"])


def test_audio_without_transcripts_begins_from_whisper_and_audio_with_them_from_random_weights(written):
    assert isinstance(written(3.7, transcribed=False, alphabet="AB").students["student"].model, WhisperSettings)
    assert not isinstance(written(3.7).students["student-hard"].model, WhisperSettings)


def test_the_whisper_of_another_language_is_the_multilingual_one(written):
    for language, name in (("en", "openai/whisper-tiny.en"), ("de", "openai/whisper-tiny")):
        recipe = written(3.7, "whisper", language)
        assert recipe.students["student-hard"].model.init == f"hf:{name}"
        assert recipe.teachers["own"].source == f"encoder:{name}"


def test_subwords_are_learned_where_there_is_text_for_them(written):
    assert written(3.7, "whisper", subwords=True, alphabet="AB").vocabulary.kind == "bpe"
    assert written(3.7, "whisper").vocabulary.kind == "characters"
    assert written(3.7, "conformer", subwords=True).vocabulary.kind == "characters"


def test_epochs_follow_the_hours_and_many_hours_train_the_layers(written):
    few, many = (written(hours, "whisper").students["student-hard"] for hours in (3.7, 40.0))
    assert (few.stages[0].train.epochs, few.train.epochs, few.train.layers_rate) == (10, 8, 0)  # recipes/Whisper
    assert (many.stages[0].train.epochs, many.train.epochs, many.train.layers_rate) == (2, 2, 0.1)


@pytest.mark.parametrize("start", ["conformer", "whisper"])
def test_another_script_is_scored_in_its_own_letters(written, start):
    assert written(3.7, start, "de", normalizer="unicode").evaluate.normalizer == "unicode"
    assert written(3.7, start).evaluate.normalizer == "librispeech"
