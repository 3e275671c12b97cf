"""Files in, 16 kHz mono waveforms out; a damaged file is found here.

Knows nothing of manifests, features or models. Shapes: S samples.

What gives damage away, a format: FLAC carries checksums that libsndfile verifies; Ogg (Vorbis, Opus) carries
them too, but libsndfile only stops early, so the pages are verified here; WAV states its length in the header,
which libsndfile silently shortens, so it is read here. A flipped bit inside WAV or MP3 samples leaves no trace.
"""

import functools
import logging
import math
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile
import torch
from torch import Tensor

from asr_kd.errors import AudioError

SAMPLE_RATE = 16_000
"""Samples a second of every waveform inside the project."""

ChannelPolicy = Literal["refuse", "first", "mean"]
"""What to do with more than one channel: refuse the file, keep the first, or average them."""

DURATION_TOLERANCE_SECONDS = 0.02
"""Largest difference between a promised and a found duration that still counts as rounding: two frames."""

MP3_TOLERANCE_SAMPLES = 2 * 1152
"""Without a Xing header an MP3's length is only known to its frames of 1152 samples."""

BLOCK_SECONDS = 10.0
"""Audio that `read_blocks` decodes at once."""

LARGEST_SAMPLE = 16.0
"""Beyond this a float file is not overdriven but in other units (16-bit integers stored as floats)."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What an audio file's header promises."""

    sample_rate: int  # samples a second
    channels: int
    num_samples: int  # a channel
    duration: float  # seconds
    approximate_length: bool = False  # MP3: the length above is only good to its frames


def probe(path: Path) -> AudioInfo:
    """Read an audio file's header only.

    Raises:
        AudioError: missing, empty or not audio.
    """
    info = _open_info(path)
    num_samples = info.frames
    if info.format in {"WAV", "WAVEX", "RF64"}:
        num_samples = _promised_wav_samples(path) or num_samples
    return AudioInfo(
        info.samplerate, info.channels, num_samples, num_samples / info.samplerate, info.format in {"MP3", "MPEG"}
    )


def length_problem(info: AudioInfo, duration: float, start: float | None = None) -> str | None:
    """How a promised duration, or segment, contradicts a file's header; None when it does not.

    Args:
        info: what the header says.
        duration: seconds of the whole file or, with `start`, of a segment of it.
        start: where the segment begins, seconds into the file.
    """
    if not 0 < duration < math.inf:
        return f"{duration} s, expected a positive number"
    tolerance = _tolerance_seconds(info)
    if start is None:
        found = info.duration
        return (
            f"{duration:.3f} s in the manifest, {found:.3f} s in the file"
            if abs(duration - found) > tolerance
            else None
        )
    if not 0 <= start < math.inf:
        return f"begins at {start} s, expected 0 or more"
    if start + duration > info.duration + tolerance:
        return f"{_span(start, duration)} in the manifest, {info.duration:.3f} s in the file"
    return None


def read_audio(
    path: Path, *, channels: ChannelPolicy = "refuse", duration: float | None = None, start: float | None = None
) -> Tensor:
    """Read an audio file, or a segment of it, as a waveform.

    A segment is sought, not read up to: 10 s of an hour's FLAC cost 4 ms; MP3 has no index, and costs 0.1 s an hour
    that lies before. Damage elsewhere in the file is then not found; only an Ogg file is verified whole, once.

    Args:
        path: any file that libsndfile reads: .flac, .wav, .ogg, .opus, .mp3, .sph …
        channels: what to do with more than one channel.
        duration: what the manifest promises, seconds; None skips that comparison.
        start: where a segment begins, seconds into the file; it lasts `duration`, or to the end. None: the whole file.

    Returns:
        float32 [S] at 16 kHz in [-1, 1]; other sample rates are resampled, which is logged once a rate.

    Raises:
        AudioError: missing, not audio, damaged, shorter than its header says or other than `duration`, of zero
            length, with NaN or infinite samples, or with several channels under the policy "refuse".
    """
    info = probe(path)
    where = str(path) if start is None else f"{path}, {_span(start, duration)}"
    samples = _decode(path, info) if start is None else _decode_segment(path, where, info, start, duration)
    if info.sample_rate != SAMPLE_RATE:
        _report_resampled(info.sample_rate, str(path))
    if samples.shape[1] > 1 and channels == "refuse":
        raise _several_channels(path, samples.shape[1])
    mono = samples[:, 0] if channels == "first" or samples.shape[1] == 1 else samples.mean(axis=1)
    _check_samples(mono, where)
    found = len(mono) / info.sample_rate
    if duration is not None and abs(found - duration) > _tolerance_seconds(info):
        raise AudioError(
            f"lasts {found:.3f} s",
            problem="wrong duration",
            where=where,
            expected=f"{duration:.3f} s as its manifest says",
            remedy="The file was replaced or damaged: restore it, or run prepare again",
        )
    mono = np.clip(mono, -1.0, 1.0)  # lossy decoders overshoot a full-scale signal a little
    return torch.from_numpy(np.ascontiguousarray(resample(mono, info.sample_rate, SAMPLE_RATE)))


