"""What the headers of audio files promise, and damage that libsndfile does not report.

WAV states its length in the header, which libsndfile silently shortens. FLAC has a checksum per frame, which libsndfile
verifies, and an MD5 of the whole, which it does not. Ogg (Vorbis, Opus) has a checksum per page, at which libsndfile
stops without an error. The length of an MP3 is taken from a Xing header, or else from its first bit rate and the size
of the file; both can be wrong, so every frame header is read here. Flipped bits in samples of WAV or MP3 are not found.
"""

import functools
import mmap
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


class ContainerDamage(Exception):
    """A file contradicts its own headers; the message states where and how."""


# -- WAV -------------------------------------------------------------------------------------------------

_SAMPLE_FORMATS = {1, 3, 6, 7, 0xFFFE}  # PCM, float, A-law, µ-law, extensible
_BLOCK_FORMATS = {0x02, 0x11, 0x31}  # MS ADPCM, IMA ADPCM, GSM 6.10: the header states the samples of a block
_UNKNOWN_BYTES = 0x7FFF0000  # from here on, or 0: not known yet; SoX writes 0x7FFFF000 rounded down to a whole block


def promised_wav_samples(path: Path) -> int | None:
    """Return the samples per channel that a RIFF header promises; None where it does not (streamed, RF64, other codes).

    Raises:
        ContainerDamage: the header contradicts itself, or the bytes after the audio are not RIFF chunks.
    """
    size_of_file = path.stat().st_size
    position, header, audio_bytes = 12, b"", 0
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return None
        while position < size_of_file:
            file.seek(position)
            start = file.read(4_096)
            if len(start) < 8 and not audio_bytes:
                return None
            name, size = start[:4], int.from_bytes(start[4:8], "little")
            if audio_bytes:  # a damaged length of the audio leaves audio where chunks are expected
                if not start.strip(b"\0"):
                    break
                if not all(32 <= byte < 127 for byte in name) or position + 8 + size > size_of_file + 1:
                    raise ContainerDamage(f"byte {position}, after the audio, begins no RIFF chunk")
            elif name == b"fmt ":
                header = start[8 : 8 + min(size, 40)]
            elif name == b"data":
                rest = size_of_file - position - 8
                if size == 0 and rest and not all(32 <= byte < 127 for byte in start[8:12]):
                    raise ContainerDamage(
                        f"its header states no audio, and {rest} bytes follow: the recording was not finished; "
                        "ffmpeg -ignore_length 1 can copy it into a new file"
                    )
                if len(header) < 16 or not 0 < size < _UNKNOWN_BYTES:
                    return None
                audio_bytes = size
            position += 8 + size + (size & 1)
    return _samples_of(header, audio_bytes) if audio_bytes else None


