"""Rows of a store as small integers, and blocks of rows compressed by zlib.

A sequence of frames becomes *events*: 0 is a run of certain blanks (its length goes to `runs`), n is a frame with n
entries. Such a frame has n tokens by falling probability and n codes: which share of the frame is tail, which share of
what remains is the second entry, which share of what then remains the third, and so on; the largest entry gets the last
remainder, so a frame always sums to 1. A code is a share's angle, arcsin √share, in equal steps. An error Δ of the
angle costs 2Δ² nats wherever it is made, so no bits go into decimals of what is small anyway.

A block holds whole rows (an utterance in one variant each), so reading an utterance decompresses one block. Its
columns, in this order:

    num_events    events of each row, 32 bits
    events        kept entries of each frame; 0 for a run of certain blanks
    runs          length of each run
    best_tokens   most probable token of each frame, in the smallest integer type that holds the vocabulary
    best_codes    quantised tail of each frame
    other_tokens  the other kept tokens
    other_codes   their quantised probabilities

All are 8 bits wide but for `num_events` and, of larger vocabularies, the tokens.

Shapes: R rows, T frames, E events, N entries of all frames, K most entries of a frame.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from asr_kd.posteriors.types import SoftTargets

MAX_RUN = 255
"""Longest run of one event; longer ones are cut. One byte."""


class Packed(NamedTuple):
    """One row of a store: a sequence of frames as small integers."""

    events: NDArray[np.uint8]  # [E]
    runs: NDArray[np.uint8]  # [R]
    tokens: NDArray[np.int32]  # [N]
    codes: NDArray[np.uint8]  # [N]

    @property
    def num_frames(self) -> int:
        return int(np.count_nonzero(self.events)) + int(self.runs.sum())


@dataclass(frozen=True)
class Codec:
    """Packs and unpacks frames.

    Attributes:
        vocab_size: V.
        blank_id: index of the blank.
        max_entries: K, at most 15.
        certain_blank: δ; a frame with q(∅) ≥ 1 − δ joins a run.
        levels: steps of the angle of a share from 0 to 90 degrees, at most 255.
    """

    vocab_size: int
    blank_id: int
    max_entries: int
    certain_blank: float
    levels: int = 24

    @property
    def certain_tail(self) -> float:
        """Tail of a collapsed blank: δ/10.

        The best constant is the mean, which on real posteriors lies near δ/24; this one costs 0.00005 nats more and
        stays harmless for a frame that leaves all of δ (0.007 nats at δ = 0.005).
        """
        return self.certain_blank / 10

    def pack(self, tokens: NDArray[np.int64], probs: NDArray[np.float32]) -> Packed:
        """Pack frames [T, K] whose entries stand by falling probability, fillers last with probability 0."""
        if len(tokens) == 0:
            nothing = np.zeros(0, np.uint8)
            return Packed(nothing, nothing, nothing.astype(np.int32), nothing)
        kept = probs > 0
        kept[:, 0] = True
        certain = (tokens[:, 0] == self.blank_id) & (probs[:, 0] >= 1.0 - self.certain_blank)
        starts = _event_starts(certain)
        lengths = np.diff(starts, append=len(certain))
        is_run = certain[starts]
        events = np.where(is_run, 0, kept.sum(1)[starts]).astype(np.uint8)
        written = ~certain
        codes = self._encode(probs[written].astype(np.float64), kept[written])
        return Packed(
            events,
            lengths[is_run].astype(np.uint8),
            tokens[written][kept[written]].astype(np.int32),
            codes[kept[written]],
        )

    def unpack(self, packed: Packed) -> SoftTargets:
        """Posteriors [T, K] (int32, float32) of one row or several end to end; K is the most entries of a frame."""
        is_run = packed.events == 0
        lengths = np.ones(len(packed.events), np.int64)
        lengths[is_run] = packed.runs
        ends = np.cumsum(lengths)
        frames = (ends - lengths)[~is_run]
        counts = packed.events[~is_run]
        width = int(counts.max(initial=1))
        kept = np.arange(width) < counts[:, None]
        num_frames = int(ends[-1]) if len(ends) else 0

        own = np.zeros(kept.shape, np.int32)
        own[kept] = packed.tokens
        tokens = np.zeros((num_frames, width), np.int32)
        tokens[:, 0] = self.blank_id
        tokens[frames] = own
        shares = np.zeros(kept.shape)
        shares[kept] = self._shares[packed.codes]
        probs = np.zeros((num_frames, width), np.float32)
        probs[:, 0] = 1.0 - self.certain_tail
        probs[frames] = _probs_of(shares)
        return SoftTargets(torch.from_numpy(tokens), torch.from_numpy(probs))

    def _encode(self, probs: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Codes [T, K] of the tail (column 0) and of all entries but the largest."""
        parts = np.where(kept, probs, 0.0)
        largest = parts[:, 0].copy()
        parts[:, 0] = np.clip(1.0 - parts.sum(1), 0.0, 1.0)
        remainders = parts[:, ::-1].cumsum(1)[:, ::-1] + largest[:, None]
        angles = np.arcsin(np.sqrt(parts / remainders)) / (np.pi / 2)
        return np.rint(angles * self.levels).astype(np.uint8)

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        """Share of each code. The first and the last stand for the middle of their half step: no share is 0 or 1."""
        steps = np.arange(self.levels + 1, dtype=np.float64)
        steps[0], steps[-1] = 0.25, self.levels - 0.25
        return np.square(np.sin(steps / self.levels * (np.pi / 2)))


