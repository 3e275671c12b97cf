"""Packing of frames into small integers: runs of certain blanks, counts, token ids, quantised probabilities.

A sequence of frames becomes *events*: 0 is a run of certain blanks (its length goes to `runs`), n is a frame with n
entries. Such a frame has n tokens by falling probability and n codes: which share of the frame is tail, which share of
what remains is the second entry, which share of what then remains the third, and so on; the largest entry gets the last
remainder, so a frame always sums to 1.

A code is a share's angle, arcsin √share, in equal steps. An error Δ of the angle costs 2Δ² nats wherever it is made, so
no bits go into decimals of what is small anyway.

Shapes: T frames, E events, R runs, N entries of all frames, K most entries of a frame.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from asr_kd.posteriors.types import SparsePosteriors

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
        """T."""
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

    def unpack(self, packed: Packed) -> SparsePosteriors:
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
        return SparsePosteriors(torch.from_numpy(tokens), torch.from_numpy(probs))

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
