"""A streaming Whisper encoder is exported to the same bundle as a Conformer and verified in the same way."""

import pytest
import torch

from asr_kd.export.client_parity import client_input
from asr_kd.export.export_bundle import ExportSettings, export_bundle
from asr_kd.export.parity import stream_alignments
from asr_kd.export.sherpa_client import client_is_installed, run_client
from asr_kd.models.settings import CausalHead
from asr_kd.models.weights import load_model, save_model
from asr_kd.runtime.bundle import MODEL, PT2, TOKENS, read_bundle
from asr_kd.runtime.graph_backends import OnnxBackend
from asr_kd.runtime.recognizer import open_recognizer
from tests.helpers.tiny_models import CHUNK_FRAMES, VOCABULARY, noise_speech
from tests.helpers.whisper_students import whisper_student

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with the larger head, which holds the other; tests/recipe exports one with the other."""
    path = tmp_path_factory.mktemp("whisper") / "model"
    head = CausalHead(blocks=2, width=24, kernel=4)
    save_model(path, whisper_student(seed=4, feed_forward_rank=20, head=head), VOCABULARY, {})
    return path


@pytest.fixture(scope="module")
def whisper_bundle(folder, waveforms):
    settings = ExportSettings(client=client_is_installed(), formats=("sherpa", "pt2"), int8=True)
    export_bundle(folder, folder.parent / "bundle", waveforms, settings=settings)
    return folder.parent / "bundle"


def test_every_form_gives_the_models_results(whisper_bundle, folder, waveforms):
    info = read_bundle(whisper_bundle).info
    assert info.parity["graph_difference"] < 1e-4
    assert info.parity["batch_difference"] < 1e-4
    assert info.parity["transcripts_equal"] == info.parity["resets_equal"] == 3
    texts = open_recognizer(folder).transcribe(waveforms)
    assert all(texts)
    assert open_recognizer(whisper_bundle).transcribe(waveforms) == texts
    assert info.parity["pt2"]["graph_difference"] < 1e-4
    assert info.parity["int8"]["best_token_agreement"] > 0.9
    assert open_recognizer(whisper_bundle / PT2).transcribe(waveforms) == texts


def test_the_graph_equals_torch_after_more_frames_than_there_are_positions(whisper_bundle, folder):
    backend, model = OnnxBackend(read_bundle(whisper_bundle)), load_model(folder).model
    ours, theirs = backend.initial_state(2), model.initial_state(2)
    ours[-1] += 100_000_000 * CHUNK_FRAMES
    theirs = theirs._replace(processed=theirs.processed + 100_000_000 * CHUNK_FRAMES)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        features = torch.randn(2, 4 * CHUNK_FRAMES + 3, 80, generator=generator) * 3 - 7
        with torch.no_grad():
            expected, theirs = model.stream_step(features, theirs)
        log_probs, ours = backend.step(features, ours)
        torch.testing.assert_close(log_probs, expected, atol=1e-4, rtol=0)


@pytest.mark.skipif(not client_is_installed(), reason="sherpa-onnx is not installed")
def test_the_real_client_gives_the_same_text_after_the_positions_repeat(whisper_bundle):
    """Forty seconds: ten more than Whisper has positions for."""
    bundle = read_bundle(whisper_bundle)
    assert bundle.info.parity["client_transcripts_equal"] == bundle.info.parity["client_resets_equal"] == 3
    audio = torch.cat([noise_speech(2.5, seed) for seed in range(16)])
    (result,) = run_client(
        whisper_bundle / MODEL, whisper_bundle / TOKENS, [client_input(bundle, audio).numpy()], 1_111
    )
    (ours,) = stream_alignments(open_recognizer(whisper_bundle), [audio])
    assert len(ours.tokens) > 20
    assert result.symbols == [VOCABULARY.symbols[token].replace("▁", " ") for token in ours.tokens]
