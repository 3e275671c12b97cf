"""Scores of a pass over the dev set during training.

Shapes: B utterances, T' encoder frames, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from asr_kd.decoding.greedy import greedy
from asr_kd.distributed import Ranks
from asr_kd.losses.base import References
from asr_kd.losses.ctc import ctc_losses
from asr_kd.scoring.wer import score
from asr_kd.text.vocabulary import Vocabulary


class DevScores:
    """Hypotheses and loss of one pass over the dev set, of which each process evaluates a part."""

    def __init__(self, references: dict[str, str], vocabulary: Vocabulary, ranks: Ranks) -> None:
        self.references, self.vocabulary, self.ranks = references, vocabulary, ranks
        self.clear()

    def clear(self) -> None:
        self._hypotheses: dict[str, str] = {}
        self._loss, self._frames = 0.0, 0

    def add(self, ids: Sequence[str], log_probs: Tensor, lens: Tensor, references: References) -> Tensor:
        """Add a batch: log-probabilities [B, T', V], lengths [B] in encoder frames.

        A transcript that needs more frames than there are has no finite loss and counts for the WER only.

        Returns:
            Its CTC loss in nats per encoder frame, a scalar on the CPU.
        """
        blank_id = self.vocabulary.blank_id
        for id_, hypothesis in zip(ids, greedy(log_probs, lens, blank_id), strict=True):
            self._hypotheses[id_] = self.vocabulary.decode(hypothesis.tokens)
        losses = ctc_losses(log_probs, lens, references, blank_id).cpu()
        possible = losses != torch.inf
        loss, frames = losses[possible].sum(), int(lens.cpu()[possible].sum())
        self._loss += float(loss)
        self._frames += frames
        return loss / max(frames, 1)

    def row(self) -> dict[str, float]:
        """Return WER and loss over the parts of all processes; the same in each of them."""
        hypotheses: dict[str, str] = {}
        loss, frames = 0.0, 0
        for part, part_loss, part_frames in self.ranks.gather([self._hypotheses, self._loss, self._frames]):
            hypotheses |= part
            loss, frames = loss + part_loss, frames + part_frames
        errors = score({id_: self.references[id_] for id_ in hypotheses}, hypotheses, "none")
        return {"dev_wer": errors.wer, "dev_loss": loss / max(frames, 1)}
