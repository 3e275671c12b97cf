"""Resampling of a signal that arrives in blocks."""

import math

import numpy as np


class StreamResampler:
    """Resamples blocks; together they have the length that resampling the whole signal gives.

    Args:
        from_rate: samples a second of the blocks.
        to_rate: samples a second of the result.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        import soxr  # librosa's resampler, which librosa itself only runs over whole signals

        self._rates = from_rate, to_rate
        self._soxr = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
        self._read = self._given = 0

    def push(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Return what a block [S] float32 completes, clipped to [-1, 1].

        Args:
            samples: the next block.
            last: no block follows; the rest of the signal is returned.
        """
        samples = np.clip(samples, -1.0, 1.0)
        from_rate, to_rate = self._rates
        if from_rate == to_rate:
            return samples
        self._read += len(samples)
        whole = math.ceil(self._read * to_rate / from_rate)  # as librosa counts
        samples = np.clip(self._soxr.resample_chunk(samples, last=last), -1.0, 1.0)[: whole - self._given]
        samples = np.pad(samples, (0, (whole - self._given - len(samples)) * last))
        self._given += len(samples)
        return samples
