"""Encoders of transformers: the library's own layers, at any length, and clear refusals."""

import os
from pathlib import Path

import pytest
import torch

from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.teachers.huggingface_encoder import HuggingfaceEncoder
from asr_kd.teachers.settings import EncoderSettings
from tests.helpers.tiny_encoders import ENCODERS, save_encoder

transformers = pytest.importorskip("transformers")


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(16000 * seconds), generator=torch.Generator().manual_seed(seed))


def opened(folder: Path, **settings) -> HuggingfaceEncoder:
    return HuggingfaceEncoder(EncoderSettings(source=f"hf:{folder}", **settings))


def of_library(name: str, model, extractor, waveform: torch.Tensor) -> list[torch.Tensor]:
    inputs = extractor(waveform.numpy(), sampling_rate=16000, return_tensors="pt")
    encoder = model.encoder if name == "whisper" else model
    with torch.no_grad():
        return [hidden[0] for hidden in encoder(**inputs, output_hidden_states=True).hidden_states[1:]]


@pytest.mark.parametrize("name", ENCODERS)
def test_layers_are_the_librarys_own(name, tmp_path):
    model, extractor = save_encoder(name, tmp_path / name)
    waveform = noise(30.0 if name == "whisper" else 1.3)  # the library's Whisper takes 30 s only
    encoder = opened(tmp_path / name)
    with torch.no_grad():
        found = encoder.hidden(waveform)
    wanted = of_library(name, model, extractor, waveform)
    assert encoder.num_layers == len(found) == len(wanted) == 2
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_whisper_takes_short_audio_without_padding_it_to_thirty_seconds(tmp_path):
    save_encoder("whisper", tmp_path / "whisper")
    encoder = opened(tmp_path / "whisper")
    assert (encoder.frame_shift_ms, encoder.frame_offset_ms) == (20.0, 0.0)
    for seconds, frames in ((0.01, 5), (1.0, 50), (2.5, 125)):
        assert len(encoder.hidden(noise(seconds))[0]) == frames


@pytest.mark.parametrize("name", ["whisper", "wav2vec2-large", "w2v-bert"])
def test_long_audio_in_windows_has_the_frames_of_the_whole(name, tmp_path):
    save_encoder(name, tmp_path / name)
    waveform = noise(9.0)
    with torch.no_grad():
        whole = opened(tmp_path / name).hidden(waveform)[-1]
        windows = opened(tmp_path / name, window_seconds=4, overlap_seconds=1).hidden(waveform)[-1]
    assert windows.shape == whole.shape


def test_whisper_longer_than_its_positions(tmp_path):
    save_encoder("whisper", tmp_path / "whisper")
    assert len(opened(tmp_path / "whisper").hidden(noise(61.0))[0]) == 3050


@pytest.mark.parametrize("first", [0, 1])
def test_whispers_upper_layers_go_on_from_the_lower_ones(first, tmp_path):
    save_encoder("whisper", tmp_path / "whisper")
    encoder = opened(tmp_path / "whisper")
    with torch.no_grad():
        lower = encoder.lower(noise(2.0), first)
        upper = encoder.upper(lower[first], first)
        whole = encoder.hidden(noise(2.0))
    assert len(lower) == first + 1
    assert all(torch.equal(part, layer) for part, layer in zip([*lower[1:], *upper], whole, strict=True))


def test_refusals_name_what_was_found(tmp_path):
    save_encoder("whisper", tmp_path / "v3", num_mel_bins=128)
    with pytest.raises(RecipeError, match="128 mel bins"):
        opened(tmp_path / "v3")
    save_encoder("whisper", tmp_path / "whisper")
    with pytest.raises(RecipeError, match="at most 30 s"):
        opened(tmp_path / "whisper", window_seconds=40)
    with pytest.raises(CheckpointError, match="does not exist"):
        opened(tmp_path / "nowhere")
    weights = tmp_path / "whisper" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(CheckpointError, match=r"no model.safetensors, only pytorch_model.bin"):
        opened(tmp_path / "whisper")


def test_a_model_that_is_no_speech_encoder_is_refused(tmp_path):
    save_encoder("wav2vec2-base", tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"model_type": "wav2vec2"', '"model_type": "unispeech"'))
    with pytest.raises((RecipeError, CheckpointError)):
        opened(tmp_path / "other")


def test_a_repository_is_found_in_the_folder_of_models(tmp_path, monkeypatch):
    save_encoder("whisper", tmp_path / "whisper-nano")
    monkeypatch.setenv("ASR_KD_MODELS", str(tmp_path))
    encoder = HuggingfaceEncoder(EncoderSettings(source="hf:openai/whisper-nano"))
    assert encoder.name == "whisper-nano"


def test_real_whisper_gives_the_librarys_layers():
    folder = Path(os.environ.get("ASR_KD_MODELS", "")) / "whisper-tiny.en"
    if not os.environ.get("ASR_KD_MODELS") or not folder.is_dir():
        pytest.skip("needs the Whisper models through ASR_KD_MODELS")
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    waveform = noise(30.0)
    with torch.no_grad():
        found = opened(folder).hidden(waveform)
    for ours, theirs in zip(found, of_library("whisper", model, extractor, waveform), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_windows_without_a_common_frame_would_leave_frames_out(tmp_path):
    save_encoder("wav2vec2-base", tmp_path / "encoder")
    source = f"hf:{tmp_path / 'encoder'}"
    with pytest.raises(RecipeError, match=r"overlap_seconds is 0.01; expected at least one frame .* 0.02 s"):
        HuggingfaceEncoder(EncoderSettings(source=source, window_seconds=2, overlap_seconds=0.01))
    nearest = HuggingfaceEncoder(EncoderSettings(source=source, window_seconds=2, overlap_seconds=0.02))
    with torch.no_grad():
        assert len(nearest.hidden(torch.randn(16_000 * 9))[0]) == 449  # as of the whole: one less than 9 s hold
