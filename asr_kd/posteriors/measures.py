"""Numbers about posteriors: masses over a partition, divergence, entropy, agreement.

Every function is batched and differentiable in its log-probabilities.

Shapes: B utterances, T frames, V vocabulary, K kept entries a frame.
"""

import torch
from torch import Tensor

from asr_kd.posteriors.delayed import LOWEST_LOG_PROB, delayed_dense_kl, delayed_sparse_kl
from asr_kd.posteriors.types import SparsePosteriors


def partition_log_probs(log_probs: Tensor, kept: SparsePosteriors) -> tuple[Tensor, Tensor]:
    """Log-masses of `log_probs` over the entries that `kept` names and one bucket for the rest.

    The bucket is a log-sum-exp over what is outside, not 1 − Σ: it keeps its gradient when the rest is tiny.
    Input in bf16 does not sum to 1; it is normalised again in float32 first.

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


def sparse_kl(teacher: SparsePosteriors, log_probs: Tensor) -> Tensor:
    """KL(teacher ‖ student) over the kept entries and one bucket for the rest, a frame, in nats.

    A lower bound of the KL over the whole vocabulary; 0 exactly when both agree on the kept entries and on the
    tail's total mass; equal to the full KL when every token is kept.

    Args:
        teacher: [B, T, K]; constants.
        log_probs: the student's, [B, T, V], any float type.

    Returns:
        [B, T] float32.
    """
    return delayed_sparse_kl(teacher, log_probs, range(1))[0]


def dense_kl(teacher_log_probs: Tensor, log_probs: Tensor) -> Tensor:
    """KL(teacher ‖ student) over the whole vocabulary, a frame, in nats.

    Args:
        teacher_log_probs: [B, T, V], any float type; normalised here.
        log_probs: the student's, [B, T, V], any float type; normalised here.

    Returns:
        [B, T] float32.
    """
    return delayed_dense_kl(teacher_log_probs, log_probs, range(1))[0]


def tail_divergence(log_probs: Tensor, kept: SparsePosteriors) -> Tensor:
    """What is lost inside the tail: KL of `log_probs` to itself with a flat tail, a frame, in nats, [B, T].

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


def argmax_agreement(log_probs: Tensor, kept: SparsePosteriors) -> Tensor:
    """Whether both have the same most probable token, [B, T] bool."""
    return log_probs.argmax(-1) == kept.argmax()


def frame_mask(lens: Tensor, num_frames: int, device: torch.device | None = None) -> Tensor:
    """True at frames that are not padding, [B, T] bool, for absolute lengths [B]; there, or on a device."""
    return (torch.arange(num_frames, device=lens.device) < lens[:, None]).to(device or lens.device, non_blocking=True)