def _samples_of(header: bytes, size: int) -> int | None:
    code, channels, rate, byte_rate, block, bits = struct.unpack("<HHIIHH", header[:16])
    if code in _SAMPLE_FORMATS:
        if block != channels * ((bits + 7) // 8) or byte_rate not in (0, rate * block):
            raise ContainerDamage("its header contradicts itself (channels, bits, bytes a second)")
        return size // block
    if code in _BLOCK_FORMATS and block and len(header) >= 20:
        return -(-size // block) * int(struct.unpack("<H", header[18:20])[0])
    return None


# -- FLAC ------------------------------------------------------------------------------------------------

_FLAC_RATES = dict(
    enumerate((88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000), start=1)
)
_FLAC_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}


@dataclass(frozen=True, slots=True)
class FlacHeader:
    """STREAMINFO of a FLAC file."""

    sample_rate: int
    channels: int
    bits: int
    num_samples: int  # a channel; 0: unknown, as streaming encoders write
    md5: bytes  # of the samples; zeros: unknown


def read_flac_header(path: Path) -> FlacHeader | None:
    """Read STREAMINFO and compare it with the first frame; None for a file that begins otherwise.

    Raises:
        ContainerDamage: the two differ.
    """
    with path.open("rb") as file:
        start = file.read(42)
        if len(start) < 42 or start[:4] != b"fLaC" or start[4] & 0x7F != 0:
            return None
        packed = int.from_bytes(start[18:26], "big")
        channels, bits = (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
        header = FlacHeader(packed >> 44, channels, bits, packed & (1 << 36) - 1, start[26:])
        last = bool(start[4] & 0x80)
        while not last:
            block = file.read(4)
            if len(block) < 4:
                raise ContainerDamage("it ends within its metadata")
            last = bool(block[0] & 0x80)
            file.seek(int.from_bytes(block[1:], "big"), 1)
        frame = file.read(4)
    if len(frame) < 4:
        return header
    assignment = frame[3] >> 4
    found = (
        _FLAC_RATES.get(frame[2] & 15, header.sample_rate),
        assignment + 1 if assignment < 8 else 2,
        _FLAC_BITS.get(frame[3] >> 1 & 7, header.bits),
    )
    stated = (header.sample_rate, header.channels, header.bits)
    if frame[0] != 0xFF or frame[1] & 0xFE != 0xF8 or found != stated:
        raise ContainerDamage(f"its header states {stated} (rate, channels, bits), its first frame {found}")
    return header


class FlacWithoutLength:
    """A FLAC file whose header states no length, so that libsndfile decodes it to its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read bytes, those of the length as zeros."""
        begin = self._file.tell()
        data = bytearray(self._file.read(size))
        for place in range(max(21, begin), min(26, begin + len(data))):  # the length: the last 36 bits of these bytes
            data[place - begin] &= 0xF0 if place == 21 else 0
        return bytes(data)


def update_flac_md5(digest: Any, samples: np.ndarray, bits: int) -> None:
    """Add samples, left-justified int32 [S, channels], to the MD5 that STREAMINFO states."""
    integers, width = samples >> (32 - bits), (bits + 7) // 8
    if width == 3:
        digest.update(np.ascontiguousarray(integers, dtype="<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    else:
        digest.update(integers.astype(f"<i{width}"))


# -- Ogg -------------------------------------------------------------------------------------------------

_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> int:
    """The CRC of RFC 3533 (polynomial 0x04c11db7, not reflected, from 0), computed with zlib's reflected one."""
    reflected = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED_BITS), "big")


def verify_ogg(path: Path) -> None:
    """Verify the pages of an Ogg file (RFC 3533).

    Raises:
        ContainerDamage: a page is cut off or fails its checksum, the last page is missing, or a second stream follows.
    """
    position, flags = 0, 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while position < len(data):
            segments = data[position + 26 : position + 27]
            body = position + 27 + (segments[0] if segments else 0)
            end = body + sum(data[position + 27 : body])
            page = data[position:end]
            whole = page[:4] == b"OggS" and end <= len(data) and body <= len(data)
            if not whole or _ogg_crc(page[:22] + bytes(4) + page[26:]) != struct.unpack("<I", page[22:26])[0]:
                raise ContainerDamage(f"the Ogg page at byte {position} is cut off or fails its checksum")
            if flags & 0x04:
                raise ContainerDamage(f"at byte {position} a second Ogg stream begins")
            flags, position = page[5], end
    if not flags & 0x04:
        raise ContainerDamage("the last Ogg page is missing: the file is cut off")


# -- MPEG audio (MP3) ------------------------------------------------------------------------------------
# ISO/IEC 11172-3 and 13818-3, section 2.4.2.3; the Xing header as LAME and mpg123 write and read it.

_BIT_RATES = {  # kbit/s by (MPEG-1, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_TRAILING_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")
_XING = (b"Xing", b"Info")


@dataclass(frozen=True, slots=True)
class _FrameHeader:
    size: int  # bytes
    samples: int
    side_info: int  # bytes between the header and a Xing header
    stream: bytes  # the parts of the header that do not change within a file

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def parse(header: bytes) -> "_FrameHeader | None":
        """The frame of a header of 4 bytes; None where there is no header, or one of free format."""
        if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
            return None
        version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
        rate_index, frequency = header[2] >> 4, header[2] >> 2 & 3
        if version == 1 or layer == 4 or rate_index in (0, 15) or frequency == 3:
            return None
        mpeg1, padding = version == 3, header[2] >> 1 & 1
        bit_rate, rate = 1_000 * _BIT_RATES[mpeg1, layer][rate_index], _SAMPLE_RATES[version][frequency]
        samples = 384 if layer == 1 else 576 if layer == 3 and not mpeg1 else 1_152
        size = 4 * (12 * bit_rate // rate + padding) if layer == 1 else samples // 8 * bit_rate // rate + padding
        mono = header[3] >> 6 == 3
        side_info = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
        return _FrameHeader(size, samples, side_info, bytes([header[1] & 0xFE, header[2] & 0x0C]))


@dataclass(frozen=True, slots=True)
class MpegFrames:
    """The frames of a file."""

    xing: bytes  # a frame with a Xing header that states their number; empty for files that have one
    offset: int  # bytes before the first frame


def read_mpeg_frames(path: Path) -> MpegFrames | None:
    """Read all frame headers of a file; None for a stream of free format, whose frames state no size.

    Raises:
        ContainerDamage: other bytes lie between the frames, the last frame is cut off, a second file follows, or a Xing
            header states another number of frames.
    """
    data = path.read_bytes()
    offset = position = _after_tags(data)
    first = _FrameHeader.parse(data[position : position + 4])
    if first is None:
        if data[position : position + 1] == b"\xff" and data[position + 2] >> 4 == 0:
            return None
        raise ContainerDamage(f"at byte {position} there is no MPEG frame")
    promised = _xing_frames(data, position, first)
    count = 0
    while position < len(data):
        frame = _FrameHeader.parse(data[position : position + 4])
        if frame is None or frame.stream != first.stream:
            if data.startswith(_TRAILING_TAGS, position) or not data[position:].strip(b"\0"):
                break
            raise ContainerDamage(f"at byte {position} there is no MPEG frame")
        if position + frame.size > len(data):
            raise ContainerDamage(f"the last MPEG frame, at byte {position}, is cut off")
        if count and _xing_frames(data, position, frame) is not None:
            raise ContainerDamage(f"at byte {position} a second file begins")
        count += 1
        position += frame.size
    if promised is None:
        return MpegFrames(_xing_frame(data[offset : offset + 4], count), offset)
    if count - 1 != promised:
        raise ContainerDamage(f"it holds {count - 1} MPEG frames, its header states {promised}")
    return MpegFrames(b"", offset)


def _after_tags(data: bytes) -> int:
    """Position after ID3v2 tags and padding at the start."""
    position = 0
    while data[position : position + 3] == b"ID3" and len(data) >= position + 10:
        size = 0
        for byte in data[position + 6 : position + 10]:
            size = size << 7 | byte & 0x7F
        position += 10 + size + (10 if data[position + 5] & 0x10 else 0)
    while position < len(data) and data[position] == 0:
        position += 1
    return position


def _xing_frames(data: bytes, position: int, frame: _FrameHeader) -> int | None:
    """Number of frames that a Xing header states; None without one."""
    place = position + 4 + frame.side_info
    if data[place : place + 4] not in _XING or not data[place + 7 : place + 8] or not data[place + 7] & 1:
        return None
    return int.from_bytes(data[place + 8 : place + 12], "big")


def _xing_frame(header: bytes, count: int) -> bytes:
    """A frame with a Xing header that states `count` frames."""
    for rate_index in range(1, 15):  # the smallest frame that the header fits into
        changed = bytes([header[0], header[1] | 1, rate_index << 4 | header[2] & 0x0C, header[3]])
        frame = _FrameHeader.parse(changed)
        if frame is not None and frame.size >= 4 + frame.side_info + 12:
            tag = b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
            return (changed + bytes(frame.side_info) + tag).ljust(frame.size, b"\0")
    raise AssertionError("the largest frame holds a Xing header")
