"""Measures of posteriors: divergences at one or several delays, masses over a partition, entropy, argmax agreement;
and their alignment to the tokens of a reference, over which they are pooled.

Every function but `occupancy` is differentiable in its log-probabilities; all are batched.

Shapes: B utterances, T frames of the student, Q of the teacher, V vocabulary, K kept entries a frame, D delays, U
tokens, S = 2U + 1 states: blanks around every token.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from asr_kd.posteriors.types import LOWEST_LOG_PROB, SoftTargets

EXCLUDED = 2 * LOWEST_LOG_PROB
"""Added to a logarithm that must not count beside any other. Adding is faster than filling by bools."""


def delayed_sparse_kl(teacher: SoftTargets, log_probs: Tensor, delays: range) -> Tensor:
    """KL(teacher's frame t ‖ student's frame t + d) over the kept entries and one bucket for the rest, in nats.

    The bucket is a log-sum-exp over what is outside, not 1 − Σ: it keeps its gradient when the rest is tiny.
    Input in bf16 does not sum to 1; it is normalised again in float32 first.

    Args:
        teacher: [B, Q, K]; constants.
        log_probs: the student's, [B, T, V], any float type; T at least Q and the largest delay.
        delays: d, at least 0.

    Returns:
        [D, B, Q] float32.
    """
    probs, tokens = teacher.probs.float(), teacher.tokens.long()
    kept, tail, vocab_size = probs > 0, teacher.tail.float(), log_probs.shape[-1]
    if tokens.shape[-1] >= vocab_size:
        # With every token kept there is no tail: what 1 − Σ leaves then is rounding, not mass.
        tail = torch.where(kept.sum(-1) < vocab_size, tail, 0.0)
    negentropy = torch.special.xlogy(probs, probs).sum(-1) + torch.special.xlogy(tail, tail)
    # Fillers name a token as well, which must not leave the tail for it: what is added there is 0.
    barrier = torch.where(kept, EXCLUDED, 0.0)
    apart = torch.zeros(*tokens.shape[:2], vocab_size, device=log_probs.device).scatter_add_(-1, tokens, barrier)
    cross: Tensor = _CrossEntropies.apply(log_probs, tokens, probs, tail, apart, delays)
    return cross + negentropy


def delayed_dense_kl(teacher_log_probs: Tensor, log_probs: Tensor, delays: range) -> Tensor:
    """KL(teacher's frame t ‖ student's frame t + d) over the whole vocabulary, in nats.

    Args:
        teacher_log_probs: [B, Q, V], any float type; normalised here.
        log_probs: the student's, [B, T, V], any float type; normalised here; T at least Q and the largest delay.
        delays: d, at least 0.

    Returns:
        [D, B, Q] float32.
    """
    probs = teacher_log_probs.float().log_softmax(-1).exp()
    student = log_probs.float().log_softmax(-1).clamp_min(LOWEST_LOG_PROB)
    negentropy = torch.special.xlogy(probs, probs).sum(-1)
    frames = probs.shape[1]
    return torch.stack([negentropy - (probs * student[:, d : d + frames]).sum(-1) for d in delays])


class _CrossEntropies(torch.autograd.Function):
    """−Σ_k q_k·log p_k − q_tail·log p_tail for each delay, [D, B, Q]."""

    @staticmethod
    def forward(
        ctx: Any, log_probs: Tensor, tokens: Tensor, probs: Tensor, tail: Tensor, apart: Tensor, delays: range
    ) -> Tensor:
        student = log_probs.float().log_softmax(-1).clamp_min_(LOWEST_LOG_PROB)
        frames = tokens.shape[1]
        outside, cross = [], []
        for delay in delays:
            shifted = student[:, delay : delay + frames]
            outside.append((shifted + apart).logsumexp(-1))
            cross.append(-(probs * shifted.gather(-1, tokens)).sum(-1).addcmul_(tail, outside[-1]))
        ctx.delays, ctx.dtype = delays, log_probs.dtype
        ctx.save_for_backward(student, tokens, probs, tail, apart, *outside)
        return torch.stack(cross)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, tokens, probs, tail, apart, *outside = ctx.saved_tensors
        frames = tokens.shape[1]
        masses = torch.zeros_like(student)  # Σ over delays of the gradient times the teacher's mass, spread over V
        for delay, weight, rest in zip(ctx.delays, gradient, outside, strict=True):
            spread = (student[:, delay : delay + frames] + apart).sub_(rest[..., None]).exp_()
            spread.mul_((tail * weight)[..., None]).scatter_add_(-1, tokens, probs * weight[..., None])
            masses[:, delay : delay + frames] += spread
        masses.mul_(student > LOWEST_LOG_PROB)  # clamped entries have no gradient
        grad_log_probs = student.exp().mul_(masses.sum(-1, keepdim=True)).sub_(masses)
        return grad_log_probs.to(ctx.dtype), None, None, None, None, None


def partition_log_probs(log_probs: Tensor, kept: SoftTargets) -> tuple[Tensor, Tensor]:
    """Log-masses of `log_probs` over the entries that `kept` names and one bucket for the rest.

    Args:
        log_probs: [B, T, V], any float type.
        kept: names the entries; fillers count as outside.

    Returns:
        Log-masses of the entries [B, T, K] (meaningless at fillers) and of the rest [B, T], float32.
    """
    normalised = log_probs.float().log_softmax(-1).clamp_min(LOWEST_LOG_PROB)
    tokens = kept.tokens.long()
    size = normalised.shape[-1]
    # Fillers are sent to a column of their own, which is cut off again.
    inside = torch.zeros(*normalised.shape[:-1], size + 1, dtype=torch.bool, device=normalised.device)
    inside = inside.scatter(-1, tokens.masked_fill(kept.probs == 0, size), True)[..., :size]
    outside = normalised.masked_fill(inside, LOWEST_LOG_PROB).logsumexp(-1)
    return normalised.gather(-1, tokens), outside


def sparse_kl(teacher: SoftTargets, log_probs: Tensor) -> Tensor:
    """KL(teacher ‖ student) over the kept entries and one bucket for the rest, a frame, in nats.

    A lower bound of the KL over the whole vocabulary; 0 exactly when both agree on the kept entries and on the
    tail's total mass; equal to the full KL when every token is kept. [B, T], as `delayed_sparse_kl` at no delay.
    """
    return delayed_sparse_kl(teacher, log_probs, range(1))[0]


def dense_kl(teacher_log_probs: Tensor, log_probs: Tensor) -> Tensor:
    """KL(teacher ‖ student) over the whole vocabulary, a frame, in nats; [B, T], as `delayed_dense_kl` at no delay."""
    return delayed_dense_kl(teacher_log_probs, log_probs, range(1))[0]


def tail_divergence(log_probs: Tensor, kept: SoftTargets) -> Tensor:
    """Loss inside the tail: KL of `log_probs` to itself with a flat tail, a frame, in nats, [B, T].

    By the chain rule, the KL to the stored frame read with a flat tail is the KL over the partition plus this.
    """
    normalised = log_probs.float().log_softmax(-1).clamp_min(LOWEST_LOG_PROB)
    kept_log, tail_log = partition_log_probs(log_probs, kept)
    kept_terms = (kept_log.exp() * kept_log).masked_fill(kept.probs == 0, 0.0).sum(-1)
    outside_terms = (normalised.exp() * normalised).sum(-1) - kept_terms
    num_outside = (log_probs.shape[-1] - (kept.probs > 0).sum(-1)).clamp_min(1)
    return (outside_terms - tail_log.exp() * (tail_log - num_outside.log())).clamp_min(0.0)


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy of each frame in nats, [B, T], of log-probabilities [B, T, V]."""
    normalised = log_probs.float().log_softmax(-1).clamp_min(LOWEST_LOG_PROB)
    return -(normalised.exp() * normalised).sum(-1)


def argmax_agreement(log_probs: Tensor, kept: SoftTargets) -> Tensor:
    """Return where both have the same most probable token, [B, T] bool."""
    return log_probs.argmax(-1) == kept.argmax()


def frame_mask(lens: Tensor, num_frames: int, device: torch.device | None = None) -> Tensor:
    """True at frames that are not padding, [B, T] bool, for absolute lengths [B]; there, or on a device."""
    return (torch.arange(num_frames, device=lens.device) < lens[:, None]).to(device or lens.device, non_blocking=True)


POOLED = "pooled"
"""Name of posteriors pooled over the tokens of the transcript in a store."""

LEAST_LOG_PROB = -100.0
"""A probability of 0 counts as e to this, the end of float32: alignments that need it are unlikely, not impossible."""


@torch.no_grad()
def occupancy(log_probs: Tensor, lens: Tensor, tokens: Tensor, token_lens: Tensor, blank_id: int) -> Tensor:
    """γ_ut = P(frame t belongs to token u of the reference | reference, posteriors), in float32 and without gradient.

    By CTC's forward and backward variables (Graves 2006, section 4.1). Every place in the reference has its own, unlike
    the gradient of a CTC loss, which adds up places with the same token.

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
