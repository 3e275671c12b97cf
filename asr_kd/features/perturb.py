"""Augmentation of waveforms: noise, rooms, telephone band, codecs and level.

Used for training and for robustness tests. Every function keeps the number of samples and the time of every sound
(to a millisecond), so transcripts, alignments and soft targets still fit; a change of speed, which does not, stands
in `augment`. All draw from a generator that the caller seeds.

Shapes: S samples of 16 kHz mono, float32 in [-1, 1].
"""

import hashlib
import io
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import soundfile
import torch
import torchaudio.functional
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE, resample

Coding = Literal["mu-law", "gsm", "opus", "mp3"]
"""What a waveform is sent through: G.711 mu-law and GSM 06.10 at 8 kHz, Opus and MP3 at 16 kHz, each as libsndfile
encodes by default (on AN4's speech Opus took 28 kbit/s and MP3 45)."""

CONTAINERS: dict[Coding, tuple[str, str, int]] = {
    "mu-law": ("WAV", "ULAW", 8_000),
    "gsm": ("WAV", "GSM610", 8_000),
    "opus": ("OGG", "OPUS", SAMPLE_RATE),
    "mp3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
}
"""libsndfile's format, subtype and the sample rate of each coding."""

TELEPHONE_HZ = (300.0, 3_400.0)
"""The band of a narrow-band telephone."""

PINK_FLAT_BELOW_HZ = 20.0
DIRECT_SOUND_SECONDS = 0.0025
"""The tail of a room begins this long after the direct sound."""


