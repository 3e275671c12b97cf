"""Kaldi log-mel filter banks: one contract for training, streaming and the deployed client.

16 kHz mono in [-1, 1]; 80 mel bins, 20–7,600 Hz; 25 ms Povey windows every 10 ms; pre-emphasis 0.97, DC
removed, no dither, frames centred (`snip_edges` false), natural log of the power, no normalisation.
Mean and variance are part of the model.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cache

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
PREEMPHASIS = 0.97
FFT_SIZE = 512

BLOCK_FRAMES = 32
"""Frames that a stream computes at once."""
BLOCK_LEAD = 3
"""Frames before the first whole block, so that chunks of 8 or 16 encoder frames, which look 3 frames ahead, are one
block or two."""

FEATURE_CONTRACT = {
    "kind": "kaldi-fbank",
    "sample_rate": SAMPLE_RATE,
    "num_mel_bins": NUM_MEL_BINS,
    "frame_shift_ms": FRAME_SHIFT_MS,
    "frame_length_ms": 25,
    "window": "povey",
    "low_freq": LOWEST_HZ,
    "high_freq": HIGHEST_HZ,
    "preemphasis": PREEMPHASIS,
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


def batches_by_duration(
    durations: Sequence[float], limit: float, order: Iterable[int] | None = None
) -> list[list[int]]:
    """Divide indices into batches whose padded audio is at most `limit`; a longer item is a batch of its own.

    The padded audio is the number of items times the longest. Items are taken in `order`, in which those of similar
    length should be neighbours; None: from short to long.
    """
    batches: list[list[int]] = []
    longest = 0.0
    for index in sorted(range(len(durations)), key=durations.__getitem__) if order is None else order:
        longest = max(longest, durations[index])
        if not batches or longest * (len(batches[-1]) + 1) > limit:
            batches.append([])
            longest = durations[index]
        batches[-1].append(index)
    return batches


def _native(waveform: Tensor) -> Tensor:
    """By the computer that the deployed client uses, [S] → [T, 80]; T may not be 0."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = NUM_MEL_BINS
    options.mel_opts.low_freq = LOWEST_HZ
    options.mel_opts.high_freq = HIGHEST_HZ
    options.energy_floor = 0.0
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(SAMPLE_RATE, waveform.numpy().astype(np.float32, copy=False))
    computer.input_finished()
    return torch.from_numpy(np.stack([computer.get_frame(frame) for frame in range(computer.num_frames_ready)]))


class StreamingFbank:
    """The same features, as samples arrive.

    A frame is ready when its whole window is there, so streamed frames equal those of the whole waveform. They are
    computed in blocks of one size, which lie at the same frames however the samples come: the same bits for every cut.
    Not by the client's own computer, which is slower and farther from the same sums in double precision.

    Attributes:
        ready: frames that can be taken.
    """

    def __init__(self) -> None:
        self._packets: list[np.ndarray] = []
        self._samples = np.zeros(0, dtype=np.float32)  # of which `_start` have gone before
        self._start = self._num_samples = self._taken = 0
        self._ended = False
        self.ready = 0

    def samples_until(self, frames: int) -> int:
        """Samples that are missing before so many more frames, at least one, can be taken."""
        return _window_end(self._taken + frames - 1) - self._num_samples

    def queue(self, samples: Tensor) -> None:
        """Take samples [S], float32. They are copied."""
        self._packets.append(samples.numpy().copy())
        self._num_samples += len(samples)
        complete = (self._num_samples - _window_end(0)) // FRAME_SHIFT_SAMPLES + 1
        self.ready = max(complete - self._taken, 0)

    def end(self) -> None:
        """End the stream: the windows of the last frames are filled up by reflection."""
        self._ended = True
        self.ready = num_frames(self._num_samples) - self._taken

    def take(self, frames: int) -> np.ndarray:
        """The next frames, [T, 80] float32; at most as many as are `ready`."""
        if self._packets:
            self._samples = np.concatenate([self._samples, *self._packets])
            self._packets.clear()
        last, found = self._taken + frames, []
        while self._taken < last:
            block = (self._taken - BLOCK_LEAD) // BLOCK_FRAMES * BLOCK_FRAMES + BLOCK_LEAD  # its first frame
            upto = min(last, block + BLOCK_FRAMES)
            found.append(self._compute(block, upto))
            self._taken = upto
        self.ready -= frames
        # Samples before the next window are dropped: hours of audio in constant memory.
        past = max(_window_start(self._taken) - self._start, 0)
        self._samples, self._start = self._samples[past:], self._start + past
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.zeros((0, NUM_MEL_BINS), dtype=np.float32)

    def accept(self, samples: Tensor) -> Tensor:
        self.queue(samples)
        return torch.from_numpy(self.take(self.ready))

    def finish(self) -> Tensor:
        """End the stream and return the last frames, [T, 80]; nothing may follow."""
        self.end()
        return torch.from_numpy(self.take(self.ready))

    def _compute(self, block: int, upto: int) -> np.ndarray:
        """Frames from the next one up to `upto`, in their places of the block that begins at frame `block`."""
        first, end = _window_start(self._taken), _window_end(upto - 1)
        covered = np.zeros(_window_end(BLOCK_FRAMES - 1) - _window_start(0), dtype=np.float32)
        place = first - _window_start(block)
        covered[place : place + end - first] = self._between(first, end)
        return _block_fbank(covered)[self._taken - block : upto - block]

    def _between(self, first: int, end: int) -> np.ndarray:
        """Samples by their numbers; before the first and after the last one they are reflected, as in Kaldi."""
        if first >= 0 and end <= self._num_samples:
            return self._samples[first - self._start : end - self._start]
        numbers = np.arange(first, end) % (2 * self._num_samples)
        return self._samples[np.minimum(numbers, 2 * self._num_samples - 1 - numbers) - self._start]


