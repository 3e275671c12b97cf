"""Recordings of any length: what is kept of them is bounded, and the text is that of the whole."""

import json

import numpy as np
import pytest
import soundfile
import torch

from asr_kd.audio import SAMPLE_RATE
from asr_kd.decoding.beam import StreamingBeam
from asr_kd.decoding.settings import DecodingSettings
from asr_kd.models.layers import feature_frames_for
from asr_kd.runtime import transcribe
from asr_kd.runtime.backend import TorchBackend
from asr_kd.runtime.recognizer import Recognizer, open_recognizer
from asr_kd.runtime.streaming import StreamingRecognizer
from asr_kd.runtime.transcribe import WindowedStream, transcribe_files, transcript_lines
from tests.helpers.tiny_models import CHUNK_FRAMES, VOCABULARY, noise_speech, save_tiny_model, tiny_model

BEAM = DecodingSettings(kind="beam", beam_size=5, nbest=2)


def recording(path, seconds: float):
    piece = noise_speech(5.0, 1).numpy()
    soundfile.write(path, np.tile(piece, round(seconds / 5)), SAMPLE_RATE, subtype="PCM_16")
    return path


def numbers_in(state) -> int:
    """How many numbers a model's state holds, whatever it is made of."""
    if isinstance(state, torch.Tensor):
        return state.numel()
    parts = state if isinstance(state, list | tuple) else vars(state).values() if hasattr(state, "__dict__") else ()
    return sum(map(numbers_in, parts))


def watched(monkeypatch, sizes: list[dict[str, int]]):
    """Note, after each piece of audio, how much a stream keeps."""
    feed, accept, pending = StreamingRecognizer.feed, StreamingBeam.accept, [0]

    def look(stream, samples):
        feed(stream, samples)
        features, state = stream.window()
        sizes.append(
            {
                "block samples": len(samples),
                "feature frames": len(features),
                "state": numbers_in(state),
                "posteriors": pending[-1],
            }
        )

    def search(decoder, log_probs):
        accept(decoder, log_probs)
        pending.append(decoder.pending_frames)

    monkeypatch.setattr(StreamingRecognizer, "feed", look)
    monkeypatch.setattr(StreamingBeam, "accept", search)


@pytest.mark.parametrize("decoding", [DecodingSettings(), BEAM])
def test_what_a_stream_keeps_does_not_grow_with_the_recording(tmp_path, monkeypatch, decoding):
    model = save_tiny_model(tmp_path / "model")
    kept = {}
    for seconds in (15, 35):
        sizes: list[dict[str, int]] = []
        with monkeypatch.context() as patch:
            watched(patch, sizes)
            [result] = transcribe_files(model, [recording(tmp_path / f"{seconds}.flac", seconds)], decoding=decoding)
        assert result.error is None
        assert len(sizes) >= seconds // 10
        assert sizes[-1]["state"] > 0
        kept[seconds] = {name: max(size[name] for size in sizes) for name in sizes[0]}
        assert len(result.words) > seconds / 2
    # A minute, and what comes between two looks; less than a window.
    bound = {"posteriors": 1_500 + 2 * 250, "feature frames": feature_frames_for(CHUNK_FRAMES) - 1}
    for name, most in kept[35].items():
        assert most <= max(kept[15][name], bound.get(name, 0)), name


def test_a_file_is_never_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("asr_kd.audio.waveform_reader.MAX_SAMPLES", 0)
    [result] = transcribe_files(save_tiny_model(tmp_path / "model"), [recording(tmp_path / "long.wav", 15)])
    assert result.text


@pytest.mark.parametrize("decoding", [DecodingSettings(), BEAM])
def test_files_and_waveforms_give_the_same(tmp_path, decoding):
    model = save_tiny_model(tmp_path / "model")
    path = recording(tmp_path / "speech.flac", 15)
    [result] = transcribe_files(model, [path], decoding=decoding)
    waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    recognizer = open_recognizer(model, decoding=decoding)
    assert recognizer.transcribe([waveform]) == [result.text]
    [nbest] = recognizer.hypotheses([waveform])
    assert result.nbest[0][1] == pytest.approx(nbest[0].score, abs=0.01)
    assert len(result.nbest) == decoding.nbest
    assert " ".join(word.text for word in result.words) == result.text
    assert all(0 <= word.confidence <= 1 and word.start_seconds < word.end_seconds for word in result.words)
    starts = [word.start_seconds for word in result.words]
    assert starts == sorted(starts)
    assert starts[-1] < 16


