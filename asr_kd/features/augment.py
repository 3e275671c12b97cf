"""Augmentation: settings, change of speed, SpecAugment, and noise, rooms, telephones and levels of waveforms.

A change of speed moves frames, so soft targets must belong to the same speed; silence in front moves them by whole
encoder frames. SpecAugment and the waveform augmentation keep time, so transcripts, alignments and a teacher's soft
targets of the clean audio still fit. All randomness comes from a generator that the caller seeds.

Shapes: B utterances, S samples, T frames, F mel bins."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import ClassVar

import torch
import torchaudio.functional
from pydantic import Field, field_validator
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.config import Settings
from asr_kd.features.perturb import (
    add_noise,
    babble,
    change_gain,
    pink_noise,
    reverberate,
    room_response,
    telephone,
)

VOICES = 3
"""Other utterances that babble is made of."""
ROOM_SECONDS = (0.15, 0.6)
"""RT60 of the rooms that are drawn: from a car to a meeting room."""

PIECE_SECONDS = (1.0, 4.0)
"""Lengths of the pieces of a splice."""

Voices = Callable[[torch.Generator], Sequence[Tensor]]
"""Draws utterances to make babble of, [S] each; maybe none."""


class WaveformAugmentation(Settings):
    """Noise, rooms, telephones and levels of a waveform."""

    allowed_db: ClassVar[tuple[float, float]] = (-20.0, 60.0)

    snr_db: tuple[float, float] | None = (5.0, 25.0)
    """Range of the signal-to-noise ratio, decibels. Half of these utterances get pink noise, half the babble of three
    other training utterances; null: no noise."""
    room_share: float = Field(0.25, ge=0, le=1)
    """Share of these utterances with the reverberation of a room of 0.15 to 0.6 s RT60."""
    telephone_share: float = Field(0.1, ge=0, le=1)
    """Share of these utterances over a telephone: 300 to 3,400 Hz, 8 kHz, mu-law."""
    gain_db: float = Field(6.0, ge=0, le=60)
    """Largest gain, up or down."""

    @field_validator("snr_db")
    @classmethod
    def _in_order(cls, snr_db: tuple[float, float] | None) -> tuple[float, float] | None:
        low, high = cls.allowed_db
        if snr_db is not None and not low <= snr_db[0] <= snr_db[1] <= high:
            raise ValueError(f"snr_db must be two numbers of decibels, the lower first, from {low:g} to {high:g}")
        return snr_db


class Perturbation(WaveformAugmentation):
    """Noise, rooms, telephones and levels in training. Soft targets from the store stay those of the clean audio."""

    share: float = Field(0.5, gt=0, le=1)
    """Share of the utterances that are augmented, drawn each epoch; their features are not cached."""


def augment_waveform(
    waveform: Tensor, settings: WaveformAugmentation, generator: torch.Generator, voices: Voices
) -> Tensor:
    """Augment a waveform [S]; its length does not change.

    Args:
        settings: how often and how much.
        generator: draws everything.
        voices: gives what babble is made of; where it gives none the noise is pink.
    """
    if _happens(settings.room_share, generator):
        waveform = reverberate(waveform, room_response(_between(*ROOM_SECONDS, generator), generator))
    if settings.snr_db is not None:
        snr_db = _between(*settings.snr_db, generator)
        waveform = add_noise(waveform, _noise(len(waveform), generator, voices), snr_db)
    if _happens(settings.telephone_share, generator):
        waveform = telephone(waveform)
    return change_gain(waveform, _between(-settings.gain_db, settings.gain_db, generator))


def splice(num_samples: int, generator: torch.Generator, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """Join pieces of several waveforms, of 1 to 4 s each or shorter where a waveform or the rest is: [num_samples].

    Args:
        generator: draws everything.
        draw: gives the next waveform [S], which is not empty.
    """
    pieces: list[Tensor] = []
    missing = num_samples
    while missing > 0:
        waveform = draw(generator)
        length = min(round(_between(*PIECE_SECONDS, generator) * SAMPLE_RATE), len(waveform), missing)
        start = int(torch.randint(len(waveform) - length + 1, (), generator=generator))
        pieces.append(waveform[start : start + length])
        missing -= length
    return torch.cat(pieces)


def _noise(num_samples: int, generator: torch.Generator, voices: Voices) -> Tensor:
    chosen = voices(generator) if _happens(0.5, generator) else []
    return babble(chosen, num_samples, generator) if chosen else pink_noise(num_samples, generator)


def _happens(share: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < share


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


class SpecAugment(Settings):
    """Masks over time and frequency (Park et al. 2019, LibriSpeech-double by shape)."""

    frequency_masks: int = Field(2, ge=0, le=10)
    """Number of frequency masks."""
    frequency_width: int = Field(27, ge=0, le=80)
    """Widest frequency mask, in mel bins."""
    time_masks: int = Field(5, ge=0, le=50)
    """Number of time masks."""
    time_width_frames: int = Field(25, ge=0)
    """Widest time mask, in 10 ms frames."""
    time_share: float = Field(0.05, ge=0, le=1)
    """Widest time mask as a share of the utterance: short commands keep most of their words."""


class Augmentation(Settings):
    """Augmentation of training utterances, drawn each epoch."""

    speeds: tuple[float, ...] = (1.0,)
    """Tempo and pitch factors; one is drawn an utterance and epoch."""
    spec_augment: SpecAugment | None = SpecAugment()
    """Masks over time and frequency; None: no masks."""
    silence_share: float = Field(0.6, ge=0, le=1)
    """Share of utterances with silence in front, and share with silence behind, drawn independently: zeros, low noise,
    or the recording's own background. Soft targets and stored layers are shifted. The default of teachers with an
    `encoder` is 0, because their outputs are cached for each way an utterance is augmented."""
    silence_max_seconds: float = Field(1.0, ge=0, le=10)
    """The longest silence on either side."""
    gain_share: float = Field(0.8, ge=0, le=1)
    """Share of utterances with a gain; the default of teachers with an `encoder` is 0."""
    gain_db: tuple[float, float] = (-25.0, 10.0)
    """Range of the gain, decibels."""
    ramp_share: float = Field(0.33, ge=0, le=1)
    """Share of the epochs over which silence_share and gain_share rise from 0: without them a model learns the
    alignment sooner. 0: both from the start."""
    perturb: Perturbation | None = None
    """Waveform augmentation with noise, rooms, telephones and levels, which keeps time; null: none."""
    splice_share: float = Field(0.0, ge=0, le=1)
    """Share of utterances that are replaced by pieces of 1 to 4 s of training utterances, joined to the same length and
    drawn each epoch. They have no transcript; their targets come from a teacher that runs during training (`targets:
    dense`)."""
    augmented_copies: tuple[str, ...] = ()
    """Names of `targets.perturbed`: in each epoch the recording or one of these copies is drawn for an utterance, with
    equal probability; the soft targets are those of the drawn copy."""

    @field_validator("gain_db")
    @classmethod
    def _gains_in_order(cls, gain_db: tuple[float, float]) -> tuple[float, float]:
        if not -60 <= gain_db[0] <= gain_db[1] <= 60:
            raise ValueError("gain_db must be two numbers of decibels, the lower first, from -60 to 60")
        return gain_db

    @field_validator("speeds")
    @classmethod
    def _speeds(cls, speeds: tuple[float, ...]) -> tuple[float, ...]:
        if not speeds or not all(0.5 <= speed <= 2.0 for speed in speeds):
            raise ValueError("speeds must be numbers from 0.5 to 2, at least one")
        if any(speed != 1 and _ratio(speed) == 1 for speed in speeds):
            raise ValueError("speeds within 0.5 % of 1 count as 1: resampling takes hundredths")
        return speeds

    def ramp_epochs(self, epochs: int) -> int:
        """Return how many of so many epochs have smaller shares than the others."""
        return round(self.ramp_share * epochs) if self.silence_share or self.gain_share else 0

    def in_epoch(self, epoch: int, epochs: int) -> "Augmentation":
        """Return the settings of an epoch, counted from 1: with the shares that it has."""
        ramp = self.ramp_epochs(epochs)
        if epoch > ramp:
            return self
        done = (epoch - 1) / ramp
        return self.model_copy(
            update={"silence_share": done * self.silence_share, "gain_share": done * self.gain_share}
        )


NO_AUGMENTATION = Augmentation(spec_augment=None, silence_share=0.0, gain_share=0.0)
"""Every utterance as it was recorded."""


def speed_perturb(waveform: Tensor, factor: float) -> Tensor:
    """Play [S] samples `factor` times as fast: about S / factor samples, pitch moved along (Ko et al. 2015)."""
    if factor == 1.0:
        return waveform
    ratio = _ratio(factor)
    return torchaudio.functional.resample(waveform, ratio.numerator, ratio.denominator)


def _ratio(factor: float) -> Fraction:
    """The factor as resampling takes it: numerators and denominators to a hundred keep its filters short."""
    return Fraction(factor).limit_denominator(100)


def spec_augment(
    features: Tensor, feature_lens: Tensor, fill: Tensor, settings: SpecAugment, generator: torch.Generator
) -> Tensor:
    """Mask random bands and stretches of [B, T, F] features with `fill` [F] (the corpus mean); a new tensor.

    Masks lie inside each utterance's own length and differ between utterances.
    """
    batch, frames, bins = features.shape
    lens = feature_lens.to("cpu", torch.float32)

    def spans(count: int, widest: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
        # Drawn on the CPU, so that a seed means the same masks on every device.
        width = torch.rand(batch, count, generator=generator) * (widest + 1).unsqueeze(1)
        width = torch.minimum(width.floor(), widest.unsqueeze(1))
        start = torch.rand(batch, count, generator=generator) * (extent.unsqueeze(1) - width).clamp_min(0)
        return start.floor(), width

    def inside(start: Tensor, width: Tensor, extent: int) -> Tensor:
        index = torch.arange(extent).view(1, 1, -1)
        return ((index >= start.unsqueeze(-1)) & (index < (start + width).unsqueeze(-1))).any(1)

    widest_time = torch.minimum(
        torch.full((batch,), float(settings.time_width_frames)), (lens * settings.time_share).floor()
    )
    widest_band = torch.full((batch,), float(settings.frequency_width))
    times = inside(*spans(settings.time_masks, widest_time, lens), frames)
    bands = inside(*spans(settings.frequency_masks, widest_band, torch.full((batch,), float(bins))), bins)
    masked = (times.unsqueeze(2) | bands.unsqueeze(1)).to(features.device)
    return torch.where(masked, fill.to(features), features)
