"""Divergences at several delays: those of shifted frames one by one, with the gradients that autograd finds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.posteriors import SoftTargets, keep_nucleus
from asr_kd.posteriors.measures import delayed_dense_kl, delayed_sparse_kl, dense_kl, partition_log_probs


def by_autograd(teacher: SoftTargets, log_probs: torch.Tensor) -> torch.Tensor:
    """The definition: KL over the masses of the partition."""
    kept, outside = partition_log_probs(log_probs, teacher)
    tail = teacher.tail.masked_fill((teacher.probs > 0).sum(-1) >= log_probs.shape[-1], 0.0)
    entries = torch.special.xlogy(teacher.probs, teacher.probs) - teacher.probs * kept
    return entries.sum(-1) + torch.special.xlogy(tail, tail) - tail * outside


def frames_of(seed: int, num_frames: int, vocab_size: int, sharpness: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, num_frames, vocab_size, generator=generator) * sharpness


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    vocab_size=st.sampled_from([2, 5, 40]),
    delays=st.sampled_from([range(1), range(3), range(2, 5)]),
    sharpness=st.sampled_from([0.5, 4.0, 60.0]),
    epsilon=st.sampled_from([0.0, 0.1]),
    entries=st.sampled_from([1, 3, 6]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_equals_each_shift_alone_and_so_does_the_gradient(seed, vocab_size, delays, sharpness, epsilon, entries, dtype):
    teacher = keep_nucleus(frames_of(seed, 4, vocab_size, 3.0).softmax(-1), epsilon, entries)
    given = frames_of(seed + 1, 4 + delays[-1], vocab_size, sharpness).to(dtype)
    ours, theirs = (given.clone().requires_grad_() for _ in range(2))
    found = delayed_sparse_kl(teacher, ours, delays)
    expected = torch.stack([by_autograd(teacher, theirs[:, d : d + 4]) for d in delays])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weights = torch.rand(found.shape, generator=torch.Generator().manual_seed(seed))
    for divergences in (found, expected):
        (divergences * weights).sum().backward()
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=1e-2)


def test_a_gradient_checked_by_finite_differences():
    teacher = keep_nucleus(frames_of(0, 3, 6, 2.0).softmax(-1), 0.05, 3)
    leaf = frames_of(1, 5, 6, 1.0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda given: delayed_sparse_kl(teacher, given, range(3)), leaf, eps=1e-2, atol=2e-2, rtol=2e-2
    )


def test_what_is_beyond_the_lowest_logarithm_is_not_moved():
    """A student that rules out what its teacher says: finite, and the same as cutting off gives."""
    logits = torch.tensor([[[0.0, -3.0e4, -1.0], [0.0, -3.0e4, -2.0e4]]])
    teacher = SoftTargets(torch.tensor([[[1, 0], [1, 0]]]), torch.tensor([[[0.9, 0.0], [0.9, 0.0]]]))
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    found, expected = delayed_sparse_kl(teacher, ours, range(1))[0], by_autograd(teacher, theirs)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("delays", [range(1), range(1, 4)])
def test_dense_divergences_are_those_of_each_shift(delays):
    teacher, given = frames_of(0, 4, 5, 2.0), frames_of(1, 7, 5, 2.0)
    ours, theirs = (given.clone().requires_grad_() for _ in range(2))
    found = delayed_dense_kl(teacher, ours, delays)
    expected = torch.stack([dense_kl(teacher, theirs[:, d : d + 4]) for d in delays])
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_many_delays_keep_no_more_of_the_vocabulary_than_one():
    """What autograd holds on to: numbers that grow with the delays are a few a frame."""
    teacher = keep_nucleus(frames_of(0, 20, 500, 2.0).softmax(-1), 0.05, 4)
    given = frames_of(1, 28, 500, 1.0).requires_grad_()
    held = {}
    for count in (1, 8):
        kept: dict[int, int] = {}

        def note(part: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
            return part

        with torch.autograd.graph.saved_tensors_hooks(note, lambda part: part):
            divergences = delayed_sparse_kl(teacher, given, range(count))
        assert len(divergences) == count
        held[count] = sum(kept.values())
    assert held[1] > given.numel() * 4
    assert held[8] - held[1] == 7 * 2 * 20 * 4
