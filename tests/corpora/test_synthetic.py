"""Synthetic speech: the same bytes for a seed, nobody and nothing in two splits, never half a corpus."""

import json
import sys
from pathlib import Path

import pytest

from asr_kd.audio import read_audio
from asr_kd.corpora import synthetic
from asr_kd.corpora.prepare import prepare
from asr_kd.corpora.settings import SyntheticSettings
from asr_kd.corpora.synthetic import SPLITS, make_sentences, make_speakers, write_synthetic
from asr_kd.corpora.utterance_checks import check_utterances
from asr_kd.errors import CorpusError, MissingExtraError

SMALL = SyntheticSettings(
    train_utterances=8, dev_utterances=2, test_utterances=4, train_speakers=3, dev_speakers=1, test_speakers=2
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def espeak() -> None:
    pytest.importorskip("espeakng_loader", reason="the extra 'synthetic' is not installed")


@pytest.fixture(scope="module")
def corpus_folder(espeak, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech") / "synthetic"
    write_synthetic(SMALL, folder)
    return folder


@pytest.mark.parametrize("seed", range(5))
def test_no_voice_is_in_two_splits_and_every_speaker_is_new(seed):
    speakers = make_speakers(SyntheticSettings(seed=seed))
    voices = [{speaker.voice for speaker in speakers if speaker.split == split} for split in SPLITS]
    assert all(voices)
    assert sum(map(len, voices)) == len(set.union(*voices))
    assert len({(speaker.voice, speaker.words_per_minute, speaker.pitch) for speaker in speakers}) == len(speakers)
    assert len({speaker.id for speaker in speakers}) == len(speakers) == 56


def test_more_speakers_than_voices_are_still_different_people():
    speakers = make_speakers(SyntheticSettings(train_utterances=300, train_speakers=200))
    assert len({(s.split, s.voice, s.words_per_minute, s.pitch) for s in speakers}) >= len(speakers) - 2


def test_no_sentence_is_in_two_splits_and_training_size_leaves_the_tests_alone():
    sentences = make_sentences(SyntheticSettings())
    everything = [sentence for split in SPLITS for sentence in sentences[split]]
    assert len(everything) == len(set(everything)) == 1500
    more = make_sentences(SyntheticSettings(train_utterances=1300))
    assert more["test"] == sentences["test"]
    assert more["dev"] == sentences["dev"]
    assert make_sentences(SyntheticSettings(seed=1)) != sentences


def test_the_same_seed_gives_the_same_bytes(corpus_folder, tmp_path):
    write_synthetic(SMALL, tmp_path / "again")
    first, second = contents(corpus_folder), contents(tmp_path / "again")
    assert len([name for name in first if name.endswith(".flac")]) == 14
    assert first == second


def test_another_seed_gives_another_corpus(corpus_folder, tmp_path):
    write_synthetic(SMALL.model_copy(update={"seed": 1}), tmp_path / "other")
    assert contents(corpus_folder) != contents(tmp_path / "other")


def test_it_is_prepared_and_sound(corpus_folder, tmp_path):
    settings = SMALL.model_copy(update={"root": corpus_folder.parent})
    before = contents(corpus_folder)
    corpus = prepare(settings, tmp_path)
    assert contents(corpus_folder) == before
    assert corpus.synthetic
    assert (len(corpus.train), len(corpus.sets["dev"]), len(corpus.sets["test"])) == (8, 2, 4)
    assert corpus.dev_sets == ("dev",)
    assert check_utterances(corpus.utterances, None, "librispeech").ok
    for utterance in corpus.utterances:
        assert utterance.text == utterance.text.upper()
        assert 0.5 < utterance.duration < 15
        peak = read_audio(utterance.audio).abs().max()
        assert 0.1 < peak <= 1


def test_the_layout_has_its_table_of_speakers(corpus_folder):
    table = (corpus_folder / "SPEAKERS.TXT").read_text().splitlines()
    ids = [line.split("|")[0].strip() for line in table if not line.startswith(";")]
    on_disk = {path.name for split in SPLITS for path in (corpus_folder / split).iterdir()}
    assert set(ids) == on_disk
    assert len(ids) == 6


def test_the_default_place_is_the_work_dir(espeak, tmp_path):
    tiny = SMALL.model_copy(update={"train_utterances": 3, "dev_utterances": 1, "test_utterances": 2})
    corpus = prepare(tiny, tmp_path)
    assert all((tmp_path / "corpus" / "synthetic") in utterance.audio.parents for utterance in corpus.utterances)


def test_unchanged_settings_skip_and_others_replace(corpus_folder, tmp_path, monkeypatch):
    folder = tmp_path / "synthetic"
    write_synthetic(SMALL, folder)
    monkeypatch.setattr(synthetic, "require_engine", lambda *names: pytest.fail("spoken again"))
    write_synthetic(SMALL.model_copy(update={"root": tmp_path}), folder)
    monkeypatch.undo()
    write_synthetic(SMALL.model_copy(update={"test_utterances": 3}), folder)
    assert len(list((folder / "test").rglob("*.flac"))) == 3


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    folder = tmp_path / "synthetic"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(CorpusError, match="is not a synthetic corpus of this program"):
        write_synthetic(SMALL, folder)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_a_failure_of_the_library_leaves_nothing_behind(espeak, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "ACCENT", "no-such-language")
    with pytest.raises(CorpusError, match=r"has no voice 'no-such-language\+"):
        write_synthetic(SMALL, tmp_path / "synthetic")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"asr-kd\[synthetic\]"):
        write_synthetic(SMALL, tmp_path / "synthetic")


def test_the_description_names_its_settings(corpus_folder):
    described = json.loads((corpus_folder / "synthetic.json").read_text())
    assert described["settings"]["train_utterances"] == 8
    assert described["key"] == synthetic.settings_key(SMALL)


@pytest.mark.parametrize(
    "change", [{"train_speakers": 0}, {"dev_speakers": 9, "dev_utterances": 8}, {"noise_db": (-20, -30)}, {"typo": 1}]
)
def test_wrong_settings_are_refused(change):
    with pytest.raises(ValueError, match=r"train_speakers|dev_speakers|noise_db|typo"):
        SyntheticSettings(**change)
