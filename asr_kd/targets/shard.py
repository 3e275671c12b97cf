"""One file of soft targets: utterances × variants, in safetensors, as compressed blocks of rows.

Hashes and the index are the store's.
"""

import bisect
import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from asr_kd.errors import TargetsError
from asr_kd.files import loads_json
from asr_kd.posteriors.types import SoftTargets
from asr_kd.targets.packing import Block, Codec, CompressedRows, Packed, compress_rows, read_block

Array = NDArray[Any]

CACHED_BLOCKS = 64
"""Decompressed blocks that a store keeps in memory; with 8 entries a frame they take at most 64 bytes a frame."""

FRAMES = "frames"
"""Name of the part of a shard that every store has: ids and the posteriors of frames."""


class ShardRow(NamedTuple):
    """Stored data of one utterance in one variant."""

    packed: Packed
    arrays: Mapping[str, Array] = {}
    """Further named arrays [n, …]; the same names in all rows."""
    posteriors: Mapping[str, Packed] = {}
    """Further named posteriors, packed as the frames are; the same names in all rows."""


def shard_bytes(codec: Codec, utterances: Mapping[str, Sequence[ShardRow]]) -> bytes:
    """The content of a shard file: of each id a row for each variant, in their order. Equal input gives equal bytes."""
    rows = [row for _, variants in sorted(utterances.items()) for row in variants]
    tensors: dict[str, Array] = {
        # Sorted ids share their beginnings: compressed they take a quarter, and short utterances would notice.
        "ids": np.frombuffer(zlib.compress(json.dumps(sorted(utterances)).encode(), level=9), np.uint8),
        **_blocks(codec, "", [row.packed for row in rows]),
    }
    for name in sorted({name for row in rows for name in row.posteriors}):
        tensors |= _blocks(codec, f"posteriors.{name}.", [row.posteriors[name] for row in rows])
    for name in sorted({name for row in rows for name in row.arrays}):
        tensors[f"array.{name}"] = np.concatenate([row.arrays[name] for row in rows])
        tensors[f"array.{name}.lens"] = _narrowed(np.array([len(row.arrays[name]) for row in rows], np.int64))
    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()})


def parts_sha256(content: bytes) -> dict[str, str]:
    """Return SHA-256 hashes of a shard's parts: `FRAMES`, and each named array or posteriors.

    A store that keeps more than another may hold the very same frames; its files differ, these hashes do not.
    """
    tensors = load(content)
    hashes = {name: hashlib.sha256() for name in sorted({_part_of(tensor) for tensor in tensors})}
    for tensor, array in sorted(tensors.items()):
        described = f"{tensor} {array.dtype.str} {array.shape}"
        hashes[_part_of(tensor)].update(described.encode() + array.tobytes())
    return {name: found.hexdigest() for name, found in hashes.items()}


def _part_of(tensor: str) -> str:
    """Name of the part that a tensor of the file belongs to."""
    kind, _, rest = tensor.partition(".")
    return rest.partition(".")[0] if kind in ("posteriors", "array") else FRAMES


class _Rows(NamedTuple):
    """Compressed rows of all utterances and variants, in memory."""

    data: bytes
    column_bytes: list[list[int]]
    block_ends: list[int]  # bytes, with a 0 in front
    first_rows: list[int]  # of each block, and the number of rows


