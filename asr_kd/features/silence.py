"""Silence before and after speech, and another level, applied to features instead of samples.

Features stay in memory from epoch to epoch, and what is drawn anew is applied to them, so it costs no filter banks. In
log-mel energies a gain is a constant, and independent sounds add in power.

Shapes: S samples, T frames of 10 ms, F features of a frame.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.features.fbank import FRAME_SHIFT_SAMPLES, SILENCE_VALUE, WINDOW_SAMPLES, fbank
from asr_kd.features.perturb import coloured_noise, generator_for

Silence = Literal["zeros", "noise", "background"]
"""Digital zeros; stationary noise of a low level; the quietest frames of the recording itself, in random order."""
KINDS: tuple[Silence, ...] = ("zeros", "noise", "background")

NOISE_DBFS = (-85.0, -45.0)
"""Levels of the noise: a good sound card's own, and a room with a fan."""
NOISE_SLOPES = (0, 1, 2)
"""White, pink and brown: the power falls by so many times 3 dB an octave."""
NOISE_SECONDS = 4.0
QUIET_SHARE, QUIET_FRAMES = 0.1, 5
"""The background is the quietest tenth of an utterance's frames, but at least so many."""

PADDED_FRAMES = 4
"""Zeros in front of the waveform from which the frames at its beginning are computed: more than a window reaches."""
FRONT_FRAMES = 2
"""Frames that differ from those of the waveform alone when zeros are in front: the last of the zeros, and the first."""


@dataclass(frozen=True)
class FrameFeatures:
    """A kind of features, and what a gain and a sum of sounds are in them.

    Attributes:
        compute: waveform [S] → [T, F] with T = `num_frames(S)`.
        amplify: features and decibels → features.
        mix: features of two independent sounds → features of their sum.
        zeros: value of digital silence.
        background: features of an utterance, number of frames and generator → features of its background.
    """

    compute: Callable[[Tensor], Tensor]
    amplify: Callable[[Tensor, float], Tensor]
    mix: Callable[[Tensor, Tensor], Tensor]
    zeros: float
    background: Callable[[Tensor, int, torch.Generator], Tensor]

    def front(self, waveform: Tensor) -> Tensor:
        """Return the `FRONT_FRAMES` frames around the beginning of a waveform [S] that zeros precede, [2, F]."""
        reach = 2 * WINDOW_SAMPLES
        padded = torch.nn.functional.pad(waveform[:reach], (PADDED_FRAMES * FRAME_SHIFT_SAMPLES, reach))
        return self.compute(padded)[PADDED_FRAMES - 1 : PADDED_FRAMES - 1 + FRONT_FRAMES].clone()

    def noise(self, frames: int, generator: torch.Generator) -> Tensor:
        """Return a stretch of low noise of a drawn colour and level, [T, F]."""
        colours = _noises(self)
        recording = colours[_below(len(colours), generator)]
        start = _below(len(recording), generator)
        low, high = NOISE_DBFS
        level = low + (high - low) * float(torch.rand((), generator=generator))
        return self.amplify(recording[(start + torch.arange(frames)) % len(recording)], level)

    def surround(
        self,
        features: Tensor,
        audio_frames: int,
        front: Tensor,
        lead_frames: int,
        gain_db: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return an utterance at another level, with silence before and after it.

        Args:
            features: of the utterance, followed by zeros, [T, F]; not modified.
            audio_frames: frames before these zeros.
            front: see `front`.
            lead_frames: silence before the utterance.
            gain_db: of the utterance.
            generator: draws the kind of the silence; None: zeros.

        Returns:
            [lead_frames + T, F]; `features` themselves when nothing changes.
        """
        if lead_frames:
            lead = features.new_full((lead_frames, features.shape[1]), self.zeros)
            features = torch.cat([lead, features])
            features[lead_frames - 1 : lead_frames + 1] = front[: len(features) - lead_frames + 1]
        if gain_db:
            features = self.amplify(features, gain_db)
        end = lead_frames + audio_frames
        silent_frames = len(features) - audio_frames
        kind = KINDS[_below(len(KINDS), generator)] if generator is not None and silent_frames else "zeros"
        if kind == "zeros" or generator is None:
            return features
        if kind == "noise":
            sound = self.noise(silent_frames, generator)
        else:
            sound = self.background(features[lead_frames:end], silent_frames, generator)
        before, after = sound[:lead_frames], sound[lead_frames:]
        parts = [self.mix(features[:lead_frames], before), features[lead_frames:end], self.mix(features[end:], after)]
        return torch.cat(parts)


@cache
def _noises(features: FrameFeatures) -> tuple[Tensor, ...]:
    """Features of noise of power 1, [T, F] of each colour."""
    samples = round(NOISE_SECONDS * SAMPLE_RATE)
    return tuple(
        features.compute(coloured_noise(samples, slope, generator_for("silence", slope))) for slope in NOISE_SLOPES
    )


def quietest(energies: Tensor) -> Tensor:
    """Return the numbers of the quietest frames by their energies [T]; none of none."""
    count = min(max(round(QUIET_SHARE * len(energies)), QUIET_FRAMES), len(energies))
    return energies.topk(count, largest=False).indices


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _amplify_log_mel(features: Tensor, gain_db: float) -> Tensor:
    """Add the gain; what is at the floor, or falls below it, is at the floor."""
    changed = (features + gain_db * math.log(10) / 10).clamp_min(SILENCE_VALUE)
    return torch.where(features > SILENCE_VALUE, changed, features)


def _mix_log_mel(features: Tensor, others: Tensor) -> Tensor:
    """Add powers; a value at the floor is none."""
    mixed = torch.where(others > SILENCE_VALUE, torch.logaddexp(features, others), features)
    return torch.where(features > SILENCE_VALUE, mixed, others)


def _log_mel_background(features: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    rows = quietest(features.mean(1))
    if not len(rows):
        return features.new_full((frames, features.shape[1]), SILENCE_VALUE)
    return features[rows[torch.randint(len(rows), (frames,), generator=generator)]]


LOG_MEL = FrameFeatures(fbank, _amplify_log_mel, _mix_log_mel, SILENCE_VALUE, _log_mel_background)
"""Log-mel filter banks, which the models of this project read."""
