"""KL divergences of a student's frames from a teacher's that stand some frames before them, for several delays at once.

What the delays have in common is made once, and of each delay nothing is kept but a number a frame: gradients are
written out instead of kept as [D, B, T, V].

Shapes: B utterances, T frames of the student, Q frames of the teacher, V vocabulary, K kept entries, D delays.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asr_kd.posteriors.types import SparsePosteriors

LOWEST_LOG_PROB = -1.0e4
"""Stands for the logarithm of 0: finite, so that 0 · log 0 is 0 and no gradient becomes NaN."""
OUT_OF_SIGHT = 2 * LOWEST_LOG_PROB
"""Added to a logarithm that must not count beside any other. Adding is faster than filling by bools."""


def delayed_sparse_kl(teacher: SparsePosteriors, log_probs: Tensor, delays: range) -> Tensor:
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
    barrier = torch.where(kept, OUT_OF_SIGHT, 0.0)
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
        asked = torch.zeros_like(student)  # Σ over delays of the gradient times the teacher's mass, spread over V
        for delay, weight, rest in zip(ctx.delays, gradient, outside, strict=True):
            spread = (student[:, delay : delay + frames] + apart).sub_(rest[..., None]).exp_()
            spread.mul_((tail * weight)[..., None]).scatter_add_(-1, tokens, probs * weight[..., None])
            asked[:, delay : delay + frames] += spread
        asked.mul_(student > LOWEST_LOG_PROB)  # what was cut off at the lowest cannot be moved
        given = student.exp().mul_(asked.sum(-1, keepdim=True)).sub_(asked)
        return given.to(ctx.dtype), None, None, None, None, None