class Shard:
    """A shard file, read at random without loading it whole.

    Args:
        path: a file whose hash was already found right.
        blocks: see `block_cache`; shared by the shards of a store.
        where: the file's name in messages; by default its path.

    Raises:
        TargetsError: the file is not such a shard.
    """

    def __init__(
        self,
        path: Path,
        codec: Codec,
        num_variants: int,
        blocks: "BlockCache | None" = None,
        where: str | Path = "",
    ) -> None:
        self.where = where or path
        self._blocks = blocks or block_cache()
        self._codec = codec
        self._num_variants = num_variants
        try:
            self._file = safe_open(path, framework="np")
            self.ids: list[str] = loads_json(zlib.decompress(self._file.get_tensor("ids").tobytes()))
            self._compressed = {FRAMES: self._load("")}
        except (SafetensorError, OSError, ValueError, zlib.error) as error:
            raise TargetsError(f"is not a soft-target shard ({error})", where=self.where) from error
        self._offsets: dict[str, Array] = {}
        self._row = {utterance_id: index for index, utterance_id in enumerate(self.ids)}

    def __contains__(self, utterance_id: str) -> bool:
        return utterance_id in self._row

    def read(self, utterance_id: str, variant: int, name: str = FRAMES) -> SoftTargets:
        """Posteriors [T, K] of an utterance that is in this shard, by frame or further named ones; not to be changed.

        Raises:
            TargetsError: none have this name, or the block is damaged.
        """
        if name not in self._compressed:
            try:
                self._compressed[name] = self._load(f"posteriors.{name}.")
            except (SafetensorError, ValueError) as error:
                raise TargetsError(f"has no posteriors {name!r} ({error})", where=self.where) from error
        first_rows = self._compressed[name].first_rows
        row = self._row[utterance_id] * self._num_variants + variant
        index = bisect.bisect_right(first_rows, row) - 1
        return self._blocks(self, name, index).row(row - first_rows[index])

    def read_array(self, name: str, utterance_id: str, variant: int) -> Array:
        """A further named array of an utterance that is in this shard.

        Raises:
            TargetsError: no array has this name.
        """
        if name not in self._offsets:
            try:
                self._offsets[name] = _offsets(self._file.get_tensor(f"array.{name}.lens"))
            except SafetensorError as error:
                known = sorted(key[6:-5] for key in self._file.keys() if key.endswith(".lens"))  # noqa: SIM118 - no mapping
                raise TargetsError(
                    f"has no array {name!r}",
                    where=self.where,
                    expected=f"one of {known}" if known else "none are stored",
                ) from error
        row, offsets = self._row[utterance_id] * self._num_variants + variant, self._offsets[name]
        first, last, view = int(offsets[row]), int(offsets[row + 1]), self._file.get_slice(f"array.{name}")
        if first == last:  # safetensors refuses an empty slice at the very end
            return self._file.get_tensor(f"array.{name}") if view.get_shape()[0] == 0 else view[0:0]
        return view[first:last]

    def _load(self, prefix: str) -> _Rows:
        """Read compressed rows into memory: they take about a byte a frame.

        Raises:
            TargetsError: not one for each utterance and variant.
        """
        found = CompressedRows(*(self._file.get_tensor(f"{prefix}{name}") for name in CompressedRows._fields))
        block_ends, first_rows = _offsets(found.column_bytes.sum(-1)), _offsets(found.block_rows)
        if first_rows[-1] != len(self.ids) * self._num_variants or block_ends[-1] != len(found.data):
            raise TargetsError(
                f"has {first_rows[-1]} rows in {len(found.data)} bytes",
                where=self.where,
                expected=f"{len(self.ids)} utterances × {self._num_variants} variants in {block_ends[-1]} bytes",
            )
        return _Rows(found.data.tobytes(), found.column_bytes.tolist(), block_ends.tolist(), first_rows.tolist())

    def block(self, name: str, index: int) -> Block:
        """Decompress a block of the frames, or of further named posteriors.

        Raises:
            TargetsError: the block is damaged.
        """
        rows = self._compressed[name]
        data = rows.data[rows.block_ends[index] : rows.block_ends[index + 1]]
        first, end = rows.first_rows[index], rows.first_rows[index + 1]
        try:
            return read_block(self._codec, data, rows.column_bytes[index], end - first)
        except ValueError as error:
            ids = self.ids[first // self._num_variants], self.ids[(end - 1) // self._num_variants]
            raise TargetsError(
                f"block {index} of {name!r} (utterances {ids[0]!r} to {ids[1]!r}) is damaged: {error}", where=self.where
            ) from error


BlockCache = Callable[[Shard, str, int], Block]


def block_cache(max_blocks: int = CACHED_BLOCKS) -> BlockCache:
    """Return `Shard.block` with a memory of the blocks that were read last."""
    return functools.lru_cache(max_blocks)(Shard.block)


def _blocks(codec: Codec, prefix: str, rows: Sequence[Packed]) -> dict[str, Array]:
    """Tensors of rows in compressed blocks."""
    data, *sizes = compress_rows(codec, rows)
    named = zip(CompressedRows._fields, [data, *(_narrowed(array) for array in sizes)], strict=True)
    return {f"{prefix}{name}": array for name, array in named}


def _offsets(lengths: Array) -> Array:
    """Return the start of each of consecutive pieces, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _narrowed(lengths: Array) -> Array:
    """Integers ≥ 0 in the smallest unsigned type that holds them."""
    return lengths.astype(np.min_scalar_type(int(lengths.max(initial=0))))
