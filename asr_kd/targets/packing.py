"""Frames as few bytes: runs of certain blanks, counts, token ids of just enough bits, 8-bit log-probabilities.

A sequence of frames becomes *events*: 0 is a run of certain blanks (its length goes to `runs`), n is a frame with n
entries. Such a frame has n tokens by falling probability and n codes: the tail's, then those of all entries but the
largest, which is one minus the rest; so a frame always sums to 1. Knows arrays, nothing of files or utterances.

Shapes: T frames, E events, R runs, N entries of all frames, K most entries of a frame.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_RUN = 255
"""Longest run of one event; longer ones are cut. One byte."""
LARGEST_CODE = 255


class StoredTargets(NamedTuple):
    """One utterance's soft targets, as read from a store."""

    tokens: Tensor  # [T, K] int32, by falling probability; 0 at fillers
    probs: Tensor  # [T, K] float32; 0 at fillers; what is missing to 1 is the tail


class Packed(NamedTuple):
    """One sequence of frames, packed but for the bits."""

    events: NDArray[np.uint8]  # [E]
    runs: NDArray[np.uint8]  # [R]
    tokens: NDArray[np.int32]  # [N]
    codes: NDArray[np.uint8]  # [N]


@dataclass(frozen=True)
class Codec:
    """What must be known to read packed frames.

    Attributes:
        vocab_size: V.
        blank_id: index of the blank.
        max_entries: K, at most 15.
        certain_blank: δ; a frame with q(∅) ≥ 1 − δ joins a run.
        floor: the smallest probability a code can say; smaller ones become it.
    """

    vocab_size: int
    blank_id: int
    max_entries: int
    certain_blank: float
    floor: float = 1e-5

    @property
    def token_bits(self) -> int:
        """Bits of a token id."""
        return max(1, (self.vocab_size - 1).bit_length())

    @property
    def event_bits(self) -> int:
        """Bits of an event."""
        return self.max_entries.bit_length()

    @property
    def step(self) -> float:
        """Distance of neighbouring codes in nats: the largest error of a kept entry's log-probability."""
        return -math.log(self.floor) / LARGEST_CODE

    @property
    def certain_tail(self) -> float:
        """What a collapsed blank leaves for the rest: δ/e.

        Of all constants it has the smallest worst case: KL ≤ δ/e nats for any tail in [0, δ].
        """
        return max(self.certain_blank / math.e, self.floor)

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

    def unpack(self, packed: Packed) -> StoredTargets:
        """Frames of `packed`; K is the most entries that any of them has."""
        is_run = packed.events == 0
        lengths = np.ones(len(packed.events), np.int64)
        lengths[is_run] = packed.runs
        num_frames = int(lengths.sum())
        counts = packed.events[~is_run].astype(np.int64)
        frames = (np.cumsum(lengths) - lengths)[~is_run]
        width = int(counts.max(initial=1))
        rows = np.repeat(frames, counts)
        first = np.cumsum(counts) - counts
        columns = np.arange(counts.sum()) - np.repeat(first, counts)

        tokens = np.zeros((num_frames, width), np.int32)
        tokens[:, 0] = self.blank_id
        tokens[rows, columns] = packed.tokens
        values = np.exp(-self.step * packed.codes.astype(np.float64))
        probs = np.zeros((num_frames, width), np.float64)
        probs[rows, columns] = values
        # Column 0 holds the tail until here; the sum is everything but the largest entry.
        largest = np.full(num_frames, 1.0 - self.certain_tail)
        largest[frames] = 1.0 - probs[frames].sum(1)
        probs[:, 0] = largest
        return StoredTargets(torch.from_numpy(tokens), torch.from_numpy(probs.astype(np.float32)))

    def _encode(self, probs: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Codes [T, K] of the tail (column 0) and of all entries but the largest."""
        values = np.where(kept, probs, 0.0)
        values[:, 0] = 1.0 - values.sum(1)
        exact = -np.log(np.clip(values, self.floor, 1.0)) / self.step
        codes = np.rint(exact)
        # Rounding must not make the largest entry a smaller one: such frames round all the others down.
        others = np.where(kept, np.exp(-self.step * codes), 0.0)
        largest_other = others[:, 1:].max(1, initial=0.0)
        broken = 1.0 - others.sum(1) <= largest_other
        codes[broken] = np.ceil(exact[broken])
        return np.minimum(codes, LARGEST_CODE).astype(np.uint8)


def _event_starts(certain: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Frames at which an event starts: each uncertain one, and the first of each run (cut at MAX_RUN)."""
    index = np.arange(len(certain))
    begins = ~certain
    begins[0] = True
    begins[1:] |= certain[1:] & ~certain[:-1]
    begins |= (index - np.maximum.accumulate(np.where(begins, index, 0))) % MAX_RUN == 0
    return np.flatnonzero(begins)


def pack_bits(values: NDArray[np.integer], width: int) -> NDArray[np.uint8]:
    """Integers ≥ 0 as `width` bits each, lowest bit first, filled up to whole bytes."""
    bits = (values.astype(np.int64)[:, None] >> np.arange(width)) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little")


def unpack_bits(data: NDArray[np.uint8], width: int, skip_bits: int, count: int) -> NDArray[np.int64]:
    """`count` integers of `width` bits each from `data`, after `skip_bits` bits."""
    bits = np.unpackbits(data, bitorder="little")[skip_bits : skip_bits + count * width]
    return bits.reshape(count, width).astype(np.int64) @ (1 << np.arange(width))
