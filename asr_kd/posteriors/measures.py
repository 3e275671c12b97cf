"""Measures of posteriors: divergences at one or several delays, masses over a partition, entropy, argmax agreement.

Every function is batched and differentiable in its log-probabilities.

Shapes: B utterances, T frames of the student, Q of the teacher, V vocabulary, K kept entries a frame, D delays.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asr_kd.posteriors.types import SoftTargets

LOWEST_LOG_PROB = -1.0e4
"""Stands for the logarithm of 0: finite, so that 0 · log 0 is 0 and no gradient becomes NaN."""
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
