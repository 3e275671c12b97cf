"""Which utterances make up which batch, at what speed and with how much silence: a function of seed and epoch.

Because nothing here depends on what happened before, a run that resumes sees exactly the batches that an
uninterrupted one would have seen; and because batches are planned before they are shared out, any number of processes
sees the same ones. Knows durations, not audio.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from asr_kd.features.augment import Augmentation

JITTER = 0.2
"""Durations are sorted after this much random stretching: little padding, yet other company every epoch."""


DISTURBANCES, VERSIONS = 1, 2
"""Behind seed and epoch, they name the streams of random numbers that these are drawn from."""


class Draw(NamedTuple):
    """One appearance of an utterance in an epoch."""

    row: int  # of the utterance
    speed: float
    silence_frames: int
    """Feature frames (10 ms) of silence appended."""
    disturbance: int | None = None
    """Seeds what happens to its sound; None: nothing."""
    version: str = ""
    """Of the recording that is heard: a stored perturbation's name; empty: as it was recorded."""


def plan_epoch(
    durations: Sequence[float],
    augmentation: Augmentation,
    batch_seconds: float,
    seed: int,
    epoch: int,
    min_silence_frames: int = 0,
) -> list[list[Draw]]:
    """Batches of one epoch: every utterance once, at most `batch_seconds` of padded audio each.

    An utterance longer than that makes a batch of its own. `durations` are in seconds.
    """
    generator = np.random.default_rng([seed, epoch])
    count = len(durations)
    speeds = generator.choice(np.asarray(augmentation.speeds), size=count)
    silent = generator.random(count) < augmentation.silence_share
    extra = np.floor(generator.random(count) * augmentation.silence_max_seconds * 100).astype(int)
    silence = np.maximum(np.where(silent, extra, 0), min_silence_frames)
    seconds = np.asarray(durations) / speeds + silence / 100
    disturbances = _augmentation_seeds(augmentation, count, seed, epoch)
    versions = _versions(augmentation, count, seed, epoch)
    order = np.argsort(seconds * (1 + JITTER * generator.random(count)), kind="stable")
    batches: list[list[Draw]] = []
    longest = 0.0
    for index in order:
        widened = max(longest, float(seconds[index]))
        if not batches or widened * (len(batches[-1]) + 1) > batch_seconds:
            batches.append([])
            widened = float(seconds[index])
        batches[-1].append(
            Draw(int(index), float(speeds[index]), int(silence[index]), disturbances[index], versions[index])
        )
        longest = widened
    return [batches[position] for position in generator.permutation(len(batches))]


def _augmentation_seeds(augmentation: Augmentation, count: int, seed: int, epoch: int) -> list[int | None]:
    """A seed for each utterance whose sound is disturbed, from numbers of their own: nothing else changes with them."""
    if augmentation.perturb is None:
        return [None] * count
    generator = np.random.default_rng([seed, epoch, DISTURBANCES])
    seeds = generator.integers(1 << 62, size=count).tolist()
    chosen = (generator.random(count) < augmentation.perturb.share).tolist()
    return [drawn if disturbed else None for drawn, disturbed in zip(seeds, chosen, strict=True)]


def _versions(augmentation: Augmentation, count: int, seed: int, epoch: int) -> list[str]:
    """Which version of each utterance is heard, from numbers of their own."""
    names = ("", *augmentation.versions)
    drawn = np.random.default_rng([seed, epoch, VERSIONS]).integers(len(names), size=count)
    return [names[index] for index in drawn.tolist()]


def share_of(batch: Sequence[Draw], seconds: Callable[[Draw], float], rank: int, count: int) -> list[Draw]:
    """What process `rank` of `count` takes of a batch; maybe nothing.

    Longest first, there and back again (0, 1, 1, 0, 0, …): each gets as many, and nearly as much audio.
    """
    if count == 1:
        return list(batch)
    order = sorted(batch, key=seconds, reverse=True)
    return [draw for position, draw in enumerate(order) if position % (2 * count) in (rank, 2 * count - 1 - rank)]


class EpochBatches:
    """A DataLoader's batch sampler over `plan_epoch`, which can begin in the middle of an epoch.

    It counts the global batches and gives process `rank` of `count` its share of each. In the first
    `curriculum_epochs` the batches come from the shortest to the longest.
    """

    def __init__(
        self,
        durations: Sequence[float],
        augmentation: Augmentation,
        batch_seconds: float,
        seed: int,
        min_silence_frames: int = 0,
        *,
        curriculum_epochs: int = 0,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        self._arguments = (durations, augmentation, batch_seconds, seed)
        self._min_silence_frames, self._curriculum_epochs = min_silence_frames, curriculum_epochs
        self._rank, self._count = rank, count
        self.num_utterances = len(durations)
        self.skip = 0
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Plan this epoch."""
        self._batches = plan_epoch(*self._arguments, epoch, self._min_silence_frames)
        if epoch <= self._curriculum_epochs:
            self._batches.sort(key=lambda batch: max(map(self._seconds, batch)))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        first, self.skip = self.skip, 0
        return (share_of(batch, self._seconds, self._rank, self._count) for batch in self._batches[first:])

    def _seconds(self, draw: Draw) -> float:
        return self._arguments[0][draw.row] / draw.speed + draw.silence_frames / 100
