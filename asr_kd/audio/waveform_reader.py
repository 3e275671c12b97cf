"""Decode audio files to waveforms: every file to its end, compared with the length that its header states.

Shapes: S samples.
"""

import functools
import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from asr_kd.audio.decoder import BLOCK_SECONDS, DURATION_TOLERANCE_SECONDS, decode, read_headers, require_file
from asr_kd.errors import AudioError

SAMPLE_RATE = 16_000
"""Samples a second of every waveform inside the project."""

ChannelPolicy = Literal["refuse", "first", "second", "mean"]
"""What to do with more than one channel: refuse the file, keep the first or the second, or average them."""

SAMPLE_RATES = range(4_000, 384_001)
"""Sample rates that are read, Hz."""

MAX_SAMPLES = 2**29
"""Longest file, in samples a channel, that `read_audio` reads as a whole: nine hours at 16 kHz."""

MAX_AMPLITUDE = 16.0
"""Beyond this a float file has other units (16-bit integers stored as floats)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The sample rate, channels and length of an audio file."""

    sample_rate: int  # samples a second
    channels: int
    num_samples: int  # a channel
    duration: float  # seconds
    tolerance_seconds: float = DURATION_TOLERANCE_SECONDS  # between this duration and one that a manifest states


def probe(path: Path) -> AudioInfo:
    """Read an audio file's headers; files that state no length are decoded.

    Raises:
        AudioError: missing, empty, not audio, of an unusual sample rate, or with headers that contradict each other.
    """
    stat = require_file(path)
    return _probe(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _probe(path: Path, size: int, changed: int) -> AudioInfo:
    headers = read_headers(path, size, changed)
    rate = headers.sample_rate
    if rate not in SAMPLE_RATES:
        raise AudioError(
            f"has {rate} Hz",
            problem="unusual sample rate",
            where=path,
            expected=f"{SAMPLE_RATES.start} to {SAMPLE_RATES.stop - 1} Hz",
            remedy="Its header is damaged, or it holds no speech: restore or remove it",
        )
    num_samples = headers.num_samples
    if num_samples is None:
        num_samples = sum(map(len, decode(path, str(path))))
    return AudioInfo(rate, headers.channels, num_samples, num_samples / rate, headers.tolerance_seconds)


def length_problem(info: AudioInfo, duration: float, start: float | None = None) -> str | None:
    """Return how a stated duration contradicts a file's length; None when it does not.

    Seconds of the whole file or, with `start`, of a segment of it that begins there.
    """
    if not 0 < duration < math.inf:
        return f"{duration} s, expected a positive number"
    if start is None:
        if abs(duration - info.duration) > info.tolerance_seconds:
            return f"{duration:.3f} s in the manifest, {info.duration:.3f} s in the file"
        return None
    if not 0 <= start < math.inf:
        return f"begins at {start} s, expected 0 or more"
    if start + duration > info.duration + info.tolerance_seconds or round(start * info.sample_rate) >= info.num_samples:
        return f"{_span(start, duration)} in the manifest, {info.duration:.3f} s in the file"
    return None


def read_audio(
    path: Path, *, channels: ChannelPolicy = "refuse", duration: float | None = None, start: float | None = None
) -> Tensor:
    """Read an audio file, or a segment of it, as a waveform.

    Segments are sought, so damage elsewhere in the file is not found, except in Ogg files and in the frames of MP3.

    Args:
        path: any file that libsndfile reads: .flac, .wav, .ogg, .opus, .mp3, .sph …
        channels: what to do with more than one channel.
        duration: what the manifest states, seconds; None skips that comparison.
        start: start of a segment, seconds into the file; it lasts `duration`, or to the end. None: the whole file.

    Returns:
        float32 [S] at 16 kHz in [-1, 1]; other sample rates are resampled, which is logged once per rate.

    Raises:
        AudioError: missing, not audio, damaged, of another length than its header or `duration` states, of zero length,
            with NaN or infinite samples, or with several channels under the policy "refuse".
    """
    info = probe(path)
    where = str(path) if start is None else f"{path}, {_span(start, duration)}"
    if info.channels > 1 and channels == "refuse":
        raise _several_channels(path, info.channels)
    first, count = (0, None) if start is None else _segment(where, info, start, duration)
    blocks, total = [np.zeros(0, dtype=np.float32)], 0
    for block in decode(path, where, first, count):
        blocks.append(_mix(block, channels))
        total += len(block)
        if total > MAX_SAMPLES:
            raise AudioError(
                f"is longer than {MAX_SAMPLES / info.sample_rate:.0f} s",
                problem="too long",
                where=where,
                expected="an utterance or a recording of some hours",
                remedy="Cut the file, or transcribe it with asr-kd transcribe, which reads block by block",
            )
    samples = np.concatenate(blocks)
    _check_samples(samples, where)
    found = len(samples) / info.sample_rate
    if duration is not None and abs(found - duration) > info.tolerance_seconds + 1 / info.sample_rate:
        raise AudioError(
            f"lasts {found:.3f} s",
            problem="wrong duration",
            where=where,
            expected=f"{duration:.3f} s as its manifest states",
            remedy="The file was replaced or damaged: restore it, or run prepare again",
        )
    _report_resampled(info.sample_rate, path)
    samples = np.clip(samples, -1.0, 1.0)  # lossy decoders exceed a full-scale signal a little
    return torch.from_numpy(np.ascontiguousarray(resample(samples, info.sample_rate, SAMPLE_RATE)))


def read_blocks(
    path: Path, *, channels: ChannelPolicy = "refuse", block_seconds: float = BLOCK_SECONDS
) -> Iterator[Tensor]:
    """As `read_audio`, block by block, in the memory of one block.

    Damage is raised at its position, after the blocks before it.

    Yields:
        float32 [S] at 16 kHz in [-1, 1]; together what `read_audio` returns, with its errors.
    """
    info = probe(path)
    if info.channels > 1 and channels == "refuse":
        raise _several_channels(path, info.channels)
    _report_resampled(info.sample_rate, path)
    resampler = StreamResampler(info.sample_rate, SAMPLE_RATE)
    read = 0
    size = max(round(block_seconds * info.sample_rate), 1)
    for block in itertools.chain(decode(path, str(path), block_samples=size), [None]):  # None: the end
        samples = np.zeros(0, dtype=np.float32) if block is None else _mix(block, channels)
        read += len(samples)
        if block is not None or not read:
            _check_samples(samples, str(path))
        samples = resampler.push(samples, last=block is None)
        if len(samples):
            yield torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample [S] float32 band-limited (soxr) to the next whole number of samples, clipped to [-1, 1].

    Raises:
        ValueError: samples that are not finite.
    """
    if from_rate == to_rate:
        return samples
    import soxr

    if not np.isfinite(samples).all():
        raise ValueError("cannot resample samples that are NaN or infinite")

    whole = math.ceil(len(samples) * (to_rate / from_rate))
    resampled = soxr.resample(samples, from_rate, to_rate)[:whole]
    return np.clip(np.pad(resampled, (0, whole - len(resampled))), -1.0, 1.0).astype(np.float32)


def _segment(where: str, info: AudioInfo, start: float, duration: float | None) -> tuple[int, int]:
    """First sample and number of samples of a segment."""
    problem = length_problem(info, info.duration - start if duration is None else duration, start)
    if problem:
        raise AudioError(
            problem,
            problem="wrong duration",
            where=where,
            expected="a segment inside its file",
            remedy="The file was replaced or cut, or the segment is wrong: restore the file or correct the segment",
        )
    first = round(start * info.sample_rate)
    left = info.num_samples - first
    return first, left if duration is None else min(round(duration * info.sample_rate), left)


def _mix(samples: np.ndarray, channels: ChannelPolicy) -> np.ndarray:
    """[S, channels] → [S]."""
    if channels == "second" and samples.shape[1] > 1:
        return samples[:, 1]
    return samples[:, 0] if channels == "first" or samples.shape[1] == 1 else samples.mean(axis=1)


_reported_rates: set[int] = set()


def _report_resampled(rate: int, path: Path) -> None:
    if rate != SAMPLE_RATE and rate not in _reported_rates:
        _reported_rates.add(rate)
        _log.warning("%s has %d Hz: files of this rate are resampled to %d Hz (logged once)", path, rate, SAMPLE_RATE)


def _span(start: float, duration: float | None) -> str:
    """A segment in messages."""
    return f"{start:.3f}–{start + duration:.3f} s" if duration is not None else f"from {start:.3f} s"


def _several_channels(path: Path, count: int) -> AudioError:
    return AudioError(
        f"has {count} channels",
        problem="several channels",
        where=path,
        expected="one",
        remedy="State which to use, first, second or mean: channels in a recipe, --channels on the command line; of "
        "calls with a side a channel, see split in docs/guides/calls.md",
    )


def _check_samples(samples: np.ndarray, where: str) -> None:
    if len(samples) == 0:
        raise AudioError(
            "holds no samples", problem="zero length", where=where, expected="speech", remedy="Leave the utterance out"
        )
    bad = int((~np.isfinite(samples)).sum())
    if bad:
        raise AudioError(
            f"{bad} of its {len(samples)} samples are NaN or infinite",
            problem="NaN or infinite samples",
            where=where,
            expected="numbers",
            remedy="Restore the file from its source",
        )
    peak = float(np.abs(samples).max())
    if peak > MAX_AMPLITUDE:
        raise AudioError(
            f"its samples reach {peak:.4g}",
            problem="samples out of range",
            where=where,
            expected="floating-point samples in [-1, 1]",
            remedy="Divide by 32768 if they are 16-bit integers stored as floats",
        )


class StreamResampler:
    """Resamples blocks of a signal; together they have the length that resampling the whole signal gives."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        import soxr

        self._rates = from_rate, to_rate
        self._soxr = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
        self._read = self._given = 0

    def push(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Return what a block [S] float32 completes, clipped to [-1, 1]; with `last` the rest of the signal too."""
        samples = np.clip(samples, -1.0, 1.0)
        from_rate, to_rate = self._rates
        if from_rate == to_rate:
            return samples
        self._read += len(samples)
        whole = math.ceil(self._read * to_rate / from_rate)  # as `resample` counts
        samples = np.clip(self._soxr.resample_chunk(samples, last=last), -1.0, 1.0)[: whole - self._given]
        samples = np.pad(samples, (0, (whole - self._given - len(samples)) * last))
        self._given += len(samples)
        return samples
