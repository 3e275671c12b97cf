"""CTC against the reference tokens (Graves 2006).

Shapes: B utterances, T frames, V vocabulary, U tokens.
"""

import torch
from torch import Tensor

from asr_kd.losses.base import References, StudentOutput, Supervision, Term, Untranscribed
from asr_kd.posteriors.measures import frame_mask


def ctc_loss(log_probs: Tensor, lens: Tensor, references: References, blank_id: int) -> Tensor:
    """−Σ log P(reference | log_probs) over the batch, a float32 scalar; see `ctc_losses`."""
    return ctc_losses(log_probs, lens, references, blank_id).sum()


def ctc_losses(log_probs: Tensor, lens: Tensor, references: References, blank_id: int) -> Tensor:
    """−log P(reference | log_probs) of each utterance, in float32.

    A reference that needs more frames than there are gives infinity, on purpose: see `unalignable`. Utterances without
    transcripts cost nothing.

    Args:
        log_probs: [B, T, V], any float type.
        lens: frames of each utterance, [B].
        references: tokens without blanks; an empty reference stands for blanks only.
        blank_id: the blank's index in V.

    Returns:
        [B], in nats.
    """
    if isinstance(references, Untranscribed):
        return torch.zeros(len(log_probs), device=log_probs.device)
    return torch.nn.functional.ctc_loss(
        log_probs.float().transpose(0, 1),
        references.tokens.long(),
        lens.long().cpu(),  # where torch expects them; those of a batch already are
        references.lens.long().cpu(),
        blank=blank_id,
        reduction="none",
        zero_infinity=False,
    )


def required_frames(references: References) -> Tensor:
    """The fewest frames in which CTC can emit each reference, [B] int64: its tokens, and a blank between repeats."""
    tokens, lens = references
    repeats = (tokens[:, 1:] == tokens[:, :-1]) & frame_mask(lens - 1, max(tokens.shape[1] - 1, 0), tokens.device)
    return lens.long().to(tokens.device) + repeats.sum(1)


def unalignable(lens: Tensor, references: References) -> Tensor:
    """Which utterances have too few frames for their reference, [B] bool; their CTC loss is infinite."""
    return required_frames(references).to(lens.device) > lens


class Ctc(Term):
    """CTC as a term of the weighted sum.

    Args:
        blank_id: the blank's index in the vocabulary.
    """

    needs_references = True

    def __init__(self, blank_id: int) -> None:
        super().__init__()
        self.blank_id = blank_id

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """CTC loss summed over the batch; see `ctc_loss`."""
        if supervision.references is None:
            raise ValueError("CTC needs references")
        return ctc_loss(student.log_probs, student.lens, supervision.references, self.blank_id)
