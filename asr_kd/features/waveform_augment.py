"""Random augmentation of training waveforms: a room, noise, a telephone, another level.

It keeps time, so transcripts, alignments and a teacher's soft targets of the clean audio at the same speed still fit.

Shapes: S samples.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

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

Voices = Callable[[torch.Generator], Sequence[Tensor]]
"""Draws utterances to make babble of, [S] each; maybe none."""


class Sound(Settings):
    """Noise, rooms, telephones and levels of a waveform."""

    allowed_db: ClassVar[tuple[float, float]] = (-20.0, 60.0)

    snr_db: tuple[float, float] | None = (5.0, 25.0)
    """How far their energy is above that of noise, in decibels, from the least to the most. Half of them get pink
    noise, half the babble of three other training utterances; null: no noise."""
    room_share: float = Field(0.25, ge=0, le=1)
    """Share of them in a room of 0.15 to 0.6 s RT60."""
    telephone_share: float = Field(0.1, ge=0, le=1)
    """Share of them over a telephone: 300 to 3,400 Hz, 8 kHz, mu-law."""
    gain_db: float = Field(6.0, ge=0, le=60)
    """Largest change of level."""

    @field_validator("snr_db")
    @classmethod
    def _in_order(cls, snr_db: tuple[float, float] | None) -> tuple[float, float] | None:
        low, high = cls.allowed_db
        if snr_db is not None and not low <= snr_db[0] <= snr_db[1] <= high:
            raise ValueError(f"snr_db must be two numbers of decibels, the lower first, from {low:g} to {high:g}")
        return snr_db


class Perturbation(Sound):
    """Noise, rooms, telephones and levels in training. Soft targets from the store stay those of the clean audio."""

    share: float = Field(0.5, gt=0, le=1)
    """Share of the utterances that are augmented, drawn each epoch; their features are not cached."""


def augment_waveform(waveform: Tensor, settings: Sound, generator: torch.Generator, voices: Voices) -> Tensor:
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


def _noise(num_samples: int, generator: torch.Generator, voices: Voices) -> Tensor:
    chosen = voices(generator) if _happens(0.5, generator) else []
    return babble(chosen, num_samples, generator) if chosen else pink_noise(num_samples, generator)


def _happens(share: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < share


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
