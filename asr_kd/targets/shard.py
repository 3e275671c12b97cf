"""One file of packed soft targets: utterances × variants, in safetensors.

Bits of all utterances lie end to end in whole bytes, so that a short one costs no header of its own; the codes they are
written in stand beside them once. Knows the file's inside; hashes and the index are the store's.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from asr_kd.errors import TargetsError
from asr_kd.targets.codebook import Book, fit, read_books, write_books
from asr_kd.targets.packing import Codec, Packed
from asr_kd.targets.stored import Stored
from asr_kd.targets.streams import STREAMS, Coded, encode, streams_of

Array = NDArray[Any]

FRAMES = "frames"
"""Name of the part of a shard that every store has: ids and the posteriors of frames."""


class ShardRow(NamedTuple):
    """What is stored of one utterance in one variant."""

    packed: Packed
    arrays: Mapping[str, Array] = {}
    """Further named arrays [n, …]; the same names in all rows."""
    posteriors: Mapping[str, Packed] = {}
    """Further named posteriors, packed as the frames are; the same names in all rows."""


def shard_bytes(codec: Codec, utterances: Mapping[str, Sequence[ShardRow]]) -> bytes:
    """The content of a shard file; equal input gives equal bytes.

    Args:
        codec: how the rows were packed.
        utterances: id → one row for each of the store's variants, in their order.
    """
    rows = [row for _, variants in sorted(utterances.items()) for row in variants]
    tensors: dict[str, Array] = {
        # Sorted ids share their beginnings: compressed they take a quarter, and short utterances would notice.
        "ids": np.frombuffer(zlib.compress(json.dumps(sorted(utterances)).encode(), level=9), np.uint8),
        **_in_bits(codec, "", [row.packed for row in rows]),
    }
    for name in sorted({name for row in rows for name in row.posteriors}):
        tensors |= _in_bits(codec, f"posteriors.{name}.", [row.posteriors[name] for row in rows])
    for name in sorted({name for row in rows for name in row.arrays}):
        tensors[f"array.{name}"] = _concatenate([row.arrays[name] for row in rows], np.uint8)
        tensors[f"array.{name}.lens"] = _smallest([len(row.arrays[name]) for row in rows])
    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()})


def parts_sha256(content: bytes) -> dict[str, str]:
    """What is in a shard file, hashed part by part: `FRAMES`, and each named array or posteriors.

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


class _Sequences(NamedTuple):
    """Packed sequences of all rows."""

    bits: Array  # end to end, in memory: less than a byte a frame
    num_events: list[int]
    offsets: list[int]
    books: list[Book]


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
            self._frames = self._sequences("")
        except (SafetensorError, OSError, ValueError, zlib.error) as error:
            raise TargetsError(f"is not a soft-target shard ({error})", where=path) from error
        self._further: dict[str, _Sequences] = {}
        self._offsets: dict[str, Array] = {}
        self._row = {utterance_id: index for index, utterance_id in enumerate(self.ids)}

    def __contains__(self, utterance_id: str) -> bool:
        return utterance_id in self._row

    def find(self, utterance_id: str, variant: int) -> Stored:
        """Targets of an utterance that is in this shard."""
        return self._find(self._frames, utterance_id, variant)

    def find_posteriors(self, name: str, utterance_id: str, variant: int) -> Stored:
        """Further named posteriors of an utterance that is in this shard.

        Raises:
            TargetsError: none have this name.
        """
        if name not in self._further:
            try:
                self._further[name] = self._sequences(f"posteriors.{name}.")
            except (SafetensorError, ValueError) as error:
                raise TargetsError(f"has no posteriors {name!r} ({error})", where=self.path) from error
        return self._find(self._further[name], utterance_id, variant)

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
                    where=self.path,
                    expected=f"one of {known}" if known else "none are stored",
                ) from error
        row, offsets = self._row[utterance_id] * self._num_variants + variant, self._offsets[name]
        return self._piece(f"array.{name}", int(offsets[row]), int(offsets[row + 1]))

    def _sequences(self, prefix: str) -> "_Sequences":
        """What is needed to read packed sequences.

        Raises:
            TargetsError: not one for each utterance and variant.
        """
        found = _Sequences(
            self._file.get_tensor(f"{prefix}bits"),
            self._file.get_tensor(f"{prefix}num_events").tolist(),
            _offsets(self._file.get_tensor(f"{prefix}num_bytes")).tolist(),
            read_books(self._file.get_tensor(f"{prefix}books"), len(STREAMS)),
        )
        size, num_rows = len(found.bits), len(self.ids) * self._num_variants
        if not len(found.num_events) == len(found.offsets) - 1 == num_rows or found.offsets[-1] != size:
            raise TargetsError(
                f"has {len(found.num_events)} rows in {size} bytes",
                where=self.path,
                expected=f"{len(self.ids)} utterances × {self._num_variants} variants in {found.offsets[-1]} bytes",
            )
        return found

    def _find(self, sequences: "_Sequences", utterance_id: str, variant: int) -> Stored:
        row = self._row[utterance_id] * self._num_variants + variant
        data = sequences.bits[sequences.offsets[row] : sequences.offsets[row + 1]]
        return Stored(utterance_id, Coded(sequences.books, data, sequences.num_events[row]), self._codec, self.path)

    def _piece(self, name: str, first: int, last: int) -> Array:
        view = self._file.get_slice(name)
        if first == last:  # safetensors refuses an empty slice at the very end
            return self._file.get_tensor(name) if view.get_shape()[0] == 0 else view[0:0]
        return view[first:last]


def _in_bits(codec: Codec, prefix: str, sequences: Sequence[Packed]) -> dict[str, Array]:
    """Packed sequences end to end, and what is needed to read them."""
    streams = [streams_of(codec, packed) for packed in sequences]
    books = [fit([row[part] for row in streams]) for part in range(len(STREAMS))]
    bits = encode(books, streams)
    return {
        f"{prefix}books": write_books(books),
        f"{prefix}bits": _concatenate(bits, np.uint8),
        f"{prefix}num_bytes": _smallest([len(row) for row in bits]),
        f"{prefix}num_events": _smallest([len(packed.events) for packed in sequences]),
    }


def _offsets(lengths: Array) -> Array:
    """Where each of consecutive pieces begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _concatenate(parts: Sequence[Array], dtype_when_empty: type) -> Array:
    return np.concatenate(parts) if parts else np.zeros(0, dtype_when_empty)


def _smallest(lengths: Sequence[int]) -> Array:
    """Integers ≥ 0 in the smallest unsigned type that holds them."""
    return np.array(lengths, dtype=np.min_scalar_type(max(lengths, default=0)))