def read_blocks(
    path: Path, *, channels: ChannelPolicy = "refuse", block_seconds: float = BLOCK_SECONDS
) -> Iterator[Tensor]:
    """As `read_audio`, block by block: hours of audio in the memory of one block.

    Damage is found where it lies, after the blocks before it were given.

    Yields:
        float32 [S] at 16 kHz in [-1, 1]; together what `read_audio` returns, with its errors.
    """
    import soxr  # librosa's resampler, which librosa itself only runs over whole signals

    info = probe(path)
    if info.channels > 1 and channels == "refuse":
        raise _several_channels(path, info.channels)
    if info.sample_rate != SAMPLE_RATE:
        _report_resampled(info.sample_rate, str(path))
    resampler = soxr.ResampleStream(info.sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    read = given = 0
    for samples, container, last in _read_blocks(path, max(round(block_seconds * info.sample_rate), 1)):
        read += len(samples)
        if last:
            _check_whole(path, info, read, container)
        mono = samples[:, 0] if channels == "first" or samples.shape[1] == 1 else samples.mean(axis=1)
        if read == 0 or len(mono):
            _check_samples(mono, str(path))
        mono = np.clip(mono, -1.0, 1.0)
        if info.sample_rate != SAMPLE_RATE:
            whole = math.ceil(read * SAMPLE_RATE / info.sample_rate)  # as librosa counts
            mono = np.clip(resampler.resample_chunk(mono, last=last), -1.0, 1.0)[: whole - given]
            mono = np.pad(mono, (0, (whole - given - len(mono)) * last))
        given += len(mono)
        if len(mono):
            yield torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Band-limited resampling of [S] float32 (soxr through librosa), clipped to [-1, 1]."""
    if from_rate == to_rate:
        return samples
    import librosa  # slow to import, and only needed here

    resampled = librosa.resample(samples, orig_sr=from_rate, target_sr=to_rate)
    return np.clip(resampled, -1.0, 1.0).astype(np.float32)


_rates_said: set[int] = set()


def _report_resampled(rate: int, path: str) -> None:
    if rate not in _rates_said:
        _rates_said.add(rate)
        _log.warning("%s has %d Hz: files of this rate are resampled to %d Hz (said once)", path, rate, SAMPLE_RATE)


def _open_info(path: Path) -> Any:
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise AudioError(
            "cannot be read" if Path(path).exists() else "no such file",
            problem="missing file",
            where=path,
            expected="an audio file",
            remedy="Check the path, or restore the file",
        ) from error
    if size == 0:
        raise AudioError("the file is empty (0 bytes)", where=path, expected="audio", remedy="Restore the file")
    try:
        return soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise _undecodable(path, error) from error


def _undecodable(path: Path | str, error: Exception) -> AudioError:
    return AudioError(
        f"cannot be decoded ({str(error).strip() or 'checksum or stream error'})",
        where=path,
        expected="undamaged FLAC, WAV, Ogg, Opus, MP3 or SPHERE",
        remedy="Restore the file from its source; asr-kd check lists all that are damaged",
    )


def _decode(path: Path, info: AudioInfo) -> np.ndarray:
    """All samples [S, channels] float32, or an error when there are fewer than promised."""
    try:
        with soundfile.SoundFile(str(path)) as file:
            container = file.format
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise _undecodable(path, error) from error
    _check_whole(path, info, len(samples), container)
    return samples


def _read_blocks(path: Path, size: int) -> Iterator[tuple[np.ndarray, str, bool]]:
    """Samples [S, channels] float32, the container, and whether these are the last (S may then be 0)."""
    try:
        with soundfile.SoundFile(str(path)) as file:
            last = False
            while not last:
                samples = file.read(size, dtype="float32", always_2d=True)
                last = len(samples) < size
                yield samples, file.format, last
    except (soundfile.SoundFileError, OSError) as error:
        raise _undecodable(path, error) from error


def _check_whole(path: Path, info: AudioInfo, num_samples: int, container: str) -> None:
    """Refuse a file that gave fewer samples than its header promised, or whose Ogg pages are damaged."""
    if info.num_samples - num_samples > (MP3_TOLERANCE_SAMPLES if info.approximate_length else 0):
        raise AudioError(
            f"ends after {num_samples / info.sample_rate:.3f} s: it is cut off or damaged",
            where=path,
            expected=f"{info.duration:.3f} s as its header says",
            remedy="Restore the file from its source",
        )
    if container == "OGG":
        _verify_ogg(path)


def _several_channels(path: Path, count: int) -> AudioError:
    return AudioError(
        f"has {count} channels",
        problem="several channels",
        where=path,
        expected="one",
        remedy="Say which to use with channels: first or mean",
    )


def _decode_segment(path: Path, where: str, info: AudioInfo, start: float, duration: float | None) -> np.ndarray:
    """Samples [S, channels] float32 of a stretch of the file, or an error when it does not hold them all."""
    problem = length_problem(info, info.duration - start if duration is None else duration, start)
    if problem:
        raise AudioError(
            problem,
            problem="wrong duration",
            where=where,
            expected="a segment inside its file",
            remedy="The file was replaced or cut, or the segment is wrong: restore the one or correct the other",
        )
    first = min(round(start * info.sample_rate), info.num_samples)
    wanted = info.num_samples - first
    if duration is not None:
        wanted = min(round(duration * info.sample_rate), wanted)
    try:
        with soundfile.SoundFile(str(path)) as file:
            container = file.format
            file.seek(min(first, file.frames))  # of a WAV that was cut off, libsndfile counts what is left
            samples = file.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise _undecodable(where, error) from error
    if wanted - len(samples) > (MP3_TOLERANCE_SAMPLES if info.approximate_length else 0):
        raise AudioError(
            f"{len(samples) / info.sample_rate:.3f} s of it are there: the file is cut off or damaged",
            where=where,
            expected=f"{wanted / info.sample_rate:.3f} s",
            remedy="Restore the file from its source",
        )
    if container == "OGG":
        stat = path.stat()
        _verify_ogg_once(path, stat.st_size, stat.st_mtime_ns)
    return samples


def _span(start: float, duration: float | None) -> str:
    """How messages call a segment."""
    return f"{start:.3f}–{start + duration:.3f} s" if duration is not None else f"from {start:.3f} s"


def _tolerance_seconds(info: AudioInfo) -> float:
    return MP3_TOLERANCE_SAMPLES / info.sample_rate if info.approximate_length else DURATION_TOLERANCE_SECONDS


def _check_samples(samples: np.ndarray, path: str) -> None:
    if len(samples) == 0:
        raise AudioError(
            "holds no samples", problem="zero length", where=path, expected="speech", remedy="Leave the utterance out"
        )
    bad = int((~np.isfinite(samples)).sum())
    if bad:
        raise AudioError(
            f"{bad} of its {len(samples)} samples are NaN or infinite",
            problem="NaN or infinite samples",
            where=path,
            expected="numbers",
        )
    peak = float(np.abs(samples).max())
    if peak > LARGEST_SAMPLE:
        raise AudioError(
            f"its samples reach {peak:.4g}",
            problem="samples out of range",
            where=path,
            expected="floating-point samples in [-1, 1]",
            remedy="Divide by 32768 if they are 16-bit integers stored as floats",
        )


def _promised_wav_samples(path: Path) -> int | None:
    """Samples a channel that a RIFF header promises; None when it does not say (streamed or RF64)."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return None
        file.seek(12)
        block_bytes = 0
        for name, size in _riff_chunks(file):
            if name == b"fmt ":
                block_bytes = struct.unpack("<H", file.read(14)[12:14])[0]
                file.seek(size - 14 + (size & 1), 1)
            elif name == b"data":
                # 0 and the largest values stand for "not known when the header was written".
                return size // block_bytes if block_bytes and 0 < size < 0x7FFFFFFF else None
            else:
                file.seek(size + (size & 1), 1)
    return None


def _riff_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        yield name, size


_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> int:
    """The CRC of RFC 3533 (polynomial 0x04c11db7, not reflected, from 0), by way of zlib's reflected one."""
    reflected = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED_BITS), "big")


@functools.lru_cache(maxsize=4096)
def _verify_ogg_once(path: Path, size: int, changed: int) -> None:
    """Verify a file that many segments are read from; it is verified again when it has changed."""
    _verify_ogg(path)


def _verify_ogg(path: Path) -> None:
    """Every page whole and with its checksum, and the last one marked as last (RFC 3533)."""
    position, last_flags = 0, 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while position < len(data):
            segments = data[position + 26 : position + 27]
            body = position + 27 + (segments[0] if segments else 0)
            end = body + sum(data[position + 27 : body])
            page = data[position:end]
            whole = page[:4] == b"OggS" and end <= len(data) and body <= len(data)
            if not whole or _ogg_crc(page[:22] + bytes(4) + page[26:]) != struct.unpack("<I", page[22:26])[0]:
                why = f"the Ogg page at byte {position} is cut off or fails its checksum"
                raise _undecodable(path, ValueError(why))
            last_flags, position = page[5], end
    if not last_flags & 0x04:
        raise _undecodable(path, ValueError("the last Ogg page is missing: the file is cut off"))
