"""Level, clipping and DC offset of recordings, summarised for each set of a corpus.

Shapes: S samples.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE

BLOCK_SAMPLES = SAMPLE_RATE // 50
"""Power is measured in blocks of 20 ms."""
ACTIVE_DB = 30.0
"""Blocks within this of the loudest one are active speech; the others are pauses."""
FULL_SCALE = 32_766 / 32_768
"""Samples from here on are clipped: the largest value of 16 bits, or next to it after resampling."""
CLIPPED_SAMPLES = 3
"""A recording with so many of them is clipped: a peak that was normalised to full scale has fewer."""
LARGEST_DC = 0.01
"""Of full scale; a larger mean is an offset, not the mean of speech."""
LARGEST_DIFFERENCE_DB = 6.0
"""Between the medians of two sets; more is reported."""


class Level(NamedTuple):
    """Level of one recording."""

    active_dbfs: float | None  # RMS of active speech; None: digital silence
    clipped: int  # samples at full scale
    dc: float  # mean of the samples, of full scale
    samples: int


def level_of(waveform: Tensor) -> Level:
    """Return the level of a waveform [S]."""
    blocks = waveform[: len(waveform) // BLOCK_SAMPLES * BLOCK_SAMPLES].view(-1, BLOCK_SAMPLES)
    if not len(blocks):
        blocks = waveform[None]
    powers = blocks.double().square().mean(1)
    loudest = float(powers.max()) if powers.numel() else 0.0
    active = None
    if loudest > 0:
        active = 10 * math.log10(float(powers[powers >= loudest * 10 ** (-ACTIVE_DB / 10)].mean()))
    clipped = int((waveform.abs() >= FULL_SCALE).sum())
    return Level(active, clipped, float(waveform.double().mean()) if len(waveform) else 0.0, len(waveform))


def level_lines(levels: Mapping[str, Sequence[Level]]) -> list[str]:
    """Return what there is to report, one line for each fact; the first set is the one that is trained on."""
    measured = ((name, _percentile(found, 50)) for name, found in levels.items())
    medians = {name: median for name, median in measured if median is not None}
    lines = []
    if medians:
        each = (
            f"{name} {median:.1f} ({_percentile(levels[name], 5):.1f} to {_percentile(levels[name], 95):.1f})"
            for name, median in medians.items()
        )
        lines.append(f"level of active speech, dBFS, median (5 to 95 % of the recordings): {', '.join(each)}")
    first = next(iter(levels), "")
    for name, median in medians.items():
        difference = median - medians.get(first, median)
        if abs(difference) > LARGEST_DIFFERENCE_DB:
            louder = "louder" if difference > 0 else "quieter"
            lines.append(
                f"note: {name} is {abs(difference):.1f} dB {louder} than {first}: models lose accuracy at levels that "
                "training lacks. Widen train.augmentation.gain_db to that difference, or bring both to one level"
            )
    recordings = [level for found in levels.values() for level in found]
    clipped = [level for level in recordings if level.clipped >= CLIPPED_SAMPLES]
    if clipped:
        samples = sum(level.clipped for level in clipped) / sum(level.samples for level in clipped)
        lines.append(
            f"note: {len(clipped)} of {len(recordings)} recordings ({len(clipped) / len(recordings):.1%}) are clipped, "
            f"in {samples:.2%} of their samples. Lower the gain at the source; clipping cannot be undone"
        )
    offset = [level for level in recordings if abs(level.dc) > LARGEST_DC]
    if offset:
        largest = max(abs(level.dc) for level in offset)
        lines.append(
            f"note: {len(offset)} of {len(recordings)} recordings ({len(offset) / len(recordings):.1%}) have a DC "
            f"offset, up to {largest:.1%} of full scale. Features remove it, but look at the sound card"
        )
    silent = sum(level.active_dbfs is None for level in recordings)
    if silent:
        lines.append(f"note: {silent} of {len(recordings)} recordings are digital silence")
    return lines


def _percentile(levels: Iterable[Level], share: float) -> float | None:
    known = [level.active_dbfs for level in levels if level.active_dbfs is not None]
    return float(np.percentile(known, share)) if known else None
