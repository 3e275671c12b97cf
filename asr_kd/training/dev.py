"""The dev set's hypotheses and loss, gathered from all processes. Knows outputs, not the model that made them.

Shapes: B utterances, T frames, V vocabulary.
"""

from collections.abc import Sequence

from torch import Tensor

from asr_kd.decoding.greedy import greedy
from asr_kd.distributed import Ranks
from asr_kd.losses.base import References
from asr_kd.losses.ctc import ctc_loss
from asr_kd.scoring.wer import score
from asr_kd.text.vocabulary import Vocabulary


class DevScores:
    """What a pass over the dev set gathers.

    Args:
        references: transcripts by id.
        vocabulary: of the model.
        ranks: who reads the dev set, each a part of it.
    """

    def __init__(self, references: dict[str, str], vocabulary: Vocabulary, ranks: Ranks) -> None:
        self.references, self.vocabulary, self.ranks = references, vocabulary, ranks
        self.clear()

    def clear(self) -> None:
        """Begin a pass."""
        self._hypotheses: dict[str, str] = {}
        self._loss, self._frames = 0.0, 0

    def add(self, ids: Sequence[str], log_probs: Tensor, lens: Tensor, references: References) -> Tensor:
        """Take a batch: log-probabilities [B, T, V], lengths [B]; returns its CTC loss a frame."""
        blank_id = self.vocabulary.blank_id
        for id_, tokens in zip(ids, greedy(log_probs, lens, blank_id), strict=True):
            self._hypotheses[id_] = self.vocabulary.decode(tokens)
        loss = ctc_loss(log_probs, lens, references, blank_id)
        self._loss += float(loss)
        self._frames += int(lens.sum())
        return loss.cpu() / lens.sum().cpu()

    def row(self) -> dict[str, float]:
        """Word errors and loss of all processes' parts together; the same on all of them."""
        hypotheses: dict[str, str] = {}
        loss, frames = 0.0, 0
        for theirs, their_loss, their_frames in self.ranks.gather([self._hypotheses, self._loss, self._frames]):
            hypotheses |= theirs
            loss, frames = loss + their_loss, frames + their_frames
        errors = score({id_: self.references[id_] for id_ in hypotheses}, hypotheses, "none")
        return {"dev_wer": errors.wer, "dev_loss": loss / max(frames, 1)}