def _probs_of(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities [T, K] of entries from the tail's share (column 0) and the others' shares of what remains."""
    remainders = np.cumprod(1.0 - shares, axis=1)
    probs: NDArray[np.float64] = np.concatenate([remainders[:, -1:], shares[:, 1:] * remainders[:, :-1]], axis=1)
    # Rounding may have changed the order of what was nearly equal; tokens stand by falling probability.
    return -np.sort(-probs, axis=1)


def _event_starts(certain: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Frames at which an event starts: each uncertain one, and the first of each run (cut at MAX_RUN)."""
    index = np.arange(len(certain))
    begins = ~certain
    begins[0] = True
    begins[1:] |= certain[1:] & ~certain[:-1]
    begins |= (index - np.maximum.accumulate(np.where(begins, index, 0))) % MAX_RUN == 0
    return np.flatnonzero(begins)


Array = NDArray[Any]

BLOCK_FRAMES = 8192
"""A block ends with the row that reaches this number of frames: larger ones compress better and take longer to open."""
NUM_COLUMNS = 7


class CompressedRows(NamedTuple):
    """Rows as they are stored in a shard."""

    data: Array  # uint8: columns of block 0, then of block 1, …
    column_bytes: Array  # [blocks, NUM_COLUMNS] compressed size of each column
    block_rows: Array  # [blocks] rows of each block


class Block:
    """A decompressed block.

    Args:
        posteriors: of all its rows, end to end, [T, K].
        lens: frames of each row, [R].
        widths: most entries of a frame of each row, [R], at least 1.
    """

    def __init__(self, posteriors: SoftTargets, lens: Array, widths: Array) -> None:
        # Slicing arrays is faster than slicing tensors.
        self._tokens, self._probs = posteriors.tokens.numpy(), posteriors.probs.numpy()
        self._ends, self._widths = [0, *np.cumsum(lens).tolist()], widths.tolist()

    def row(self, index: int) -> SoftTargets:
        """Posteriors [T, K] of one row; views of the block, not to be changed."""
        start, end, width = self._ends[index], self._ends[index + 1], self._widths[index]
        tokens, probs = self._tokens[start:end, :width], self._probs[start:end, :width]
        return SoftTargets(torch.from_numpy(tokens), torch.from_numpy(probs))


def compress_rows(codec: Codec, rows: Sequence[Packed]) -> CompressedRows:
    """Compress rows into blocks; equal rows give equal bytes."""
    blocks: list[list[Packed]] = []
    frames = BLOCK_FRAMES
    for row in rows:
        if frames >= BLOCK_FRAMES:
            blocks.append([])
            frames = 0
        blocks[-1].append(row)
        frames += row.num_frames
    columns = [_compressed_columns(codec, block) for block in blocks]
    return CompressedRows(
        np.frombuffer(b"".join(column for block in columns for column in block), np.uint8),
        np.array([[len(column) for column in block] for block in columns], np.uint32).reshape(-1, NUM_COLUMNS),
        np.array([len(block) for block in blocks], np.uint32),
    )


def read_block(codec: Codec, data: bytes, column_bytes: Sequence[int], num_rows: int) -> Block:
    """Decompress a block of `num_rows` rows: its columns, and the compressed size of each.

    Raises:
        ValueError: the columns do not hold this number of rows.
    """
    byte, token = np.dtype(np.uint8), _token_dtype(codec)
    dtypes: list[np.dtype[Any]] = [np.dtype("<u4"), byte, byte, token, byte, token, byte]
    starts = [0, *np.cumsum(column_bytes).tolist()]
    try:
        num_events, events, runs, best_tokens, best_codes, other_tokens, other_codes = (
            _column(data[start : start + size], dtype)
            for start, size, dtype in zip(starts, column_bytes, dtypes, strict=False)
        )
        is_frame = events > 0
        counts = events[is_frame].astype(np.int64)
        if len(num_events) != num_rows or num_events.sum() != len(events) or len(counts) + len(runs) != len(events):
            raise ValueError("the numbers of rows, events and runs disagree")
        if counts.max(initial=0) > codec.max_entries or runs.min(initial=1) < 1:
            raise ValueError("a frame has too many entries, or a run has no frames")
        is_best = np.zeros(counts.sum(), np.bool_)
        is_best[np.cumsum(counts) - counts] = True
        tokens, codes = np.empty(len(is_best), np.int32), np.empty(len(is_best), np.uint8)
        tokens[is_best], tokens[~is_best] = best_tokens, other_tokens
        codes[is_best], codes[~is_best] = best_codes, other_codes
    except zlib.error as error:
        raise ValueError(f"a column cannot be decompressed ({error})") from error
    if tokens.max(initial=0) >= codec.vocab_size or codes.max(initial=0) > codec.levels:
        raise ValueError("a token or a code is out of range")
    row_of = np.repeat(np.arange(num_rows), num_events)
    event_frames = np.ones(len(events), np.int64)
    event_frames[~is_frame] = runs
    lens = np.bincount(row_of, event_frames, num_rows).astype(np.int64)
    widths = np.ones(num_rows, np.int64)
    np.maximum.at(widths, row_of, events)
    return Block(codec.unpack(Packed(events, runs, tokens, codes)), lens, widths)


def _compressed_columns(codec: Codec, rows: Sequence[Packed]) -> list[bytes]:
    events, runs, tokens, codes = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    counts = events[events > 0].astype(np.int64)
    is_best = np.zeros(len(tokens), np.bool_)
    is_best[np.cumsum(counts) - counts] = True
    tokens = tokens.astype(_token_dtype(codec))
    columns = [
        np.array([len(row.events) for row in rows], "<u4"),
        *(events, runs, tokens[is_best], codes[is_best], tokens[~is_best], codes[~is_best]),
    ]
    return [_compress(column) for column in columns]


def _token_dtype(codec: Codec) -> np.dtype[Any]:
    return np.min_scalar_type(codec.vocab_size - 1).newbyteorder("<")


def _compress(column: Array) -> bytes:
    """Bytes of equal weight side by side (the high ones are mostly zeros), as a raw deflate stream."""
    planes = column.view(np.uint8).reshape(-1, column.dtype.itemsize).T
    # Z_FILTERED relies less on repeats: these columns are noise with a skewed distribution.
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    return compressor.compress(planes.tobytes()) + compressor.flush()


def _column(data: bytes, dtype: np.dtype[Any]) -> Array:
    planes = np.frombuffer(zlib.decompress(data, -zlib.MAX_WBITS), np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).ravel()
