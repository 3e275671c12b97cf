"""KL divergence between teacher and student for each token of the reference, wherever each model emits it.

The posteriors of each model are averaged over the frames that it aligns to a token, by forward–backward over the
reference. So tokens are compared independently of their times, and a streaming student may emit late. The objective is
this project's own; the occupancies are those of CTC (Graves et al. 2006).

Shapes: B utterances, T frames, V vocabulary, U tokens, K kept entries of a token.
"""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import pad

from asr_kd.errors import TrainingError
from asr_kd.losses.base import References, Shape, StudentOutput, Supervision, Term, TermSettings
from asr_kd.losses.frame_kl import check_vocabulary, without_padding
from asr_kd.posteriors.measures import POOLED, dense_kl, occupancy, pooled_log_probs, sparse_kl
from asr_kd.posteriors.types import DensePosteriors, SoftTargets


class PooledKl(Term):
    """Σ_u KL(q̄_u ‖ p̄_u) with q̄_u = Σ_t γ_ut·q_t / Σ_t γ_ut, and p̄_u in the same way with the student's own γ.

    γ are constants in the gradient. A token that one of the models cannot align adds nothing. Blanks between tokens are
    not compared, so it needs CTC or a KL beside it that trains blanks.

    With stored targets q̄ is the store's array `pooled`, [B, U, K, 2]: token and probability of each entry; the rest of
    the probability is the tail; all zero where the teacher could not align. With dense targets it is computed here.
    """

    needs_references = True
    needs_targets = True
    needs_arrays = (POOLED,)
    trains_blanks = False

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """The loss, a float32 scalar.

        Raises:
            TrainingError: the vocabularies differ in size, or the stored posteriors are of other references.
        """
        references, targets = supervision.references, supervision.targets
        if references is None or targets is None:
            raise ValueError("pooled KL needs references and a teacher's posteriors")
        student_pooled, aligned = self._pool(student.log_probs, student.lens, references)
        if isinstance(targets, DensePosteriors):
            check_vocabulary(targets.log_probs, student_pooled)
            teacher_pooled, known = self._pool(*without_padding(targets), references)
            divergence = dense_kl(teacher_pooled, student_pooled)
        else:
            stored = _stored(supervision, student_pooled.shape[1])
            known = stored.probs[..., 0] > 0
            divergence = sparse_kl(stored, student_pooled)
        return divergence.masked_fill(~(aligned & known), 0.0).sum()

    def _pool(self, log_probs: Tensor, lens: Tensor, references: References) -> tuple[Tensor, Tensor]:
        """Pooled log-probabilities [B, U, V], and which tokens have any frames [B, U]."""
        occupied = occupancy(log_probs, lens, references.tokens, references.lens, self.blank_id)
        return pooled_log_probs(log_probs, occupied), occupied.sum(-1) > 0


def _stored(supervision: Supervision, num_tokens: int) -> SoftTargets:
    """The teacher's pooled posteriors from the store, as many tokens as the references have at most."""
    found = supervision.arrays.get(POOLED)
    if found is None:
        raise TrainingError(
            "the batch has no pooled posteriors",
            expected=f"the array {POOLED!r} of the soft-target store",
            remedy="Extract with targets.pooled: true, or set targets: dense",
        )
    missing = num_tokens - found.shape[1]
    if missing < 0:
        raise TrainingError(
            f"pooled posteriors of {found.shape[1]} tokens, references of at most {num_tokens}",
            expected="a store of the same transcripts",
            remedy="Extract again",
        )
    found = pad(found, (0, 0, 0, 0, 0, missing))
    return SoftTargets(found[..., 0].long(), found[..., 1])


class PooledKlSettings(TermSettings):
    """KL to the teacher's posteriors of each token of the transcript, pooled over its frames."""

    term: ClassVar[type[Term]] = PooledKl

    def build(self, shape: Shape) -> Term:
        return PooledKl(shape.blank_id)
