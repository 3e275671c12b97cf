"""Packing: round trip within the stated bounds, frames that sum to 1, collapsed runs, bits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.posteriors import SparsePosteriors, keep_nucleus
from asr_kd.targets.packing import MAX_RUN, Codec, StoredTargets, pack_bits, unpack_bits

FAST = settings(deadline=None, max_examples=60)


def posteriors(seed: int, num_frames: int, vocab_size: int, sharpness: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_frames, vocab_size, generator=generator) * sharpness).softmax(-1)


def round_trip(codec: Codec, kept: SparsePosteriors) -> StoredTargets:
    return codec.unpack(codec.pack(kept.tokens.numpy(), kept.probs.numpy()))


@FAST
@given(
    seed=st.integers(0, 10_000),
    num_frames=st.integers(1, 40),
    vocab_size=st.sampled_from([2, 3, 29, 300]),
    sharpness=st.sampled_from([0.0, 0.5, 3.0, 10.0]),
    epsilon=st.sampled_from([0.0, 0.01, 0.2]),
    max_entries=st.integers(1, 15),
)
def test_round_trip_stays_within_the_stated_bounds(seed, num_frames, vocab_size, sharpness, epsilon, max_entries):
    codec = Codec(vocab_size, blank_id=0, max_entries=max_entries, certain_blank=0.005)
    probs = posteriors(seed, num_frames, vocab_size, sharpness)
    kept = keep_nucleus(probs, epsilon, max_entries)
    stored = round_trip(codec, kept)

    width = stored.probs.shape[1]
    assert stored.tokens.shape == stored.probs.shape == (num_frames, width)
    total = stored.probs.double().sum(-1) + SparsePosteriors(*stored).tail
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)
    certain = (kept.tokens[:, 0] == 0) & (kept.probs[:, 0] >= 1 - codec.certain_blank)
    assert (stored.tokens[certain, 0] == 0).all()
    torch.testing.assert_close(
        1 - stored.probs[certain, 0], torch.full((int(certain.sum()),), codec.certain_tail), atol=1e-6, rtol=0
    )

    assert not kept.probs[~certain, width:].any(), "no kept entry may be lost"
    tokens, exact, found = kept.tokens[~certain, :width], kept.probs[~certain, :width], stored.probs[~certain]
    alive = exact > 0
    assert torch.equal(found > 0, alive)
    assert torch.equal(stored.tokens[~certain].long()[alive], tokens[alive])
    error = (found[:, 1:].clamp_min(1e-30).log() - exact[:, 1:].clamp_min(codec.floor).log()).abs()
    assert (error[alive[:, 1:]] <= codec.step * 1.001).all()
    assert (found[:, 0] >= found[:, 1:].max(-1).values if width > 1 else found[:, 0] > 0).all(), "argmax is kept"
    rest = (1 - exact[:, 0]).clamp_min(codec.floor)
    assert ((found[:, 0] - exact[:, 0]).abs() <= rest * codec.step * 1.05 + width * codec.floor + 1e-6).all()


def test_the_fraction_of_a_nat_that_rounding_costs():
    """KL of a frame to its stored self is of second order in the step."""
    codec = Codec(29, 0, 8, certain_blank=0.0)
    probs = posteriors(0, 500, 29, 3.0)
    kept = keep_nucleus(probs, 0.01, 8)
    stored = SparsePosteriors(*round_trip(codec, kept))
    exact = torch.cat([kept.probs, kept.tail[:, None]], -1).double()
    found = torch.cat([stored.probs, stored.tail[:, None]], -1).double()
    kl = torch.where(exact > 0, exact * (exact.clamp_min(1e-30) / found.clamp_min(1e-30)).log(), 0.0).sum(-1)
    assert kl.mean() < codec.step**2
    assert kl.mean() > 0


@pytest.mark.parametrize("length", [1, 2, MAX_RUN - 1, MAX_RUN, MAX_RUN + 1, 3 * MAX_RUN + 7])
def test_certain_blanks_collapse_to_runs(length):
    codec = Codec(4, blank_id=3, max_entries=2, certain_blank=0.01)
    tokens = np.array([[1, 0]] + [[3, 0]] * length + [[2, 3]])
    probs = np.array([[0.9, 0.0]] + [[0.995, 0.0]] * length + [[0.6, 0.4]], dtype=np.float32)
    packed = codec.pack(tokens, probs)
    assert packed.runs.astype(int).sum() == length
    assert len(packed.runs) == math.ceil(length / MAX_RUN)
    assert packed.events.tolist() == [1] + [0] * len(packed.runs) + [2]
    assert len(packed.tokens) == len(packed.codes) == 3
    stored = codec.unpack(packed)
    assert stored.tokens[:, 0].tolist() == [1] + [3] * length + [2]
    torch.testing.assert_close(stored.probs[1:-1, 0], torch.full((length,), 1 - 0.01 / math.e))


def test_a_certain_token_that_is_not_blank_is_not_collapsed():
    codec = Codec(4, blank_id=0, max_entries=2, certain_blank=0.01)
    packed = codec.pack(np.array([[1, 0]]), np.array([[1.0, 0.0]], np.float32))
    assert packed.runs.size == 0
    assert codec.unpack(packed).tokens[0, 0] == 1


def test_the_constant_for_collapsed_blanks_has_the_least_worst_case():
    delta = 0.05
    tails = np.linspace(1e-9, delta, 2000)

    def worst(stored: float) -> float:
        return (tails * np.log(tails / stored) + (1 - tails) * np.log((1 - tails) / (1 - stored))).max()

    ours = worst(Codec(4, 0, 2, certain_blank=delta).certain_tail)
    assert ours <= delta / math.e * 1.05
    assert ours <= min(worst(delta * share) for share in np.linspace(0.05, 1, 96)) * 1.03


def test_nothing_packs_to_nothing():
    codec = Codec(4, 0, 2, 0.01)
    assert codec.unpack(codec.pack(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32))).tokens.shape == (0, 1)


@FAST
@given(
    width=st.integers(1, 20),
    values=st.lists(st.integers(0, 2**20 - 1), max_size=30),
    first=st.integers(0, 30),
    count=st.integers(0, 30),
)
def test_any_stretch_of_packed_bits_comes_back(width, values, first, count):
    array = np.array([value % 2**width for value in values], np.int64)
    first = min(first, len(array))
    count = min(count, len(array) - first)
    packed = pack_bits(array, width)
    assert len(packed) == math.ceil(len(array) * width / 8)
    bits = first * width
    found = unpack_bits(packed[bits // 8 :], width, bits % 8, count)
    assert found.tolist() == array[first : first + count].tolist()
