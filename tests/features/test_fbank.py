"""Features: batch, streaming and the client's own computer agree, and frames know nothing of the future."""

import math
from itertools import pairwise

import kaldi_native_fbank
import numpy as np
import pytest
import torch
import torchaudio.compliance.kaldi
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.audio import read_audio
from asr_kd.features.fbank import SILENCE_VALUE, StreamingFbank, fbank, num_frames, pad_batch

CLIENT_TOLERANCE = 5e-3
"""Log units; the two computers sum in different orders, which shows most where a bin holds almost nothing."""


def speech_like(num_samples: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(num_samples, generator=generator)


@given(num_samples=st.integers(0, 5_000))
def test_one_frame_every_ten_milliseconds(num_samples):
    features = fbank(speech_like(num_samples))
    assert features.shape == (num_frames(num_samples), 80)
    assert features.isfinite().all()


def test_silence_is_the_energy_floor():
    assert math.isclose(SILENCE_VALUE, -15.942385, abs_tol=1e-5)
    torch.testing.assert_close(fbank(torch.zeros(16_000)), torch.full((100, 80), SILENCE_VALUE))


@given(cuts=st.lists(st.integers(0, 8_000), max_size=6))
def test_streamed_in_any_packets_equals_at_once(cuts):
    waveform = speech_like(8_000)
    stream, frames = StreamingFbank(), []
    edges = [0, *sorted(cuts), 8_000]
    for begin, end in pairwise(edges):
        frames.append(stream.accept(waveform[begin:end]))
    frames.append(stream.finish())
    streamed = torch.cat(frames)
    assert streamed.shape == (num_frames(8_000), 80)
    torch.testing.assert_close(streamed, fbank(waveform), atol=CLIENT_TOLERANCE, rtol=0)
    at_once = StreamingFbank()
    assert torch.equal(streamed, torch.cat([at_once.accept(waveform), at_once.finish()]))


@given(num_samples=st.integers(80, 12_000), takes=st.lists(st.integers(1, 70), max_size=6))
def test_however_frames_are_taken_they_are_those_of_the_client(num_samples, takes):
    waveform = speech_like(num_samples)
    stream, frames = StreamingFbank(), []
    stream.queue(waveform)
    stream.end()
    for wanted in takes:
        frames.append(torch.from_numpy(stream.take(min(wanted, stream.ready))))
    frames.append(torch.from_numpy(stream.take(stream.ready)))
    at_once = StreamingFbank()
    assert torch.equal(torch.cat(frames), torch.cat([at_once.accept(waveform), at_once.finish()]))
    torch.testing.assert_close(torch.cat(frames), client_features(waveform), atol=CLIENT_TOLERANCE, rtol=0)
    assert stream.ready == 0


@pytest.mark.parametrize("level", [0.0, 0.5, -0.9])
def test_a_constant_is_silence(level):
    stream = StreamingFbank()
    features = stream.accept(torch.full((8_000,), level))
    torch.testing.assert_close(features, torch.full_like(features, SILENCE_VALUE))


def test_the_callers_buffer_may_be_used_again():
    buffer, stream = speech_like(1_600), StreamingFbank()
    expected = StreamingFbank().accept(buffer)
    stream.queue(buffer)
    buffer.zero_()
    assert torch.equal(torch.from_numpy(stream.take(stream.ready)), expected)


@pytest.mark.parametrize(("heard", "frames"), [(0, 1), (279, 1), (280, 1), (1_000, 4), (1_000, 9)])
def test_samples_until_is_exact(heard, frames):
    stream = StreamingFbank()
    stream.queue(speech_like(heard))
    stream.take(taken := stream.ready // 2)
    missing = stream.samples_until(frames)
    if missing > 0:
        stream.queue(speech_like(missing - 1))
        assert stream.ready < frames
        stream.queue(speech_like(1))
    assert stream.ready >= frames
    assert stream.ready + taken == (max(heard, heard + missing) - 280) // 160 + 1


def test_later_samples_never_change_frames_that_are_out():
    waveform = speech_like(16_000)
    changed = waveform.clone()
    changed[8_000:] = speech_like(8_000, seed=9)
    first, second = (StreamingFbank().accept(audio[:8_000]) for audio in (waveform, changed))
    assert len(first) > 40
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_equals_the_clients_computer_with_its_own_settings():
    waveform = speech_like(20_000)
    torch.testing.assert_close(fbank(waveform), client_features(waveform), atol=CLIENT_TOLERANCE, rtol=0)


def test_streams_are_nearer_to_the_sums_in_double_precision_than_the_client():
    waveform, stream = speech_like(16_000), StreamingFbank()
    exact, client = exact_features(waveform), client_features(waveform)
    ours = torch.cat([stream.accept(waveform), stream.finish()])
    assert (ours - exact).abs().mean() < (client - exact).abs().mean() < 1e-4
    torch.testing.assert_close(ours.double(), exact, atol=CLIENT_TOLERANCE, rtol=0)


def exact_features(waveform):
    """Kaldi's steps one by one: reflection, DC, pre-emphasis, Povey window, power spectrum, mel filters, logarithm."""
    total = len(waveform)
    numbers = (np.arange(num_frames(total))[:, None] * 160 - 120 + np.arange(400)) % (2 * total)
    frames = waveform.double().numpy()[np.minimum(numbers, 2 * total - 1 - numbers)]
    frames -= frames.mean(axis=1, keepdims=True)
    frames -= 0.97 * frames[:, np.maximum(np.arange(400) - 1, 0)]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(frames * window, 512))[:, :256] ** 2
    banks, _ = torchaudio.compliance.kaldi.get_mel_banks(80, 512, 16_000.0, 20.0, 7_600.0, 100.0, -500.0, 1.0)
    return torch.from_numpy(np.log(np.maximum(power @ banks.double().numpy().T, np.finfo(np.float32).eps)))


def client_features(waveform):
    """The options as sherpa-onnx sets them, written out here apart from ours."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither, options.frame_opts.snip_edges = 16_000, 0.0, False
    options.frame_opts.frame_shift_ms, options.frame_opts.frame_length_ms = 10.0, 25.0
    options.frame_opts.preemph_coeff, options.frame_opts.remove_dc_offset = 0.97, True
    options.frame_opts.window_type = "povey"
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = 80, 20.0, -400.0
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(16_000, waveform.numpy())
    computer.input_finished()
    return torch.from_numpy(np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)]))


@pytest.mark.corpora
def test_agrees_on_real_speech(corpora_root):
    paths = sorted(corpora_root.rglob("an4_clstk/*/*.wav"))[:5]
    if not paths:
        pytest.skip("no AN4 under ASR_KD_CORPORA")
    for path in paths:
        waveform = read_audio(path)
        stream = StreamingFbank()
        streamed = torch.cat([stream.accept(waveform), stream.finish()])
        torch.testing.assert_close(fbank(waveform), streamed, atol=CLIENT_TOLERANCE, rtol=0)


def test_padding_is_told_by_lengths():
    features, lens = pad_batch([torch.ones(3, 80), torch.ones(5, 80)])
    assert features.shape == (2, 5, 80)
    assert lens.tolist() == [3, 5]
    assert features[0, 3:].eq(0).all()
