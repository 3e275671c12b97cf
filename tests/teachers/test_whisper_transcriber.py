"""Whisper through faster-whisper: the real model where it is at hand, refusals without it."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from asr_kd.audio import read_audio
from asr_kd.errors import TargetsError
from asr_kd.teachers.whisper_transcriber import TranscriberSettings, is_one_window, open_transcriber
from tests.helpers.tiny_whisper import save_whisper_ct2

pytest.importorskip("faster_whisper")


def converted(name: str) -> Path:
    """A real model in CTranslate2's form."""
    folder = Path(os.environ.get("ASR_KD_MODELS", "")) / f"{name}-ct2"
    if not os.environ.get("ASR_KD_MODELS") or not folder.is_dir():
        pytest.skip("needs the Whisper models through ASR_KD_MODELS")
    return folder


@pytest.fixture
def recordings(corpora_root) -> list[Path]:
    """Real speech."""
    files = sorted((corpora_root / "LibriSpeech" / "dev-clean").rglob("*.flac"))
    if not files:
        pytest.skip("needs dev-clean of LibriSpeech")
    return files


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(TargetsError, match="does not exist"):
        open_transcriber(TranscriberSettings(str(tmp_path / "nothing")))


def test_a_transformers_folder_is_refused_with_the_command_that_converts_it(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(TargetsError, match="ct2-transformers-converter"):
        open_transcriber(TranscriberSettings(str(tmp_path)))


def test_a_damaged_model_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(TargetsError, match=str(tmp_path)):
        open_transcriber(TranscriberSettings(str(tmp_path)))


def test_a_multilingual_model_needs_a_language():
    settings = TranscriberSettings(str(converted("whisper-base")))
    with pytest.raises(TargetsError, match="language"):
        open_transcriber(settings)


@pytest.mark.parametrize(("name", "language"), [("whisper-base", "zz"), ("whisper-tiny.en", "de")])
def test_a_language_that_the_model_does_not_have_is_refused(name, language):
    with pytest.raises(TargetsError, match=f"has no language '{language}'; expected one of"):
        open_transcriber(TranscriberSettings(str(converted(name)), language))


def test_arithmetic_that_there_is_not_is_refused_with_its_setting(tmp_path):
    folder = save_whisper_ct2(tmp_path / "whisper")
    with pytest.raises(TargetsError, match=r"Invalid compute type: int9.*Correct compute_type"):
        open_transcriber(TranscriberSettings(str(folder), compute_type="int9"))


def test_the_device_may_have_a_number(tmp_path, monkeypatch):
    import faster_whisper

    opened = []

    class Model:
        model = SimpleNamespace(is_multilingual=False)
        supported_languages = ("en",)

        def __init__(self, folder, **options):
            opened.append((options["device"], options["device_index"]))

    (tmp_path / "model.bin").write_bytes(b"")
    monkeypatch.setattr(faster_whisper, "WhisperModel", Model)
    for device in ("cpu", "cuda", "cuda:1"):
        open_transcriber(TranscriberSettings(str(tmp_path), device=device))
    assert opened == [("cpu", 0), ("cuda", 0), ("cuda", 1)]


def test_a_damaged_tokenizer_is_refused(tmp_path):
    folder = save_whisper_ct2(tmp_path / "whisper")
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(TargetsError, match=r"cannot open this model.*Copy the whole folder again"):
        open_transcriber(TranscriberSettings(str(folder)))


@pytest.mark.corpora
def test_real_speech_and_silence(recordings):
    first = recordings[0]
    transcripts = dict(line.split(" ", 1) for line in next(first.parent.glob("*.trans.txt")).read_text().splitlines())
    transcriber = open_transcriber(TranscriberSettings(str(converted("whisper-tiny.en")), beam=1))
    waveform = read_audio(first)
    found = transcriber.transcribe(waveform)
    said = set(transcripts[first.stem].split())
    words = {word.strip(".,?!'").upper() for word in found.text.split()}
    assert len(said & words) >= 0.7 * len(said)
    assert found.avg_logprob > -1.0
    assert found.no_speech_prob < 0.6
    assert found.language == "en"
    silence = transcriber.transcribe(torch.zeros(16_000 * 3))
    assert silence.no_speech_prob > found.no_speech_prob or not silence.text


def test_long_recordings_are_decoded_in_batches_of_voiced_parts(tmp_path, monkeypatch):
    import faster_whisper

    calls = []

    class Pipeline(faster_whisper.BatchedInferencePipeline):
        def transcribe(self, audio, **options):
            calls.append((len(audio), options["batch_size"], options["vad_filter"]))
            return super().transcribe(audio, **options)

    monkeypatch.setattr(faster_whisper, "BatchedInferencePipeline", Pipeline)
    folder = save_whisper_ct2(tmp_path / "whisper")
    transcriber = open_transcriber(TranscriberSettings(str(folder), beam=1, batch=4))
    assert transcriber.transcribe(torch.zeros(16_000 * 31)).text == ""  # no voice
    transcriber.transcribe(torch.zeros(16_000 * 2))
    assert calls == [(16_000 * 31, 4, True)]


def test_what_whisper_would_continue_is_not_taken_from_a_batch():
    start = 50
    for tokens, complete in (
        ([50, 1, 2, 90], True),
        ([1, 2], True),
        ([50, 1, 70, 70, 2, 90], True),  # two segments that end
        ([50, 1, 70, 70, 2], False),  # the second has no end: the next window begins at its start
        ([50, 1, 70, 70], False),
        ([50, 1, 70, 70, 70, 2, 90], False),
        ([50, 1, 50, 60, 2, 90], False),  # a segment without length, which is dropped
    ):
        assert is_one_window(tokens, start) == complete, tokens


@pytest.mark.corpora
@pytest.mark.slow
def test_a_batch_has_the_texts_of_single_utterances(recordings):
    waveforms = [read_audio(path) for path in recordings[:7]]
    waveforms = [waveform for waveform in waveforms if len(waveform) < 12 * 16_000]
    waveforms += [torch.zeros(16_000), 0.01 * torch.randn(8_000, generator=torch.Generator().manual_seed(1))]
    transcriber = open_transcriber(TranscriberSettings(str(converted("whisper-tiny.en")), batch=len(waveforms)))
    single = [transcriber.transcribe(waveform) for waveform in waveforms]
    together = transcriber.transcribe_batch(waveforms)
    assert [each.text for each in together] == [each.text for each in single]
    for one, other in zip(single, together, strict=True):
        assert other.avg_logprob == pytest.approx(one.avg_logprob, abs=0.02)
        assert other.compression_ratio == one.compression_ratio
    assert transcriber.transcribe_batch(waveforms[:1]) == single[:1]