def _window_start(frame: int) -> int:
    """The first sample of a frame's window; the first frame's lies before the waveform."""
    return frame * FRAME_SHIFT_SAMPLES + (FRAME_SHIFT_SAMPLES - WINDOW_SAMPLES) // 2


def _window_end(frame: int) -> int:
    """One beyond the last sample of a frame's window."""
    return _window_start(frame) + WINDOW_SAMPLES


def _block_fbank(samples: np.ndarray) -> np.ndarray:
    """Features of the windows that lie within samples [S], [BLOCK_FRAMES, 80].

    The first sample of a window has weight 0. So pre-emphasis may go over all samples before they are cut into windows,
    of whose mean it leaves 1 − 0.97; that is taken off afterwards. In numpy where that is possible: beside a model's
    steps the code of each operation of torch has left the caches, and costs more than what it does.
    """
    window, mel_banks = _tables()
    means = _rows(samples, WINDOW_SAMPLES).sum(axis=1, keepdims=True) * np.float32((1 - PREEMPHASIS) / WINDOW_SAMPLES)
    emphasised = samples[1:] - np.float32(PREEMPHASIS) * samples[:-1]
    windowed = np.zeros((BLOCK_FRAMES, FFT_SIZE), dtype=np.float32)
    frames = windowed[:, : WINDOW_SAMPLES - 1]
    np.subtract(_rows(emphasised, WINDOW_SAMPLES - 1), means, out=frames)
    frames *= window
    spectrum = torch.fft.rfft(torch.from_numpy(windowed)).numpy()
    power = spectrum.real**2 + spectrum.imag**2
    energies = torch.mm(torch.from_numpy(power), mel_banks).numpy()
    return np.log(np.maximum(energies, np.finfo(np.float32).eps))


def _rows(samples: np.ndarray, width: int) -> np.ndarray:
    """A view of samples [S] that is one row a frame, [BLOCK_FRAMES, width]."""
    step = samples.itemsize
    return np.ndarray((BLOCK_FRAMES, width), samples.dtype, samples, 0, (FRAME_SHIFT_SAMPLES * step, step))


@cache
def _tables() -> tuple[np.ndarray, Tensor]:
    """Kaldi's Povey window without its first weight, [399], and its mel filters, [257, 80]."""
    window = torch.hann_window(WINDOW_SAMPLES, periodic=False).pow(0.85)[1:]
    edges = (float(SAMPLE_RATE), LOWEST_HZ, HIGHEST_HZ)
    banks, _ = torchaudio.compliance.kaldi.get_mel_banks(NUM_MEL_BINS, FFT_SIZE, *edges, 100.0, -500.0, 1.0)
    return window.numpy(), torch.nn.functional.pad(banks, (0, 1)).T.contiguous()
