"""MPEG audio (MP3): the length of a file by its frames, and damage between them.

libsndfile takes an MP3's length from a Xing header, or else from its first bit rate and the size of the file. Both can
be wrong: files are cut, joined, or have a variable bit rate without such a header. Here every frame header is read.

Source: ISO/IEC 11172-3 and 13818-3, section 2.4.2.3; the Xing header as LAME and mpg123 write and read it.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

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


class MpegDamage(Exception):
    """The frames of a file are damaged; the message states where and how."""


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
    """The frames of a file.

    Attributes:
        xing: a frame with a Xing header that states the number of frames; empty for files that have one.
        offset: bytes before the first frame.
    """

    xing: bytes
    offset: int


def read_mpeg_frames(path: Path) -> MpegFrames | None:
    """Read all frame headers of a file; None for a stream of free format, whose frames state no size.

    Raises:
        MpegDamage: other bytes lie between the frames, the last frame is cut off, a second file follows, or a Xing
            header states another number of frames.
    """
    data = path.read_bytes()
    offset = position = _after_tags(data)
    first = _FrameHeader.parse(data[position : position + 4])
    if first is None and data[position : position + 1] == b"\xff" and data[position + 2] >> 4 == 0:
        return None
    if first is None:
        raise MpegDamage(f"at byte {position} there is no MPEG frame")
    promised = _xing_frames(data, position, first)
    count = 0
    while position < len(data):
        frame = _FrameHeader.parse(data[position : position + 4])
        if frame is None or frame.stream != first.stream:
            if data.startswith(_TRAILING_TAGS, position) or not data[position:].strip(b"\0"):
                break
            raise MpegDamage(f"at byte {position} there is no MPEG frame")
        if position + frame.size > len(data):
            raise MpegDamage(f"the last MPEG frame, at byte {position}, is cut off")
        if count and _xing_frames(data, position, frame) is not None:
            raise MpegDamage(f"at byte {position} a second file begins")
        count += 1
        position += frame.size
    if promised is None:
        return MpegFrames(_xing_frame(data[offset : offset + 4], count), offset)
    if count - 1 != promised:
        raise MpegDamage(f"it holds {count - 1} MPEG frames, its header states {promised}")
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
