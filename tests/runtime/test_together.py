"""Streams that share steps, and streams that are cut at endpoints: nothing depends on packets or neighbours."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.decoding.base import text_of
from asr_kd.decoding.settings import EndpointSettings
from asr_kd.errors import CheckpointError
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.runtime.backend import TorchBackend
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.runtime.streaming import step_together
from tests.helpers.shared_steps import say_the_same_together
from tests.helpers.tiny_models import CHUNK_FRAMES, VOCABULARY, noise_speech, tiny_model

SPEECH = noise_speech(3.0, seed=3)
CHUNK_SECONDS = CHUNK_FRAMES * 0.04
RULES = EndpointSettings(
    rule1_min_trailing_silence=0.4, rule2_min_trailing_silence=0.16, rule3_min_utterance_length=0.9
)
NEVER = EndpointSettings(rule1_min_trailing_silence=99, rule2_min_trailing_silence=99, rule3_min_utterance_length=99)


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer(TorchBackend(tiny_model()), VOCABULARY)


def test_streams_at_mixed_positions_say_in_one_batch_what_they_say_alone(recognizer):
    sizes = say_the_same_together(recognizer)
    assert {1, 2, 3} <= set(sizes)  # positions were mixed, and steps shared


def test_states_come_apart_as_they_were_put_together(recognizer):
    backend, streams = recognizer.backend, [recognizer.stream() for _ in range(3)]
    for number, stream in enumerate(streams):
        stream.accept(SPEECH[: 8_000 * (number + 1)])
    states = [stream.window()[1] for stream in streams]
    for before, after in zip(states, backend.split(backend.join(states)), strict=True):
        for one, other in zip(flat(before), flat(after), strict=True):
            assert one.shape == other.shape
            assert np.array_equal(one, other)


def flat(state):
    return [np.asarray(tensor) for part in state for tensor in (part if isinstance(part, list) else [part])]


def test_a_stream_with_numbers_that_are_none_harms_no_other(recognizer, monkeypatch):
    streams = [recognizer.stream() for _ in range(3)]
    for stream in streams:
        stream.queue(SPEECH[:8_000])
    step = TorchBackend.step

    def spoilt(self, features, state):
        log_probs, state = step(self, features, state)
        log_probs = log_probs.clone()
        log_probs[1] = float("nan")
        return log_probs, state

    monkeypatch.setattr(TorchBackend, "step", spoilt)
    failed = step_together(streams)
    assert list(failed) == [1]
    assert isinstance(failed[1], CheckpointError)
    assert [stream.decoded_seconds for stream in streams] == [CHUNK_SECONDS, 0.0, CHUNK_SECONDS]


def test_streams_of_two_models_share_no_step(recognizer):
    streams = [recognizer.stream(), Recognizer(TorchBackend(tiny_model()), VOCABULARY).stream()]
    for stream in streams:
        stream.queue(SPEECH[:8_000])
    with pytest.raises(ValueError, match="several models"):
        step_together(streams)
    assert step_together([]) == {}


@settings(max_examples=10)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=5))
def test_how_much_is_missing_is_exact(recognizer, cuts):
    """One sample less, and no chunk is complete."""
    stream = recognizer.stream()
    for size in cuts:
        stream.accept(torch.zeros(size))
    assert stream.missing_samples > 0
    stream.queue(torch.zeros(stream.missing_samples - 1))
    assert (stream.is_ready, stream.missing_samples) == (False, 1)
    stream.queue(torch.zeros(1))
    assert (stream.is_ready, stream.missing_samples) == (True, 0)


# -- endpoints -------------------------------------------------------------------------------------------


def cut(recognizer, packets, rules=RULES):
    stream = recognizer.stream(rules, cut_at_endpoints=True)
    for packet in packets:
        stream.accept(packet)
    last = stream.final()
    return stream.take_utterances(), last


@settings(max_examples=8)
@given(cuts=st.lists(st.integers(0, len(SPEECH)), max_size=8))
def test_where_a_stream_is_cut_does_not_depend_on_its_packets(recognizer, cuts):
    whole, last = cut(recognizer, [SPEECH])
    borders = [0, *sorted(cuts), len(SPEECH)]
    assert cut(recognizer, [SPEECH[start:end] for start, end in pairwise(borders)]) == (whole, last)


def test_utterances_follow_one_another_with_times_of_the_stream(recognizer):
    ended, _ = cut(recognizer, [SPEECH])
    assert len(ended) >= 3
    assert {utterance.rule for utterance in ended} <= {1, 2, 3}
    for utterance in ended:
        assert utterance.text == " ".join(word.text for word in utterance.words)
        assert utterance.end_seconds <= 0.9 + utterance.start_seconds + CHUNK_SECONDS
        for word in utterance.words:
            assert utterance.start_seconds <= word.start_seconds < word.end_seconds <= utterance.end_seconds
    assert all(a.end_seconds <= b.start_seconds for a, b in pairwise(ended))


def test_an_utterance_says_what_its_audio_alone_says(recognizer):
    """After an endpoint nothing is remembered: the second utterance is that of a stream which starts there."""
    stream = recognizer.stream(NEVER)
    stream.accept(SPEECH[: 2 * SAMPLE_RATE])
    first = stream.next_utterance()
    assert (first.rule, first.start_seconds) == (None, 0.0)
    stream.queue(SPEECH[2 * SAMPLE_RATE :])
    state, rows = recognizer.backend.initial_state(1), []
    while stream.is_ready:
        features, _ = stream.window()
        log_probs, state = recognizer.backend.step(features.unsqueeze(0), state)
        rows.append(log_probs[0])
        step_together([stream])
    [[fresh]] = recognizer.decoder.decode(torch.cat(rows)[None], torch.tensor([len(rows) * CHUNK_FRAMES]))
    assert stream.partial() == text_of(fresh, VOCABULARY) != ""
    assert first.text == recognizer.stream(NEVER).accept(SPEECH[: 2 * SAMPLE_RATE])


def test_utterances_without_words_are_not_handed_out_and_none_twice(recognizer):
    stream = recognizer.stream(RULES, cut_at_endpoints=True)
    stream.accept(SPEECH)
    assert all(utterance.text for utterance in stream.take_utterances())
    assert stream.take_utterances() == []
    uncut = recognizer.stream(RULES)
    uncut.accept(SPEECH)
    assert uncut.take_utterances() == []
    assert uncut.final() == recognizer.transcribe([SPEECH])[0]


def test_a_long_stream_that_is_cut_keeps_nothing_of_what_was_said(recognizer):
    stream = recognizer.stream(RULES, cut_at_endpoints=True)
    kept, texts = [], 0
    for packet in noise_speech(20.0, 3).split(3_200):
        stream.accept(packet)
        texts += len(stream.take_utterances())
        features, state = stream.window()
        kept.append(features.numel() + sum(part.size for part in flat(state)))
        assert len(stream.tokens) < 60
    assert texts > 12
    assert max(kept) <= kept[0] + 80 * (4 * CHUNK_FRAMES + 3)
    assert stream.decoded_seconds == pytest.approx(20.0, abs=2 * CHUNK_SECONDS)
