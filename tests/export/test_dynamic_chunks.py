"""Several latencies of one dynamic-chunk student, through the verb and the real client: nothing here is a stand-in."""

from difflib import SequenceMatcher
from pathlib import Path

import pytest
import soundfile
import torch
from typer.testing import CliRunner

from asr_kd.cli import app
from asr_kd.corpora.manifest import Utterance, write_manifest
from asr_kd.export.client_parity import client_input
from asr_kd.export.parity import stream_alignments
from asr_kd.export.sherpa_client import client_is_installed, run_client
from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import Context, Streaming
from asr_kd.models.weights import load_model, save_model
from asr_kd.runtime.bundle import INT8, MODEL, TOKENS, read_bundle
from asr_kd.runtime.recognizer import open_recognizer, torch_recognizer, with_context
from tests.helpers.tiny_models import VOCABULARY, noise_speech, tiny_model

pytestmark = pytest.mark.slow

TRAINED = (Context(4, 8), Context(8, 16))
CHOSEN = {
    "chunk-160ms-left-640ms": Context(4, 16),
    "chunk-320ms-left-640ms": Context(8, 16),
    "chunk-160ms-left-640ms-right-80ms": Context(4, 16, 2),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A student that says it was trained on two contexts."""
    plain = tiny_model(seed=8)
    streaming = Streaming(chunk_frames=4, left_context_frames=8, train_contexts=TRAINED)
    dynamic = Conformer(plain.settings.model_copy(update={"streaming": streaming}), len(VOCABULARY)).eval()
    dynamic.load_state_dict(plain.state_dict())
    folder = tmp_path_factory.mktemp("dynamic") / "student-dynamic" / "model"
    save_model(folder, dynamic, VOCABULARY, {})
    return folder


@pytest.fixture(scope="module")
def bundles(model) -> Path:
    """What the verb writes for two chunks, and for one of them with right context."""
    pytest.importorskip("onnx")
    utterances = []
    for index, seconds in enumerate([1.2, 0.6]):
        path = model.parent / f"{index}.wav"
        soundfile.write(path, noise_speech(seconds, index).numpy(), 16_000)
        utterances.append(Utterance(f"u{index}", path, seconds, "A B", f"s{index}"))
    write_manifest(model.parent / "speech.jsonl", utterances)
    out = model.parent / "bundles"
    words = ["--int8", "--chunk", "160", "--chunk", "320", "--chunk", "160", "--left", "640"]
    words += ["--right", "0", "--right", "0", "--right", "80"]
    words += ["--speech", str(model.parent / "speech.jsonl"), "--out", str(out)]
    result = CliRunner().invoke(app, ["export-model", str(model), *words])
    assert result.exit_code == 0, (result.output, result.exception)
    assert sorted(path.name for path in out.iterdir()) == sorted(CHOSEN)
    assert "was not trained with chunks of 160 ms and 80 ms of right context" in " ".join(result.output.split())
    return out


@pytest.mark.skipif(not client_is_installed(), reason="sherpa-onnx is not installed")
def test_each_bundle_streams_in_its_own_chunks_as_torch_does_in_them(bundles, model):
    audio = [noise_speech(seconds, seed) for seed, seconds in [(11, 3.1), (12, 0.7), (13, 1.9)]]
    said = {}
    for name, context in CHOSEN.items():
        opened = read_bundle(bundles / name)
        assert opened.context == context
        assert opened.info.streaming.latency_ms == 40 * (context.chunk_frames + context.right_context_frames) + 30
        inputs = [client_input(opened, item).numpy() for item in audio]
        original = torch_recognizer(with_context(load_model(model), context))
        expected = stream_alignments(original, audio)
        heard = run_client(bundles / name / MODEL, bundles / name / TOKENS, inputs, 1_111)
        texts = [VOCABULARY.decode(alignment.tokens) for alignment in expected]
        assert [" ".join(result.text.split()) for result in heard] == texts
        for result, alignment in zip(heard, expected, strict=True):
            assert result.seconds == pytest.approx([frame * 0.04 for frame in alignment.frames], abs=1e-4)
        near = run_client(bundles / name / INT8, bundles / name / TOKENS, inputs, 1_111)
        for eight, full in zip(near, heard, strict=True):
            assert SequenceMatcher(None, eight.symbols, full.symbols).ratio() > 0.7
        said[name] = texts
    assert len({tuple(texts) for texts in said.values()}) == 3, "contexts that do not matter test nothing"


@pytest.mark.parametrize(("name", "context"), CHOSEN.items())
@pytest.mark.parametrize("form", [MODEL, INT8])
def test_each_graph_has_its_own_chunk_in_its_metadata(bundles, name, context, form):
    onnx = pytest.importorskip("onnx")
    found = {entry.key: entry.value for entry in onnx.load(bundles / name / form).metadata_props}
    frames, window = context.chunk_frames, context.chunk_frames + context.right_context_frames
    assert (found["decode_chunk_len"], found["T"]) == (str(4 * frames), str(4 * window + 3))
    assert found["left_context_len"] == str(context.left_context_frames)
    assert open_recognizer(bundles / name / form).context == context


def test_each_readme_says_whose_chunks_they_are_and_whether_they_were_trained(bundles):
    texts = {name: " ".join((bundles / name / "README.md").read_text().split()) for name in CHOSEN}
    first, second, third = texts.values()
    assert "# student-dynamic" in first
    assert "it was not trained on these" in first
    assert "own chunks are of 160 ms and look back 320 ms; it was trained on these too" in second
    assert "look back 640 ms, and 110 ms ahead, so a sound waits at most 270 ms" in third
    for name, text in texts.items():
        parity = read_bundle(bundles / name).info.parity
        assert f"{parity['int8']['batch_transcripts_equal']} of 2 transcripts as alone" in text
        assert torch.isfinite(torch.tensor(parity["int8"]["batch_difference"]))
