"""Streams and whole utterances give the same text, whatever the packets, batches and neighbours."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import asr_kd.runtime.recognizer
from asr_kd.decoding.base import Hypothesis
from asr_kd.errors import AudioError, CheckpointError
from asr_kd.models.settings import Context
from asr_kd.models.weights import load_model
from asr_kd.runtime.backend import MASKED_LOG_PROB, TorchBackend, num_chunks, run_chunks
from asr_kd.runtime.recognizer import Recognizer, open_recognizer, with_context
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.tiny_models import CHUNK_FRAMES, VOCABULARY, noise_speech, save_tiny_model, tiny_model

SPEECH = noise_speech(2.1, seed=3)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(TorchBackend(tiny_model()), VOCABULARY)


@pytest.fixture(scope="module")
def full_context() -> Recognizer:
    return Recognizer(TorchBackend(tiny_model(streaming=False)), VOCABULARY)


def best(recognizer: Recognizer, waveform: torch.Tensor) -> Hypothesis:
    return recognizer.hypotheses([waveform])[0][0]


def streamed(recognizer: Recognizer, packets: list[torch.Tensor]) -> tuple[str, list[int], list[int]]:
    stream = recognizer.stream()
    for packet in packets:
        stream.accept(packet)
    return stream.final(), stream.tokens, stream.token_frames


def test_the_test_model_has_something_to_say(recognizer):
    text = recognizer.transcribe([SPEECH])[0]
    assert len(text.split()) >= 3
    assert len(set(text)) >= 4


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, len(SPEECH)), max_size=12))
def test_packets_of_any_size_give_the_offline_transcript(recognizer, cuts):
    borders = [0, *sorted(cuts), len(SPEECH)]
    text, tokens, frames = streamed(recognizer, [SPEECH[start:end] for start, end in pairwise(borders)])
    offline = best(recognizer, SPEECH)
    assert (tokens, frames) == (offline.tokens, offline.frames)
    assert text == recognizer.transcribe([SPEECH])[0]


@settings(max_examples=30)
@given(samples=st.integers(0, 12_000))
def test_every_length_streams_as_offline(recognizer, samples):
    audio = SPEECH[8_000 : 8_000 + samples]
    offline = best(recognizer, audio)
    assert streamed(recognizer, [audio])[1:] == (offline.tokens, offline.frames)


@pytest.mark.parametrize("right", [0, 3])
def test_a_masked_pass_equals_the_chunks(recognizer, right):
    recognizer = recognizer.in_context(Context(CHUNK_FRAMES, 8, right))
    waveforms = [SPEECH, SPEECH[:9_000], SPEECH[4_000:30_000]]
    masked = recognizer.log_probs(waveforms)
    features = torch.nn.utils.rnn.pad_sequence([recognizer.features(w) for w in waveforms], batch_first=True)
    chunked = run_chunks(recognizer.backend, features, torch.tensor([len(recognizer.features(w)) for w in waveforms]))
    assert masked.lens.tolist() == chunked.lens.tolist() == [CHUNK_FRAMES * num_chunks(len(w), 4) for w in waveforms]
    for row, length in enumerate(masked.lens):
        torch.testing.assert_close(masked.log_probs[row, :length], chunked.log_probs[row, :length], atol=2e-5, rtol=0)


@settings(max_examples=10)
@given(cuts=st.lists(st.integers(0, len(SPEECH)), max_size=12), right=st.integers(1, 6))
def test_packets_of_any_size_give_the_offline_transcript_with_right_context(recognizer, cuts, right):
    looking_ahead = recognizer.in_context(Context(CHUNK_FRAMES, 8, right))
    borders = [0, *sorted(cuts), len(SPEECH)]
    _, tokens, frames = streamed(looking_ahead, [SPEECH[start:end] for start, end in pairwise(borders)])
    offline = best(looking_ahead, SPEECH)
    assert (tokens, frames) == (offline.tokens, offline.frames)
    assert tokens != best(recognizer, SPEECH).tokens or right < 2


def test_later_audio_never_changes_an_earlier_transcript(recognizer):
    stream, partials = recognizer.stream(), []
    for packet in SPEECH.split(1_000):
        partials.append(stream.accept(packet))
    other = recognizer.stream()
    half = [other.accept(packet) for packet in torch.cat([SPEECH[:16_000], -SPEECH[16_000:]]).split(1_000)]
    assert partials[:16] == half[:16]
    assert len(set(partials)) > 3
    assert all(after.startswith(before) for before, after in pairwise(partials))


@pytest.mark.parametrize("kind", ["recognizer", "full_context"])
def test_a_batch_equals_single_utterances_in_the_order_given(kind, request):
    recognizer = request.getfixturevalue(kind)
    waveforms = [noise_speech(seconds, seed) for seed, seconds in enumerate([1.4, 0.0, 0.4, 2.2, 0.02, 1.4])]
    single = [recognizer.transcribe([waveform])[0] for waveform in waveforms]
    assert sum(map(bool, single)) >= 3
    assert recognizer.transcribe(waveforms) == single
    assert recognizer.transcribe(waveforms, batch_seconds=3.0) == single
    assert recognizer.transcribe([]) == []


def test_long_recordings_go_through_in_chunks_to_the_same_text(recognizer, monkeypatch):
    waveforms = [noise_speech(4.0, 5), noise_speech(0.5, 6)]
    masked = [best(recognizer, waveform)[:3] for waveform in waveforms]
    steps = []
    step = TorchBackend.step
    monkeypatch.setattr(TorchBackend, "step", lambda *arguments: steps.append(1) or step(*arguments))
    monkeypatch.setattr(asr_kd.runtime.recognizer, "LONGEST_MASKED_FRAMES", 200)
    assert [best(recognizer, waveform)[:3] for waveform in waveforms] == masked
    assert len(steps) == num_chunks(len(waveforms[0]), CHUNK_FRAMES)


def test_streams_of_one_model_do_not_hear_each_other(recognizer):
    waveforms = [noise_speech(1.5, seed) for seed in (1, 2, 3)]
    streams = [recognizer.stream() for _ in waveforms]
    for packets in zip(*(waveform.split(1_700) for waveform in waveforms), strict=True):
        for stream, packet in zip(streams, packets, strict=True):
            stream.accept(packet)
    texts = [stream.final() for stream in streams]
    assert len(set(texts)) == 3
    assert texts == recognizer.transcribe(waveforms)


def test_the_tail_is_heard(recognizer):
    """Each frame of a stream has been through the model: a longer tail adds chunks, and silence, only."""
    longer = Recognizer(recognizer.backend, VOCABULARY, tail_ms=1_000)
    tokens, more = best(recognizer, SPEECH).tokens, best(longer, SPEECH).tokens
    assert more[: len(tokens)] == tokens
    assert longer.log_probs([SPEECH]).lens[0] > recognizer.log_probs([SPEECH]).lens[0]


def test_a_finished_stream_stays_finished_until_reset(recognizer):
    stream = recognizer.stream()
    stream.accept(SPEECH)
    text = stream.final()
    assert stream.final() == stream.partial() == text
    with pytest.raises(ValueError, match="ended"):
        stream.accept(SPEECH)
    stream.reset()
    assert stream.partial() == ""
    stream.accept(SPEECH.numpy())
    assert stream.final() == text


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.tensor([0.1, math.nan]), "nan"),
        (torch.tensor([0.1, math.inf]), "inf"),
        (torch.tensor([0.1, -12_000.0]), "12000"),
        (torch.zeros(2, 100), re.escape("(2, 100)")),
        (np.zeros(100, dtype=np.int16), "int16"),
    ],
)
def test_samples_that_are_not_audio_are_refused_and_the_stream_goes_on(recognizer, samples, message):
    stream = recognizer.stream()
    stream.accept(SPEECH[:5_000])
    with pytest.raises(AudioError, match=message):
        stream.accept(samples)
    stream.accept(SPEECH[5_000:])
    assert stream.final() == recognizer.transcribe([SPEECH])[0]
    with pytest.raises(AudioError, match=message):
        recognizer.transcribe([samples])


def test_a_full_context_model_cannot_stream(full_context):
    assert full_context.context is None
    with pytest.raises(CheckpointError, match="cannot stream"):
        full_context.stream()


def test_weights_that_give_nan_are_an_error_and_no_transcript():
    model = tiny_model()
    with torch.no_grad():
        model.output.bias[3] = math.nan
    broken = Recognizer(TorchBackend(model), VOCABULARY, name="students/broken")
    with pytest.raises(CheckpointError, match="students/broken"):
        broken.transcribe([SPEECH])
    with pytest.raises(CheckpointError, match="students/broken"):
        broken.stream().accept(SPEECH)


def test_the_unknown_symbol_is_never_written(tmp_path):
    vocabulary = Vocabulary((*VOCABULARY.symbols[:-1], "<unk>"))
    likely = vocabulary.symbols.index("<unk>")
    folder = save_tiny_model(tmp_path / "unk", vocabulary=vocabulary)
    recognizer = open_recognizer(folder)
    with torch.no_grad():
        recognizer.backend.model.output.bias[likely] = 1e3
    assert "<unk>" not in recognizer.transcribe([SPEECH])[0]
    assert bool((recognizer.log_probs([SPEECH]).log_probs[..., likely] == MASKED_LOG_PROB).all())
    assert "<unk>" not in streamed(recognizer, [SPEECH])[0]


def test_a_model_folder_opens_and_transcribes_as_its_model(tmp_path, recognizer):
    opened = open_recognizer(save_tiny_model(tmp_path / "student"))
    assert opened.context == recognizer.context
    assert opened.transcribe([SPEECH]) == recognizer.transcribe([SPEECH])


def test_another_context_is_the_same_model_at_another_latency(tmp_path, recognizer):
    loaded = load_model(save_tiny_model(tmp_path / "student"))
    slower = with_context(loaded, Context(8, 16))
    backend = TorchBackend(slower.model)
    assert (backend.context, slower.sha256) == (Context(8, 16), loaded.sha256)
    assert loaded.model.settings.streaming.context == recognizer.context
    chunk = Recognizer(backend, VOCABULARY)
    offline = best(chunk, SPEECH)
    assert streamed(chunk, [SPEECH])[1:] == (offline.tokens, offline.frames)


@pytest.mark.parametrize("make", ["nothing", "empty folder", "a file"])
def test_what_is_no_model_is_refused_with_what_was_expected(tmp_path, make):
    path = tmp_path / "model"
    if make == "empty folder":
        path.mkdir()
    if make == "a file":
        path.write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"model\.json or bundle\.json"):
        open_recognizer(path)
