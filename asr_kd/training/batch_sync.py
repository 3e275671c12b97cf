"""What the processes of a training run tell each other before a step, so that all of them do the same."""

from typing import NamedTuple

import torch

from asr_kd.distributed import Ranks
from asr_kd.models.subsampling import output_lens
from asr_kd.training.data import Batch, Unreadable


class GlobalBatch(NamedTuple):
    """The global batch as all processes know it."""

    utterances: int
    frames: int  # of the student
    unreadable: list[Unreadable]
    stop: str | None  # the reason to stop after this step: any process' is everyone's


def sync_batch(batch: Batch, stop: str | None, ranks: Ranks) -> GlobalBatch:
    """Make one of our share of a batch and everyone else's: one small sum, and words only where there are any."""
    frames = int(output_lens(batch.feature_lens).sum())
    if ranks.count == 1:
        return GlobalBatch(len(batch.ids), frames, batch.unreadable, stop)
    numbers = torch.tensor([len(batch.ids), frames, len(batch.unreadable), stop is not None])
    ranks.sum(numbers)
    utterances, frames, unreadable, stopping = numbers.tolist()
    rows = [row for rows in ranks.gather(batch.unreadable) for row in rows] if unreadable else []
    reasons = [reason for reason in ranks.gather(stop) if reason is not None] if stopping else [None]
    return GlobalBatch(utterances, frames, [Unreadable(*row) for row in rows], reasons[0])
