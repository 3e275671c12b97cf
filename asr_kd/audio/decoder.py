"""Decode audio files block by block, to their end, and compare the result with what their headers state.

Shapes: S samples.
"""

import functools
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import stat_result
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import numpy as np
import soundfile

from asr_kd.audio.containers import (
    ContainerDamage,
    FlacHeader,
    FlacWithoutLength,
    MpegFrames,
    promised_wav_samples,
    read_flac_header,
    read_mpeg_frames,
    update_flac_md5,
    verify_ogg,
)
from asr_kd.errors import AudioError
from asr_kd.files import printable

DURATION_TOLERANCE_SECONDS = 0.02
"""Largest difference between a stated and a decoded duration that counts as rounding: two frames."""

MP3_TOLERANCE_SECONDS = 0.1
"""The same of an MP3, whose duration other tools state with or without the delay and padding of encoder and decoder."""

BLOCK_SECONDS = 10.0
"""Audio that is decoded at once."""


class _SequentialFile(soundfile.SoundFile):
    """A file that soundfile does not seek in after each read, which fails where the length is unknown or wrong."""

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Headers:
    """What the headers of a file state."""

    sample_rate: int  # Hz
    channels: int
    num_samples: int | None  # a channel; None: not stated
    tolerance_seconds: float = DURATION_TOLERANCE_SECONDS
    flac: FlacHeader | None = None
    mpeg: MpegFrames | None = None


@functools.lru_cache(maxsize=4096)
def read_headers(path: Path, size: int, changed: int) -> Headers:
    """Read the headers of a file, once until its size or time of change (ns) differs.

    Raises:
        AudioError: not audio, or the headers contradict each other.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if magic == b"fLaC" and (flac := read_flac_header(path)) is not None:
            return Headers(flac.sample_rate, flac.channels, flac.num_samples or None, flac=flac)
        info = soundfile.info(str(path))
        basic = Headers(info.samplerate, info.channels, info.frames)
        if info.format in {"MP3", "MPEG"}:
            basic = replace(basic, mpeg=read_mpeg_frames(path), tolerance_seconds=MP3_TOLERANCE_SECONDS)
            with _open(path, basic, sequential=True) as decoder:
                return replace(basic, num_samples=decoder.frames)
        if info.format == "OGG":
            verify_ogg(path)
        if info.format in {"WAV", "WAVEX"}:
            return replace(basic, num_samples=max(promised_wav_samples(path) or 0, info.frames))
    except (soundfile.SoundFileError, OSError, ContainerDamage) as error:
        raise undecodable(path, error) from error
    return basic


@contextmanager
def _open(path: Path, headers: Headers, *, sequential: bool) -> Iterator[soundfile.SoundFile]:
    """Open a file so that it is decoded to its end; `sequential` files cannot seek."""
    kind = _SequentialFile if sequential else soundfile.SoundFile
    with path.open("rb") as raw:
        source: Any = str(path)
        if headers.mpeg is not None and headers.mpeg.xing:
            source = io.BytesIO(headers.mpeg.xing + raw.read()[headers.mpeg.offset :])
        elif headers.flac is not None and sequential:
            source = FlacWithoutLength(raw)
        with kind(source) as file:
            yield file


def decode(
    path: Path, where: str, first: int = 0, count: int | None = None, block_samples: int | None = None
) -> Iterator[np.ndarray]:
    """Decode float32 [S, channels] blocks of a file; without `count` to its end, compared with its headers.

    Raises:
        AudioError: it cannot be decoded, or holds another number of samples than its header or `count` states.
    """
    stat = require_file(path)
    headers = read_headers(path, stat.st_size, stat.st_mtime_ns)
    whole = count is None
    sequential = whole or (headers.flac is not None and headers.num_samples is None)
    flac = headers.flac if whole else None
    digest, found, skip = hashlib.md5(usedforsecurity=False), 0, first if sequential else 0
    try:
        with _open(path, headers, sequential=sequential) as file:
            expected = headers.num_samples if whole else count
            if not sequential:
                file.seek(min(first, file.frames))
            size = block_samples or max(round(BLOCK_SECONDS * file.samplerate), 1)
            while whole or found < (count or 0):
                wanted = min(size, skip) if skip else size if count is None else min(size, count - found)
                block = file.read(wanted, dtype="int32" if flac else "float32", always_2d=True)
                if skip:
                    skip -= len(block)
                else:
                    found += len(block)
                    if flac:
                        update_flac_md5(digest, block, flac.bits)
                        block = block.astype(np.float32) / np.float32(2**31)
                    if len(block):
                        yield block
                if len(block) < wanted:
                    break
            rate = file.samplerate
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise undecodable(where, error) from error
    if expected is not None and found != expected:
        raise AudioError(
            f"ends after {found / rate:.3f} s: it is cut off or damaged"
            if found < expected
            else f"holds {found / rate:.3f} s: it is damaged",
            where=where,
            expected=f"{expected / rate:.3f} s as its header states",
            remedy="Restore the file from its source",
        )
    if flac and any(flac.md5) and digest.digest() != flac.md5:
        raise undecodable(where, ContainerDamage("its samples differ from the MD5 in its header"))


def require_file(path: Path) -> stat_result:
    """Return the status of a file.

    Raises:
        AudioError: missing, unreadable or empty, or its name is not UTF-8, in which manifests and messages are written.
    """
    if printable(path) != str(path):
        raise AudioError(
            "has a name that is not UTF-8",
            problem="file name",
            where=printable(path),
            remedy="Rename the file or its folder",
        )
    try:
        stat = Path(path).stat()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise AudioError(
            "no such file" if missing else f"cannot be read ({getattr(error, 'strerror', None) or error})",
            problem="missing file",
            where=path,
            expected="an audio file",
            remedy="Check the path, or restore the file",
        ) from error
    if S_ISDIR(stat.st_mode):
        raise AudioError(
            "is a folder",
            where=path,
            expected="an audio file",
            remedy=f"Name its files, for example {Path(path) / '*.wav'}",
        )
    if stat.st_size == 0:
        raise AudioError("the file is empty (0 bytes)", where=path, expected="audio", remedy="Restore the file")
    return stat


def undecodable(where: Path | str, error: Exception) -> AudioError:
    """Return the error about a file that cannot be decoded."""
    return AudioError(
        f"cannot be decoded ({str(error).strip() or 'checksum or stream error'})",
        where=where,
        expected="undamaged FLAC, WAV, Ogg, Opus, MP3 or SPHERE",
        remedy="Restore the file from its source; asr-kd check lists all that are damaged",
    )
