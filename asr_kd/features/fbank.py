"""Kaldi log-mel filter banks: one contract for training, streaming and the deployed client.

16 kHz mono in [-1, 1]; 80 mel bins, 20–7,600 Hz; 25 ms Povey windows every 10 ms; pre-emphasis 0.97, DC
removed, no dither, frames centred (`snip_edges` false), natural log of the power, no normalisation.
Knows nothing of models; mean and variance belong to the model that needs them.
"""

import math

import kaldi_native_fbank
import numpy as np
import torch
import torchaudio.compliance.kaldi
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE

NUM_MEL_BINS = 80
FRAME_SHIFT_MS = 10
FRAME_SHIFT_SAMPLES = SAMPLE_RATE * FRAME_SHIFT_MS // 1000
WINDOW_SAMPLES = SAMPLE_RATE * 25 // 1000
LOWEST_HZ, HIGHEST_HZ = 20.0, 7_600.0
SILENCE_VALUE = math.log(torch.finfo(torch.float32).eps)
"""What digital silence gives in every bin: the logarithm of the energy floor, −15.94."""

FEATURE_CONTRACT = {
    "kind": "kaldi-fbank",
    "sample_rate": SAMPLE_RATE,
    "num_mel_bins": NUM_MEL_BINS,
    "frame_shift_ms": FRAME_SHIFT_MS,
    "frame_length_ms": 25,
    "window": "povey",
    "low_freq": LOWEST_HZ,
    "high_freq": HIGHEST_HZ,
    "preemphasis": 0.97,
    "remove_dc_offset": True,
    "dither": 0.0,
    "snip_edges": False,
    "log_power": True,
    "normalisation": "none",
}
"""The settings above as plain data, for checkpoints, stores and bundles to carry and compare."""


def num_frames(num_samples: int) -> int:
    """Feature frames of a waveform: one for every 10 ms, rounded to the nearest (Kaldi, snip_edges false)."""
    return (num_samples + FRAME_SHIFT_SAMPLES // 2) // FRAME_SHIFT_SAMPLES


def num_samples_for(frames: int) -> int:
    """The shortest waveform that has `frames` feature frames."""
    return max(frames * FRAME_SHIFT_SAMPLES - FRAME_SHIFT_SAMPLES // 2, 0)


def fbank(waveform: Tensor) -> Tensor:
    """Features of one waveform, [S] → [T, 80] float32 with T = `num_frames(S)`."""
    if num_frames(waveform.shape[0]) == 0:
        return torch.zeros(0, NUM_MEL_BINS)
    if waveform.shape[0] < WINDOW_SAMPLES:
        # torchaudio reflects at the edges and needs one window for that; the client's computer does not.
        return _native(waveform)
    return torchaudio.compliance.kaldi.fbank(
        waveform.unsqueeze(0),
        num_mel_bins=NUM_MEL_BINS,
        low_freq=LOWEST_HZ,
        high_freq=HIGHEST_HZ,
        dither=0.0,
        energy_floor=0.0,
        snip_edges=False,
        sample_frequency=float(SAMPLE_RATE),
    )


def pad_batch(features: list[Tensor]) -> tuple[Tensor, Tensor]:
    """[T_i, 80] each → one [B, T, 80] filled up with zeros, and the lengths [B] int64."""
    lens = torch.tensor([item.shape[0] for item in features])
    return torch.nn.utils.rnn.pad_sequence(features, batch_first=True), lens


def _native(waveform: Tensor) -> Tensor:
    stream = StreamingFbank()
    return torch.cat([stream.accept(waveform), stream.finish()])


class StreamingFbank:
    """The same features, as samples arrive, from the computer that the deployed client uses.

    A frame comes out once its whole window is there, so streamed frames equal those of the whole waveform.
    """

    def __init__(self) -> None:
        options = kaldi_native_fbank.FbankOptions()
        options.frame_opts.samp_freq = SAMPLE_RATE
        options.frame_opts.dither = 0.0
        options.frame_opts.snip_edges = False
        options.mel_opts.num_bins = NUM_MEL_BINS
        options.mel_opts.low_freq = LOWEST_HZ
        options.mel_opts.high_freq = HIGHEST_HZ
        options.energy_floor = 0.0
        self._computer = kaldi_native_fbank.OnlineFbank(options)
        self._taken = self._heard_samples = 0

    def samples_until(self, frames: int) -> int:
        """Samples that `accept` needs before it has given so many more frames, at least one."""
        last = self._taken + frames - 1
        return last * FRAME_SHIFT_SAMPLES + (FRAME_SHIFT_SAMPLES + WINDOW_SAMPLES) // 2 - self._heard_samples

    def accept(self, samples: Tensor) -> Tensor:
        """Take samples [S], return the frames they complete, [T, 80] (T may be 0)."""
        if samples.numel():
            self._computer.accept_waveform(SAMPLE_RATE, samples.numpy().astype(np.float32, copy=False))
            self._heard_samples += samples.numel()
        return self._ready()

    def finish(self) -> Tensor:
        """Say that no more samples come; return the last frames, [T, 80]. `accept` must not be called again."""
        self._computer.input_finished()
        return self._ready()

    def _ready(self) -> Tensor:
        ready = self._computer.num_frames_ready
        frames = np.empty((ready - self._taken, NUM_MEL_BINS), dtype=np.float32)
        for row in range(len(frames)):
            frames[row] = self._computer.get_frame(self._taken + row)
        if len(frames):
            # Frames already handed out are never asked for again: hours of audio in constant memory.
            self._computer.pop(len(frames))
            self._taken = ready
        return torch.from_numpy(frames)
