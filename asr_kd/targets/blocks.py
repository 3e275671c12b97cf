"""Compressed blocks of stored rows: fixed-width columns of consecutive utterances, each compressed by zlib.

A block holds whole rows (an utterance in one variant each), so reading an utterance decompresses one block. Its
columns, in this order:

    num_events    events of each row, 32 bits
    events        kept entries of each frame; 0 for a run of certain blanks
    runs          length of each run
    best_tokens   most probable token of each frame, in the smallest integer type that holds the vocabulary
    best_codes    quantised tail of each frame
    other_tokens  the other kept tokens
    other_codes   their quantised probabilities

All are 8 bits wide but for `num_events` and, of larger vocabularies, the tokens. See `packing` for events and codes.

Shapes: R rows, T frames, K most entries of a frame.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from asr_kd.posteriors.types import SparsePosteriors
from asr_kd.targets.packing import Codec, Packed

Array = NDArray[Any]

BLOCK_FRAMES = 8192
"""A block ends with the row that reaches this number of frames: larger ones compress better and take longer to open."""
CACHED_BLOCKS = 64
"""Decompressed blocks that a store keeps in memory; with 8 entries a frame they take at most 64 bytes a frame."""
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

    def __init__(self, posteriors: SparsePosteriors, lens: Array, widths: Array) -> None:
        # Slicing arrays takes a fraction of the time that slicing tensors does.
        self._tokens, self._probs = (part.numpy() for part in posteriors)
        self._ends, self._widths = [0, *np.cumsum(lens).tolist()], widths.tolist()

    def row(self, index: int) -> SparsePosteriors:
        """Posteriors [T, K] of one row; views of the block, not to be changed."""
        start, end, width = self._ends[index], self._ends[index + 1], self._widths[index]
        tokens, probs = self._tokens[start:end, :width], self._probs[start:end, :width]
        return SparsePosteriors(torch.from_numpy(tokens), torch.from_numpy(probs))


class BlockCache:
    """The blocks that were read last.

    Args:
        max_blocks: how many are kept.
    """

    def __init__(self, max_blocks: int = CACHED_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[Hashable, Block] = OrderedDict()

    def get(self, key: Hashable, read: Callable[[], Block]) -> Block:
        """The block under `key`; `read` makes it when it is not in memory."""
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = read()
            if len(self._blocks) > self._max_blocks:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(key)
        return block


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
    """Decompress one block.

    Args:
        codec: as the rows were packed.
        data: the block's columns.
        column_bytes: size of each.
        num_rows: R.

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
    # Z_FILTERED relies less on repeats: these columns are noise with a skewed distribution. It saves 3 % here.
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    return compressor.compress(planes.tobytes()) + compressor.flush()


def _column(data: bytes, dtype: np.dtype[Any]) -> Array:
    planes = np.frombuffer(zlib.decompress(data, -zlib.MAX_WBITS), np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).ravel()
