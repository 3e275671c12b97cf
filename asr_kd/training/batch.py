"""Batches: examples padded to one length, with tokens, soft targets and pseudo-labels.

Shapes: B utterances, T feature frames, F mel bins, U tokens, K kept entries.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from asr_kd.distributed import Ranks
from asr_kd.features.fbank import pad_batch
from asr_kd.losses import Hypotheses, References
from asr_kd.losses.base import hypotheses_of
from asr_kd.models.layers import output_lens
from asr_kd.posteriors.types import SoftTargets, collate, map_tensors


class Unreadable(NamedTuple):
    """An utterance that could not be read, and why."""

    id: str
    audio: str
    reason: str


class WeightedHypothesis(NamedTuple):
    """Tokens of a hypothesis and its weight in the loss."""

    tokens: Sequence[int]
    weight: float


@dataclass(frozen=True)
class Example:
    """One utterance of a batch."""

    id: str
    features: Tensor  # [T, F]
    audio_frames: int  # feature frames of the utterance itself
    tokens: list[int] | None  # None: no transcript, the utterance has teacher targets only
    targets: SoftTargets | None
    hypotheses: Sequence[WeightedHypothesis] = ()  # pseudo-labels
    arrays: Mapping[str, Tensor] = field(default_factory=dict)  # named arrays of the store, [n, …] each
    lead_frames: int = 0  # feature frames of silence in front, a multiple of 4; targets and arrays include them
    waveform: Tensor | None = None  # [S] for a teacher that runs during training: without silence on either side


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of a training step."""

    ids: list[str]
    features: Tensor  # [B, T, F], padded with zeros
    feature_lens: Tensor  # [B] int64
    audio_lens: Tensor  # [B] int64: feature frames of the utterances themselves, without silence on either side
    references: References
    targets: SoftTargets | None
    unreadable: list[Unreadable] = field(default_factory=list)
    hypotheses: Hypotheses | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)  # [B, n, …] each, padded with zeros
    untranscribed: tuple[int, ...] = ()  # rows without a transcript
    lead_lens: Tensor | None = None  # [B] int64: feature frames of silence in front; None: no utterance has any
    waveforms: Tensor | None = None  # [B, S], for a teacher that runs during training
    sample_lens: Tensor | None = None  # [B] int64, of the waveforms

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; copies from pinned memory are asynchronous.

        Lengths, and the rows that hypotheses belong to, stay on the host: reading them would synchronise with the GPU.
        """
        moved = self._each(lambda part: part.to(device, non_blocking=True))
        hypotheses = self.hypotheses
        if hypotheses is not None and moved.hypotheses is not None:
            hypotheses = hypotheses._replace(tokens=moved.hypotheses.tokens)
        return replace(
            moved,
            feature_lens=self.feature_lens,
            audio_lens=self.audio_lens,
            lead_lens=self.lead_lens,
            sample_lens=self.sample_lens,
            references=moved.references._replace(lens=self.references.lens),
            targets=self.targets and moved.targets and moved.targets._replace(lens=self.targets.lens),
            hypotheses=hypotheses,
        )

    def pin_memory(self) -> "Batch":
        """Return the batch in pinned memory; called by a DataLoader with `pin_memory`."""
        return self._each(Tensor.pin_memory)

    def pieces(self, count: int) -> "list[Batch]":
        """Return `count` pieces with about equally many utterances; each keeps the padding of the batch."""
        if count == 1:
            return [self]
        rows = list(range(len(self.ids)))
        return [self._rows(rows[number::count]) for number in range(count) if rows[number::count]]

    def _rows(self, rows: list[int]) -> "Batch":
        hypotheses = hypotheses_of(self.hypotheses, rows, len(self.ids)) if self.hypotheses is not None else None
        piece = replace(self, hypotheses=None)._each(lambda part: part[rows])
        untranscribed = tuple(number for number, row in enumerate(rows) if row in self.untranscribed)
        ids = [self.ids[row] for row in rows]
        return replace(piece, ids=ids, unreadable=[], hypotheses=hypotheses, untranscribed=untranscribed)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **map_tensors(parts, change))


def collate_hypotheses(hypotheses: Sequence[Sequence[WeightedHypothesis]]) -> Hypotheses:
    """Concatenate the hypotheses of a batch."""
    flat = [(row, item) for row, items in enumerate(hypotheses) for item in items]
    tokens = torch.zeros(len(flat), max((len(item.tokens) for _, item in flat), default=0), dtype=torch.int64)
    for index, (_, item) in enumerate(flat):
        tokens[index, : len(item.tokens)] = torch.tensor(item.tokens, dtype=torch.int64)
    return Hypotheses(
        tokens,
        torch.tensor([len(item.tokens) for _, item in flat], dtype=torch.int64),
        torch.tensor([row for row, _ in flat], dtype=torch.int64),
        torch.tensor([item.weight for _, item in flat], dtype=torch.float32),
    )


LENGTHS_PER_OCTAVE = 16
"""Lengths of batches between one and its double."""


def padded_length(frames: int) -> int:
    """The length of a batch whose longest utterance has `frames` feature frames: at most a sixteenth more.

    On a CPU bf16's kernels are compiled for each shape, which takes up to a third of the step of a small model where
    every batch has a length of its own (`benchmarks/batch_lengths.py`).
    """
    step = max((1 << frames.bit_length()) // (2 * LENGTHS_PER_OCTAVE), 4)  # the octave's upper end is 1 << bit_length
    return -(-frames // step) * step


def collate_batch(examples: Sequence[Example | Unreadable]) -> Batch:
    """Pad examples into a batch of one of a few lengths; unreadable utterances are listed in `Batch.unreadable`."""
    good = [item for item in examples if isinstance(item, Example)]
    unreadable = [item for item in examples if isinstance(item, Unreadable)]
    nothing = torch.zeros(0, 0, 0), torch.zeros(0, dtype=torch.int64)
    features, lens = pad_batch([item.features for item in good]) if good else nothing
    features = pad(features, (0, 0, 0, padded_length(features.shape[1]) - features.shape[1]))
    token_rows = [torch.tensor(item.tokens or [], dtype=torch.int64) for item in good]
    token_lens = torch.tensor([len(row) for row in token_rows], dtype=torch.int64)
    tokens = pad_sequence(token_rows, batch_first=True) if token_rows else torch.zeros(0, 0, dtype=torch.int64)
    targets = [item.targets for item in good if item.targets is not None]
    hypotheses = [item.hypotheses for item in good]
    waveforms = [item.waveform for item in good if item.waveform is not None]
    return Batch(
        ids=[item.id for item in good],
        features=features,
        feature_lens=lens,
        audio_lens=torch.tensor([item.audio_frames for item in good], dtype=torch.int64),
        references=References(tokens, token_lens),
        targets=collate(targets) if targets else None,
        unreadable=unreadable,
        hypotheses=collate_hypotheses(hypotheses) if any(hypotheses) else None,
        arrays={name: pad_sequence([e.arrays[name] for e in good], batch_first=True) for name in good[0].arrays}
        if good
        else {},
        untranscribed=tuple(row for row, item in enumerate(good) if item.tokens is None),
        lead_lens=torch.tensor([item.lead_frames for item in good]) if any(e.lead_frames for e in good) else None,
        waveforms=pad_sequence(waveforms, batch_first=True) if waveforms else None,
        sample_lens=torch.tensor([len(waveform) for waveform in waveforms]) if waveforms else None,
    )


class GlobalBatch(NamedTuple):
    """Sums over the batches of all processes."""

    utterances: int
    frames: int  # encoder frames of the student
    unreadable: list[Unreadable]
    stop: str | None  # the reason to stop after this step, given by any process


def sync_batch(batch: Batch, stop: str | None, ranks: Ranks) -> GlobalBatch:
    """All-reduce the counts of a batch; messages are gathered only where there are any."""
    frames = int(output_lens(batch.feature_lens).sum())
    if ranks.count == 1:
        return GlobalBatch(len(batch.ids), frames, batch.unreadable, stop)
    numbers = torch.tensor([len(batch.ids), frames, len(batch.unreadable), stop is not None])
    ranks.sum(numbers)
    utterances, frames, unreadable, stopping = numbers.tolist()
    rows = [row for rows in ranks.gather(batch.unreadable) for row in rows] if unreadable else []
    reasons = [reason for reason in ranks.gather(stop) if reason is not None] if stopping else [None]
    return GlobalBatch(utterances, frames, rows, reasons[0])
