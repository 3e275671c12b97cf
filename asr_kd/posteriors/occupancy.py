"""Occupancy: alignment of frames to the tokens of a reference by CTC's forward–backward, and posteriors pooled by it.

Source: Graves 2006, section 4.1 (forward and backward variables). Exact for repeated tokens as well: every place in the
reference has its own occupancy, unlike the gradient of a CTC loss, which adds up places with the same token.

Shapes: B utterances, T frames, V vocabulary, U tokens, S = 2U + 1 states: blanks around every token.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from asr_kd.posteriors.measures import LOWEST_LOG_PROB, frame_mask

POOLED = "pooled"
"""Name of posteriors pooled over the tokens of the transcript in a store."""

LEAST_LOG_PROB = -100.0
"""A probability of 0 counts as e to this, the end of float32: alignments that need it are unlikely, not impossible."""


@torch.no_grad()
def occupancy(log_probs: Tensor, lens: Tensor, tokens: Tensor, token_lens: Tensor, blank_id: int) -> Tensor:
    """γ_ut = P(frame t belongs to token u of the reference | reference, posteriors), in float32 and without gradient.

    Args:
        log_probs: [B, T, V], any float type; normalised here.
        lens: frames of each utterance, [B].
        tokens: references, [B, U], padded with anything.
        token_lens: [B].
        blank_id: the blank's index in V.

    Returns:
        [B, U, T]; 0 at padding, and everywhere for a reference that needs more frames than there are.
    """
    normalised = log_probs.float().log_softmax(-1).clamp_min(LEAST_LOG_PROB)
    batch, num_frames, num_tokens = *normalised.shape[:2], tokens.shape[1]
    if batch == 0 or num_frames == 0 or num_tokens == 0:
        return normalised.new_zeros(batch, num_tokens, num_frames)
    counts, tokens = (lens.tolist(), token_lens.tolist()), tokens.long()
    lens, token_lens = (each.to(normalised.device, non_blocking=True).long() for each in (lens, token_lens))
    in_reference = frame_mask(token_lens, num_tokens)
    tokens = tokens.masked_fill(~in_reference, (blank_id + 1) % normalised.shape[-1])
    frames, places = _reversal(lens, num_frames), _reversal(token_lens, num_tokens)
    states = _reversal(2 * token_lens + 1, 2 * num_tokens + 1)
    forward, cost = _forward(normalised, tokens, counts, blank_id)
    # The backward variables are the forward ones of everything read from its end.
    mirrored = normalised.gather(1, frames[..., None].expand_as(normalised))
    backward, _ = _forward(mirrored, tokens.gather(1, places), counts, blank_id)
    backward = backward.gather(1, frames[..., None].expand_as(backward))
    backward = backward.gather(2, states[:, None].expand_as(backward))
    labels = torch.full((batch, 2 * num_tokens + 1), blank_id, device=tokens.device)
    labels[:, 1::2] = tokens
    own = normalised.gather(2, labels[:, None].expand(-1, num_frames, -1))  # counted on both sides
    inside = frame_mask(2 * token_lens + 1, 2 * num_tokens + 1)[:, None] & frame_mask(lens, num_frames)[..., None]
    together = torch.where(inside, forward + backward - own, -torch.inf).softmax(-1)
    reachable = inside & (cost != torch.inf)[:, None, None]
    return torch.where(reachable, together, 0.0)[..., 1::2].transpose(1, 2)


def pooled_log_probs(log_probs: Tensor, occupied: Tensor) -> Tensor:
    """log (Σ_t γ_ut · p_t / Σ_t γ_ut): the mean posterior over the frames of each token.

    Args:
        log_probs: [B, T, V], any float type; normalised here; the gradient goes through them.
        occupied: γ [B, U, T].

    Returns:
        [B, U, V] float32; meaningless where a token occupies nothing.
    """
    normalised = log_probs.float().log_softmax(-1).clamp_min(LOWEST_LOG_PROB)
    if normalised.shape[1] == 0:
        return normalised.new_zeros(*occupied.shape[:2], normalised.shape[-1])
    tiny = torch.finfo(torch.float32).tiny
    weights = occupied / occupied.sum(-1, keepdim=True).clamp_min(tiny)
    # Relative to each symbol's largest probability, or those that are small everywhere would vanish.
    largest = normalised.detach().amax(1, keepdim=True)
    return torch.bmm(weights, (normalised - largest).exp()).clamp_min(tiny).log() + largest


def _forward(
    log_probs: Tensor, tokens: Tensor, counts: tuple[list[int], list[int]], blank_id: int
) -> tuple[Tensor, Tensor]:
    """Forward variables α [B, T, S], undefined at padding, and −log P(reference) [B]; what torch's CTC loss keeps.

    `counts` are the frames and the tokens of each utterance.
    """
    cost, alpha = torch._ctc_loss(log_probs.transpose(0, 1), tokens, *counts, blank_id, False)
    return pad(alpha, (0, 2 * tokens.shape[1] + 1 - alpha.shape[-1])), cost


def _reversal(lens: Tensor, size: int) -> Tensor:
    """Indices [B, size] that turn the first `lens` of a row around and leave the rest."""
    index = torch.arange(size, device=lens.device).expand(len(lens), size)
    return torch.where(index < lens[:, None], lens[:, None] - 1 - index, index)
