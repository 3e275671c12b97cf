"""Batch sampler by duration: a function of seed and epoch.

The batches of an epoch depend on nothing else, so a resumed run has the batches of an uninterrupted one. They are
composed before they are divided among processes, so any number of processes has the same global batches.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr_kd.features.augment import Augmentation
from asr_kd.features.fbank import batches_by_duration
from asr_kd.models.layers import FACTOR, FRAME_SHIFT_MS

Drawn = NDArray[Any]

JITTER = 0.2
"""Durations are stretched at random by up to this share before sorting: little padding, other batches each epoch."""

AUGMENTATION_STREAM, COPY_STREAM, LEVEL_STREAM, SPLICE_STREAM = 1, 2, 3, 4
"""Appended to seed and epoch: independent random streams for waveform augmentation, for augmented copies, for silence
in front and gain, and for splices."""


class SampledUtterance(NamedTuple):
    """One utterance of a batch, with the augmentation drawn for it."""

    row: int
    """Index of the utterance."""
    speed: float
    """Speed factor; above 1 the audio is shorter."""
    silence_frames: int
    """Feature frames (10 ms) of silence appended."""
    augmentation_seed: int | None = None
    """Seed of the waveform augmentation; None: no augmentation."""
    augmented_copy: str = ""
    """Name of a stored augmented copy (`targets.perturbed`); empty: the recording itself."""
    lead_frames: int = 0
    """Feature frames of silence in front, a multiple of 4: soft targets are shifted by whole encoder frames."""
    gain_db: float = 0.0
    """Gain in decibels."""
    silence_seed: int | None = None
    """Seed of the kind of silence and of its noise; None: zeros."""
    splice_seed: int | None = None
    """Seed of the pieces of other utterances that replace this one; None: the utterance itself."""

    @property
    def extra_frames(self) -> int:
        return self.lead_frames + self.silence_frames


def plan_epoch(
    durations: Sequence[float],
    augmentation: Augmentation,
    batch_seconds: float,
    seed: int,
    epoch: int,
    min_silence_frames: int = 0,
) -> list[list[SampledUtterance]]:
    """Return the batches of one epoch: every utterance once, at most `batch_seconds` of padded audio each.

    An utterance longer than that makes a batch of its own. `durations` are in seconds.
    """
    generator = np.random.default_rng([seed, epoch])
    count = len(durations)
    speeds = generator.choice(np.asarray(augmentation.speeds), size=count)
    with_silence = generator.random(count) < augmentation.silence_share
    extra = np.floor(generator.random(count) * augmentation.silence_max_seconds * 100).astype(int)
    silence = np.maximum(np.where(with_silence, extra, 0), min_silence_frames)
    lead, gains, silence_seeds = _levels(augmentation, count, seed, epoch)
    seconds = np.asarray(durations) / speeds + (silence + lead) / 100
    perturbed = augmentation.perturb.share if augmentation.perturb is not None else 0.0
    augmentation_seeds = _seeds_of_share(perturbed, count, [seed, epoch, AUGMENTATION_STREAM])
    splice_seeds = _seeds_of_share(augmentation.splice_share, count, [seed, epoch, SPLICE_STREAM])
    copies = _augmented_copies(augmentation, count, seed, epoch)
    order = np.argsort(seconds * (1 + JITTER * generator.random(count)), kind="stable")
    drawn = [
        SampledUtterance(
            row,
            float(speeds[row]),
            int(silence[row]),
            augmentation_seeds[row],
            copies[row],
            int(lead[row]),
            float(gains[row]),
            int(silence_seeds[row]) if with_silence[row] or lead[row] else None,  # silence for a delay alone is zeros
            splice_seeds[row],
        )
        for row in range(count)
    ]
    batches = batches_by_duration(seconds.tolist(), batch_seconds, order.tolist())
    return [[drawn[row] for row in batches[position]] for position in generator.permutation(len(batches))]


def _levels(augmentation: Augmentation, count: int, seed: int, epoch: int) -> tuple[Drawn, Drawn, Drawn]:
    """Return for each utterance the silence in front, the gain and a seed of the silence, from their own stream."""
    generator = np.random.default_rng([seed, epoch, LEVEL_STREAM])
    in_front = generator.random(count) < augmentation.silence_share
    most = augmentation.silence_max_seconds * 1000 // FRAME_SHIFT_MS  # encoder frames
    lead = FACTOR * np.ceil(generator.random(count) * most).astype(int)
    changed = generator.random(count) < augmentation.gain_share
    gains = generator.uniform(*augmentation.gain_db, count)
    seeds = generator.integers(1 << 62, size=count)
    return np.where(in_front, lead, 0), np.where(changed, gains, 0.0), seeds


def _seeds_of_share(share: float, count: int, stream: Sequence[int]) -> list[int | None]:
    """Return a seed for each of a share of so many utterances, None for the others, from a random stream."""
    generator = np.random.default_rng(stream)
    seeds = generator.integers(1 << 62, size=count).tolist()
    chosen = (generator.random(count) < share).tolist()
    return [drawn if is_chosen else None for drawn, is_chosen in zip(seeds, chosen, strict=True)]


def _augmented_copies(augmentation: Augmentation, count: int, seed: int, epoch: int) -> list[str]:
    """Return the augmented copy of each utterance, from a random stream of their own."""
    names = ("", *augmentation.augmented_copies)
    drawn = np.random.default_rng([seed, epoch, COPY_STREAM]).integers(len(names), size=count)
    return [names[index] for index in drawn.tolist()]


def share_of(
    batch: Sequence[SampledUtterance], seconds: Callable[[SampledUtterance], float], rank: int, count: int
) -> list[SampledUtterance]:
    """Return the part of a batch that process `rank` of `count` computes; it may be empty.

    Utterances are dealt out longest first, in the order 0, 1, 1, 0, 0, …: counts differ by at most one, and the
    amounts of audio are nearly equal.
    """
    if count == 1:
        return list(batch)
    order = sorted(batch, key=seconds, reverse=True)
    return [draw for position, draw in enumerate(order) if position % (2 * count) in (rank, 2 * count - 1 - rank)]


class DurationBatchSampler:
    """Batch sampler for a DataLoader over `plan_epoch`, which can begin in the middle of an epoch.

    Its length counts global batches; process `rank` of `count` gets its part of each (`share_of`). In the first
    `curriculum_epochs` epochs the batches are sorted from the shortest to the longest; over the first of `epochs` the
    shares of silence and gain rise (`Augmentation.ramp_share`).

    Args:
        durations: of each utterance as recorded, seconds.
        batch_seconds: audio of a global batch, padding included.
        min_silence_frames: feature frames (10 ms) of silence behind every utterance, for a delay in the loss.
        epochs: of the whole training; 0: the shares do not rise.

    Attributes:
        skip: batches that the next iteration leaves out.
    """

    def __init__(
        self,
        durations: Sequence[float],
        augmentation: Augmentation,
        batch_seconds: float,
        seed: int,
        min_silence_frames: int = 0,
        *,
        epochs: int = 0,
        curriculum_epochs: int = 0,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        self._durations, self._augmentation, self._epochs = durations, augmentation, epochs
        self._batch_seconds, self._seed = batch_seconds, seed
        self._min_silence_frames, self._curriculum_epochs = min_silence_frames, curriculum_epochs
        self._rank, self._count = rank, count
        self.num_utterances = len(durations)
        self.skip = 0
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        augmentation = self._augmentation.in_epoch(epoch, self._epochs)
        self._batches = plan_epoch(
            self._durations, augmentation, self._batch_seconds, self._seed, epoch, self._min_silence_frames
        )
        if epoch <= self._curriculum_epochs:
            self._batches.sort(key=lambda batch: max(map(self._seconds, batch)))

    def count_all(self, epochs: int) -> int:
        """Return the number of batches of `epochs` epochs, estimated from the first and the last; plan the first.

        While the share of silence rises, each epoch has more batches than the one before.
        """
        self.set_epoch(epochs)
        last = len(self)
        self.set_epoch(1)
        ramp = self._augmentation.ramp_epochs(epochs) if self._epochs else 0
        if not ramp:
            return len(self) * epochs
        return epochs * last - (last - len(self)) * (ramp + 1) // 2

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[SampledUtterance]]:
        first, self.skip = self.skip, 0
        return (share_of(batch, self._seconds, self._rank, self._count) for batch in self._batches[first:])

    def _seconds(self, draw: SampledUtterance) -> float:
        return self._durations[draw.row] / draw.speed + draw.extra_frames / 100
