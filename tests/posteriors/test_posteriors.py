"""Nucleus and measures: known answers and the bounds that hold for any frame."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.posteriors import SoftTargets, keep_nucleus
from asr_kd.posteriors.measures import (
    argmax_agreement,
    dense_kl,
    entropy,
    frame_mask,
    partition_log_probs,
    sparse_kl,
    tail_divergence,
)

FAST = settings(deadline=None, max_examples=60)
SEEDS = st.integers(0, 10_000)


def random_log_probs(seed: int, vocab_size: int = 11, sharpness: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, 5, vocab_size, generator=generator) * sharpness).log_softmax(-1)


def test_the_nucleus_of_a_known_frame():
    probs = torch.tensor([[[0.02, 0.6, 0.08, 0.3]]])
    for epsilon, max_entries, expected in [
        (0.5, 4, [1]),
        (0.4, 4, [1]),
        (0.39, 4, [1, 3]),
        (0.05, 4, [1, 3, 2]),
        (0.0, 4, [1, 3, 2, 0]),
        (0.0, 9, [1, 3, 2, 0]),
        (0.0, 2, [1, 3]),
    ]:
        kept = keep_nucleus(probs, epsilon, max_entries)
        assert kept.tokens[kept.probs > 0].tolist() == expected
        assert float(kept.tail) == pytest.approx(1 - float(probs[0, 0, expected].sum()), abs=1e-6)
        assert int(kept.argmax()) == 1


@FAST
@given(seed=SEEDS, epsilon=st.floats(0.0, 0.5), max_entries=st.integers(1, 11))
def test_the_nucleus_is_the_smallest_that_holds_enough(seed, epsilon, max_entries):
    probs = random_log_probs(seed).exp()
    kept = keep_nucleus(probs, epsilon, max_entries)
    count = (kept.probs > 0).sum(-1)
    mass = kept.probs.sum(-1)
    assert ((mass >= 1 - epsilon - 1e-6) | (count == min(max_entries, 11))).all()
    without_last = mass - kept.probs.gather(-1, (count - 1).unsqueeze(-1)).squeeze(-1)
    assert ((without_last < 1 - epsilon + 1e-6) | (count == 1)).all()
    assert (kept.probs.diff(dim=-1) <= 0).all(), "by falling probability"
    torch.testing.assert_close(kept.probs, probs.gather(-1, kept.tokens).masked_fill(kept.probs == 0, 0))


@pytest.mark.parametrize(("epsilon", "max_entries"), [(-0.1, 1), (1.0, 1), (0.1, 0)])
def test_a_nucleus_out_of_range_is_refused(epsilon, max_entries):
    with pytest.raises(ValueError, match="must be in"):
        keep_nucleus(torch.ones(1, 1, 1), epsilon, max_entries)


@FAST
@given(seed=SEEDS, k=st.integers(1, 11))
def test_sparse_kl_is_zero_for_equal_and_between_zero_and_the_dense_kl(seed, k):
    teacher, student = random_log_probs(seed), random_log_probs(seed + 1)
    kept = keep_nucleus(teacher.exp(), 0.0, k)
    torch.testing.assert_close(sparse_kl(kept, teacher), torch.zeros(2, 5), atol=1e-5, rtol=0)
    divergence = sparse_kl(kept, student)
    assert (divergence >= -1e-6).all()
    assert (divergence <= dense_kl(teacher, student) + 1e-5).all()
    if k == 11:
        torch.testing.assert_close(divergence, dense_kl(teacher, student))


def test_dense_kl_of_a_known_pair():
    teacher, student = torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[[0.9, 0.1]]]).log()
    assert float(dense_kl(teacher, student)) == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))


def test_filler_entries_change_nothing_whatever_their_token():
    teacher, student = random_log_probs(2), random_log_probs(3)
    kept = keep_nucleus(teacher.exp(), 0.0, 3)
    for filler in (0, 7):
        filled = SoftTargets(
            torch.cat([kept.tokens, torch.full((2, 5, 2), filler)], -1),
            torch.cat([kept.probs, torch.zeros(2, 5, 2)], -1),
        )
        torch.testing.assert_close(sparse_kl(filled, student), sparse_kl(kept, student))


@FAST
@given(seed=SEEDS, k=st.integers(1, 10))
def test_partition_masses_sum_to_one(seed, k):
    log_probs = random_log_probs(seed)
    kept = keep_nucleus(random_log_probs(seed + 1).exp(), 0.0, k)
    inside, outside = partition_log_probs(log_probs, kept)
    torch.testing.assert_close(inside.exp().sum(-1) + outside.exp(), torch.ones(2, 5))


@FAST
@given(seed=SEEDS, k=st.integers(1, 10))
def test_the_tail_divergence_completes_the_partition_by_the_chain_rule(seed, k):
    """KL(q ‖ q with a flat tail) = 0 over the partition + what is lost inside the tail."""
    teacher = random_log_probs(seed)
    kept = keep_nucleus(teacher.exp(), 0.0, k)
    flat = (kept.tail / (11 - k)).unsqueeze(-1).expand(2, 5, 11).scatter(-1, kept.tokens, kept.probs)
    torch.testing.assert_close(tail_divergence(teacher, kept), dense_kl(teacher, flat.log()), atol=1e-5, rtol=1e-4)


def test_entropy_agreement_and_masks_of_known_frames():
    uniform = torch.zeros(1, 1, 8)
    assert float(entropy(uniform)) == pytest.approx(math.log(8))
    certain = torch.tensor([[[0.0, -math.inf]]])
    assert float(entropy(certain)) == 0.0
    log_probs = random_log_probs(4)
    kept = keep_nucleus(log_probs.exp(), 0.3, 3)
    assert argmax_agreement(log_probs, kept).all()
    assert not argmax_agreement(-log_probs, kept).any()
    assert frame_mask(torch.tensor([2, 0, 3]), 3).int().tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
