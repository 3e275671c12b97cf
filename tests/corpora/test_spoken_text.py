"""Speech synthesized from text: every word of the text at most once, the same bytes again, nothing half written."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.audio import read_audio
from asr_kd.corpora import spoken_text
from asr_kd.corpora.manifest import hours, read_manifest
from asr_kd.corpora.spoken_text import MANIFEST, WORDS, SynthesisSettings, synthesize_text, utterance_texts
from asr_kd.errors import CorpusError, MissingExtraError

TEXT = [f"THE {number} OF THEM WENT DOWN TO THE RIVER AND BACK" for number in ("FIRST", "SECOND", "THIRD", "FOURTH")]
LONG = " ".join(TEXT)


def engine_or_skip(engine: str) -> None:
    module, extra = {"espeak": ("espeakng_loader", "synthetic"), "pico": ("ttspico", "pico")}[engine]
    pytest.importorskip(module, reason=f"the extra {extra!r} is not installed")


@pytest.mark.parametrize("engine", ["espeak", "pico"])
def test_audio_and_transcripts_are_written_and_the_same_again(tmp_path, engine):
    engine_or_skip(engine)
    settings = SynthesisSettings(hours=1, engine=engine, speakers=3)
    lines = synthesize_text([*TEXT, LONG], tmp_path / "a", settings)
    found = read_manifest(tmp_path / "a" / MANIFEST, check_files=True)
    assert sorted(" ".join(u.text for u in found).split()) == sorted(" ".join([*TEXT, LONG]).split())
    assert f"{len(found)} utterances, {hours(found):.2f} h, 1 speakers" in lines[0]
    assert "the text ends there: 1 h were asked for" in lines[1]
    for utterance in found:
        samples = read_audio(utterance.audio)
        assert len(samples) == round(utterance.duration * 16_000)
        assert 0.1 < len(utterance.text.split()) / utterance.duration < 6  # words a second
    synthesize_text([*TEXT, LONG], tmp_path / "b", settings)
    for utterance in found:
        again = tmp_path / "b" / utterance.audio.relative_to(tmp_path / "a")
        assert again.read_bytes() == utterance.audio.read_bytes()


def test_it_ends_at_the_hours_and_speakers_take_turns(tmp_path):
    engine_or_skip("espeak")
    wanted = 60 / 3600
    lines = synthesize_text(TEXT * 20, tmp_path / "out", SynthesisSettings(wanted, "espeak", speakers=2))
    found = read_manifest(tmp_path / "out" / MANIFEST)
    assert wanted <= hours(found) < wanted + 10 / 3600
    assert {utterance.speaker for utterance in found} == {"espeak0", "espeak1"}
    assert len(lines) == 1


@given(st.lists(st.lists(st.sampled_from("ABC"), max_size=80).map(" ".join), max_size=6), st.integers(0, 9))
def test_long_sentences_are_cut_and_nothing_is_lost_or_said_twice(sentences, seed):
    texts = utterance_texts(sentences, SynthesisSettings(hours=100, seed=seed))
    assert sorted(" ".join(texts).split()) == sorted(" ".join(sentences).split())
    assert all(len(text.split()) < WORDS[1] + WORDS[0] for text in texts)
    shortest = min((len(sentence.split()) for sentence in sentences if sentence), default=0)
    assert all(len(text.split()) >= min(WORDS[0], shortest) for text in texts)


def test_sentences_without_sound_are_left_out_and_counted(tmp_path, monkeypatch):
    engine_or_skip("espeak")

    def some(engine, speaker, texts):
        return [np.zeros(9) if "SECOND" in text.upper() else np.full(22_050, 0.1) for text in texts]

    monkeypatch.setattr(spoken_text, "synthesize", some)
    lines = synthesize_text(TEXT, tmp_path / "out", SynthesisSettings(1, "espeak"))
    assert len(read_manifest(tmp_path / "out" / MANIFEST)) == 3
    assert "1 sentences left out, of which eSpeak NG gave no sound" in lines[-1]
    assert json.loads((tmp_path / "out" / "synthesis.json").read_text())["silent"] == 1


def test_an_engine_that_fails_leaves_nothing(tmp_path, monkeypatch):
    engine_or_skip("espeak")
    monkeypatch.setattr("asr_kd.corpora.speech_engines.espeak_worker.__file__", str(tmp_path / "none.py"))
    with pytest.raises(CorpusError, match="eSpeak NG stopped with status 2"):
        synthesize_text(TEXT, tmp_path / "out", SynthesisSettings(1, "espeak"))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_refused_first(tmp_path, monkeypatch):
    engine_or_skip("espeak")
    with pytest.raises(CorpusError, match="no sentence"):
        synthesize_text([], tmp_path / "out", SynthesisSettings(1, "espeak"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    with pytest.raises(Exception, match=r"thesis\.txt"):
        synthesize_text(TEXT, tmp_path / "mine", SynthesisSettings(0.001, "espeak"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "text"
    monkeypatch.setitem(__import__("sys").modules, "ttspico", None)
    with pytest.raises(MissingExtraError, match=r"asr-kd\[pico\]"):
        synthesize_text(TEXT, tmp_path / "out", SynthesisSettings(1))
    assert not (tmp_path / "out").exists()


def test_the_folder_may_be_relative(tmp_path, monkeypatch):
    engine_or_skip("espeak")
    monkeypatch.chdir(tmp_path)
    synthesize_text(TEXT, Path("out"), SynthesisSettings(1, "espeak"))
    assert all(u.audio.is_file() for u in read_manifest(tmp_path / "out" / MANIFEST))