def generator_for(*words: object) -> torch.Generator:
    """A generator whose numbers depend on these words only, such as an utterance's id and a condition."""
    digest = hashlib.sha256("\0".join(map(str, words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def add_noise(waveform: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Mix noise [S] in so that the energy of the whole waveform [S] is `snr_db` above the noise's.

    The speech keeps its level; the sum is not clipped. Digital silence has no such ratio and comes back unchanged.

    Raises:
        ValueError: other lengths.
    """
    if noise.shape != waveform.shape:
        raise ValueError(f"noise of shape {tuple(noise.shape)} for a waveform of shape {tuple(waveform.shape)}")
    if not (waveform.any() and noise.any()):
        return waveform
    return torchaudio.functional.add_noise(waveform, noise, torch.tensor(float(snr_db)))


def stretch_of(recording: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    """`num_samples` of a recording [N] from a drawn place on, from its start again where it ends.

    Raises:
        ValueError: an empty recording.
    """
    if not len(recording):
        raise ValueError("a recording without samples cannot be repeated")
    start = int(torch.randint(len(recording), (), generator=generator))
    return recording[(start + torch.arange(num_samples)) % len(recording)]


def pink_noise(num_samples: int, generator: torch.Generator) -> Tensor:
    """Noise [S] whose power falls by 3 dB an octave from 20 Hz on, of power 1."""
    return coloured_noise(num_samples, 1, generator)


def coloured_noise(num_samples: int, slope: int, generator: torch.Generator) -> Tensor:
    """Noise [S] whose power falls by `slope` · 3 dB an octave from 20 Hz on, of power 1: 0 white, 1 pink, 2 brown."""
    if num_samples == 0:
        return torch.zeros(0)
    spectrum = torch.fft.rfft(torch.randn(num_samples, generator=generator))
    frequencies = torch.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE).clamp_min(PINK_FLAT_BELOW_HZ)
    return _unit_power(torch.fft.irfft(spectrum / frequencies.sqrt() ** slope, n=num_samples))


def babble(voices: Sequence[Tensor], num_samples: int, generator: torch.Generator) -> Tensor:
    """Several voices [N] each, equally loud, from drawn places on and over again: [S] of power 1.

    Raises:
        ValueError: no voice, or an empty one.
    """
    if not voices:
        raise ValueError("babble needs at least one voice")
    stretches = [_unit_power(stretch_of(voice, num_samples, generator)) for voice in voices]
    return _unit_power(torch.stack(stretches).sum(0))


def room_response(
    reverberation_seconds: float, generator: torch.Generator, *, direct_to_reverberant_db: float = 0.0
) -> Tensor:
    """The impulse response [R] of a room by its RT60, energy 1, the direct sound at sample 0.

    Noise under an exponential, which is what the late part of a room is (Polack 1988); no early reflections.
    """
    if reverberation_seconds <= 0:
        raise ValueError(f"a reverberation time of {reverberation_seconds} s: expected more than 0")
    time = torch.arange(max(round(reverberation_seconds * SAMPLE_RATE), 2)) / SAMPLE_RATE
    tail = torch.randn(len(time), generator=generator) * torch.exp(-3 * math.log(10) * time / reverberation_seconds)
    tail[: max(round(DIRECT_SOUND_SECONDS * SAMPLE_RATE), 1)] = 0
    tail *= 10 ** (-direct_to_reverberant_db / 20) / tail.norm().clamp_min(1e-9)
    tail[0] = 1.0
    return tail / tail.norm()


def reverberate(waveform: Tensor, response: Tensor) -> Tensor:
    """A waveform [S] in a room [R]: as long as before, what rings on is cut off."""
    if not len(waveform):
        return waveform
    # The transform's length is then a power of two; of other lengths it takes up to four times as long.
    full = len(waveform) + len(response) - 1
    padded = torch.nn.functional.pad(waveform, (0, (1 << (full - 1).bit_length()) - full))
    return torchaudio.functional.fftconvolve(padded, response)[: len(waveform)]


def telephone(waveform: Tensor, coding: Literal["mu-law", "gsm"] = "mu-law") -> Tensor:
    """A waveform [S] over a telephone: 300 to 3,400 Hz, 8 kHz, coded, and back at 16 kHz."""
    if not len(waveform):
        return waveform
    low, high = TELEPHONE_HZ
    for _ in range(2):  # once in each direction of time: 24 dB an octave, and no delay
        waveform = torchaudio.functional.highpass_biquad(waveform, SAMPLE_RATE, low)
        waveform = torchaudio.functional.lowpass_biquad(waveform, SAMPLE_RATE, high).flip(0)
    return through_codec(waveform, coding)


def through_codec(waveform: Tensor, coding: Coding) -> Tensor:
    """A waveform [S] encoded and decoded by libsndfile; clipped to [-1, 1] before, its length and timing kept."""
    if not len(waveform):
        return waveform
    container, subtype, rate = CONTAINERS[coding]
    samples = resample(waveform.clamp(-1, 1).numpy(), SAMPLE_RATE, rate)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return _as_long(resample(np.clip(decoded, -1.0, 1.0), rate, SAMPLE_RATE), len(waveform))


def at_rate(waveform: Tensor, sample_rate: int) -> Tensor:
    """A waveform [S] as recorded at a lower sample rate: the band above half of it is missing."""
    if not len(waveform):
        return waveform
    low = resample(waveform.numpy(), SAMPLE_RATE, sample_rate)
    return _as_long(resample(low, sample_rate, SAMPLE_RATE), len(waveform))


def change_gain(waveform: Tensor, gain_db: float) -> Tensor:
    """A waveform [S] so many decibels louder, clipped to [-1, 1] as a recording would be."""
    return (waveform * 10 ** (gain_db / 20)).clamp(-1, 1)


def _unit_power(samples: Tensor) -> Tensor:
    """Mean square 1; digital silence stays that."""
    return samples / samples.square().mean().sqrt().clamp_min(1e-9)


def _as_long(samples: np.ndarray, num_samples: int) -> Tensor:
    """Cut, or filled up with silence: codecs work in blocks, and resampling rounds."""
    kept = torch.from_numpy(np.ascontiguousarray(samples[:num_samples]))
    return torch.nn.functional.pad(kept, (0, num_samples - len(kept)))
