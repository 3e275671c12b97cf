"""A model of a real size on real speech: torch, onnxruntime and the client say the same."""

from pathlib import Path

import pytest
import torch

from asr_kd.audio import read_audio
from asr_kd.export.export_bundle import export_bundle
from asr_kd.export.sherpa_client import client_is_installed
from asr_kd.features.fbank import fbank
from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings, Streaming
from asr_kd.models.weights import save_model
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.text.vocabulary import Vocabulary

SHARPNESS = 12.0
"""Factor of the output layer: a random model is nearly uniform, and its best path would hang on the last bit."""

LETTERS = Vocabulary.characters(["ABCDEFGHIJKLMNOPQRSTUVWXYZ'"])


@pytest.fixture
def speech(corpora_root) -> list[torch.Tensor]:
    files = sorted(Path(corpora_root).glob("an4/**/*.wav"))[:200:50]
    if not files:
        pytest.skip("no AN4 under ASR_KD_CORPORA")
    return [read_audio(path) for path in files]


@pytest.mark.slow
@pytest.mark.corpora
@pytest.mark.skipif(not client_is_installed(), reason="sherpa-onnx is not installed")
def test_a_tiny_student_on_real_speech_passes_every_comparison(speech, tmp_path):
    torch.manual_seed(0)
    model = Conformer(ConformerSettings(size="tiny", streaming=Streaming(chunk_frames=8)), len(LETTERS)).eval()
    features = torch.cat([fbank(waveform) for waveform in speech])
    model.set_normalisation(features.mean(0), features.std(0))
    with torch.no_grad():
        model.output.weight.mul_(SHARPNESS)
    save_model(tmp_path / "student", model, LETTERS, {})
    parity = export_bundle(tmp_path / "student", tmp_path / "bundle", speech).parity
    assert parity["utterances"] == len(speech) == 4
    assert parity["graph_difference"] < 1e-3
    assert parity["transcripts_equal"] + parity["client_transcripts_equal"] + parity["ties"] >= 8
    texts = open_recognizer(tmp_path / "bundle").transcribe(speech)
    assert len({character for text in texts for character in text}) >= 4
    assert open_recognizer(tmp_path / "student").transcribe(speech) == texts
