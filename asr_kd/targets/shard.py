"""One file of packed soft targets: utterances × variants, in safetensors.

Arrays of all utterances lie end to end, so that a short utterance costs no header of its own; where each begins
follows from the number of its events. Knows the file's inside; hashes and the index are the store's.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from asr_kd.errors import TargetsError
from asr_kd.targets.packing import Codec, Packed, StoredTargets, pack_bits, unpack_bits

Array = NDArray[Any]


class ShardRow(NamedTuple):
    """What is stored of one utterance in one variant."""

    packed: Packed
    arrays: Mapping[str, Array] = {}
    """Further named arrays [n, …]; the same names in all rows."""


def shard_bytes(codec: Codec, utterances: Mapping[str, Sequence[ShardRow]]) -> bytes:
    """The content of a shard file; equal input gives equal bytes.

    Args:
        codec: how the rows were packed.
        utterances: id → one row for each of the store's variants, in their order.
    """
    rows = [row for _, variants in sorted(utterances.items()) for row in variants]
    events, runs, tokens, codes = (_concatenate([row.packed[part] for row in rows], np.uint8) for part in range(4))
    tensors: dict[str, Array] = {
        # Sorted ids share their beginnings: compressed they take a quarter, and short utterances would notice.
        "ids": np.frombuffer(zlib.compress(json.dumps(sorted(utterances)).encode(), level=9), np.uint8),
        "num_events": _smallest([len(row.packed.events) for row in rows]),
        "events": pack_bits(events, codec.event_bits),
        "runs": runs,
        "tokens": pack_bits(tokens, codec.token_bits),
        "codes": codes,
    }
    for name in sorted({name for row in rows for name in row.arrays}):
        tensors[f"array.{name}"] = _concatenate([row.arrays[name] for row in rows], np.uint8)
        tensors[f"array.{name}.lens"] = _smallest([len(row.arrays[name]) for row in rows])
    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()})


class Shard:
    """A shard file, read at random without loading it whole.

    Args:
        path: a file whose hash was already found right.
        codec: from the store's description.
        num_variants: rows an utterance.

    Raises:
        TargetsError: the file is not such a shard.
    """

    def __init__(self, path: Path, codec: Codec, num_variants: int) -> None:
        self.path = path
        self._codec = codec
        self._num_variants = num_variants
        try:
            self._file = safe_open(path, framework="np")
            self.ids: list[str] = json.loads(zlib.decompress(self._file.get_tensor("ids").tobytes()))
            num_events = self._file.get_tensor("num_events").astype(np.int64)
            packed_events = self._file.get_tensor("events")
        except (SafetensorError, OSError, ValueError, zlib.error) as error:
            raise TargetsError(f"is not a soft-target shard ({error})", where=path) from error
        if len(num_events) != len(self.ids) * num_variants:
            raise TargetsError(
                f"has {len(num_events)} rows",
                where=path,
                expected=f"{len(self.ids)} utterances × {num_variants} variants",
            )
        self._row = {utterance_id: index for index, utterance_id in enumerate(self.ids)}
        self._events = _offsets(num_events)
        events = unpack_bits(packed_events, codec.event_bits, 0, int(self._events[-1]))
        self._runs = _offsets(events == 0)[self._events]
        self._entries = _offsets(events)[self._events]

    def __contains__(self, utterance_id: str) -> bool:
        return utterance_id in self._row

    def read(self, utterance_id: str, variant: int) -> StoredTargets:
        """Targets of an utterance that is in this shard."""
        row = self._row[utterance_id] * self._num_variants + variant
        codec = self._codec
        return codec.unpack(
            Packed(
                self._bits("events", codec.event_bits, self._events, row).astype(np.uint8),
                self._slice("runs", self._runs, row),
                self._bits("tokens", codec.token_bits, self._entries, row).astype(np.int32),
                self._slice("codes", self._entries, row),
            )
        )

    def read_array(self, name: str, utterance_id: str, variant: int) -> Array:
        """A further named array of an utterance that is in this shard.

        Raises:
            TargetsError: no array has this name.
        """
        try:
            lens = self._file.get_tensor(f"array.{name}.lens").astype(np.int64)
        except SafetensorError as error:
            known = sorted(key[6:-5] for key in self._file.keys() if key.endswith(".lens"))  # noqa: SIM118 - no mapping
            raise TargetsError(
                f"has no array {name!r}", where=self.path, expected=f"one of {known}" if known else "none are stored"
            ) from error
        row = self._row[utterance_id] * self._num_variants + variant
        return self._slice(f"array.{name}", _offsets(lens), row)

    def _slice(self, name: str, offsets: Array, row: int) -> Array:
        return self._piece(name, int(offsets[row]), int(offsets[row + 1]))

    def _bits(self, name: str, width: int, offsets: Array, row: int) -> Array:
        first, last = int(offsets[row]) * width, int(offsets[row + 1]) * width
        data = self._piece(name, first // 8, -(-last // 8))
        return unpack_bits(data, width, first % 8, (last - first) // width)

    def _piece(self, name: str, first: int, last: int) -> Array:
        view = self._file.get_slice(name)
        if first == last:  # safetensors refuses an empty slice at the very end
            return self._file.get_tensor(name) if view.get_shape()[0] == 0 else view[0:0]
        return view[first:last]


def _offsets(lengths: Array) -> Array:
    """Where each of consecutive pieces begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _concatenate(parts: Sequence[Array], dtype_when_empty: type) -> Array:
    return np.concatenate(parts) if parts else np.zeros(0, dtype_when_empty)


def _smallest(lengths: Sequence[int]) -> Array:
    """Integers ≥ 0 in the smallest unsigned type that holds them."""
    return np.array(lengths, dtype=np.min_scalar_type(max(lengths, default=0)))