def test_a_full_context_model_runs_over_windows(monkeypatch):
    recognizer = Recognizer(TorchBackend(tiny_model(streaming=False)), VOCABULARY)
    waveform = noise_speech(40.0, 2)
    monkeypatch.setattr(transcribe, "WINDOW_SECONDS", 20)
    monkeypatch.setattr(transcribe, "OVERLAP_SECONDS", 8)
    windows, frames = [], []
    log_probs, decoder = recognizer.log_probs, recognizer.decoder.stream()
    accept = decoder.accept
    monkeypatch.setattr(recognizer, "log_probs", lambda waves: windows.append(len(waves[0])) or log_probs(waves))
    monkeypatch.setattr(recognizer.decoder, "stream", lambda: decoder)
    monkeypatch.setattr(decoder, "accept", lambda rows: frames.append(rows) or accept(rows))
    stream = WindowedStream(recognizer)
    for number, piece in enumerate(waveform.split(3 * SAMPLE_RATE)):
        stream.feed(piece)
        assert len(windows) == max(0, (3 * number + 3 - 20 + 11) // 12), "as soon as a window is there"
    text = stream.final()
    assert stream.final() == text
    assert max(windows) <= 20 * SAMPLE_RATE
    whole = log_probs([waveform])
    assert sum(map(len, frames)) == int(whole.lens[0]), "every frame once"
    monkeypatch.undo()
    short = WindowedStream(recognizer)
    short.feed(waveform)
    assert [short.final()] == recognizer.transcribe([waveform]), "up to a window, one pass"
    # The frames lie where those of the whole do: a frame earlier or later they fit worse.
    said, meant = torch.cat(frames).argmax(-1), whole.log_probs[0].argmax(-1)
    agree = [float((said[3:-3] == meant.roll(shift)[3:-3]).float().mean()) for shift in (-1, 0, 1)]
    assert agree[1] > 0.7
    assert agree[1] > max(agree[0], agree[2]) + 0.1


def test_endpoints_part_a_stream_and_its_words_keep_the_recordings_time():
    recognizer = Recognizer(TorchBackend(tiny_model()), VOCABULARY)
    stream = recognizer.stream()
    waveform = noise_speech(6.0, 3)
    stream.feed(waveform[:48_000])
    before = stream.words()
    frames = round(stream.decoded_seconds / 0.04)
    stream.next_utterance()
    assert (stream.partial(), stream.words()) == ("", [])
    stream.feed(waveform[48_000:])
    stream.final()
    after = stream.words()
    assert after[0].start_seconds >= frames * 0.04
    assert stream.token_frames[0] * 0.04 < after[0].start_seconds
    assert before[-1].end_seconds <= frames * 0.04


def test_lines_of_each_form(tmp_path):
    word = transcribe.Word("HELLO", 0.4, 0.92, 0.81234)
    result = transcribe.Transcript(tmp_path / "a b.wav", "HELLO", None, (word,), (("HELLO", -1.5),))
    assert transcript_lines(result) == f"{tmp_path / 'a b.wav'}\tHELLO\n"
    plain = json.loads(transcript_lines(result, "json"))
    assert plain["words"] == [{"word": "HELLO", "start": 0.4, "end": 0.92, "confidence": 0.8123}]
    assert plain["nbest"] == [{"text": "HELLO", "score": -1.5}]
    named = result._replace(path=tmp_path / "ab.wav")
    assert transcript_lines(named, "ctm") == "ab 1 0.400 0.520 HELLO 0.8123\n"
    assert transcript_lines(named._replace(words=()), "ctm") == ""
