"""Packing: round trip within the stated bounds, frames that sum to 1, collapsed runs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.posteriors import SoftTargets, keep_nucleus
from asr_kd.targets.packing import MAX_RUN, Codec

FAST = settings(deadline=None, max_examples=60)


def posteriors(seed: int, num_frames: int, vocab_size: int, sharpness: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_frames, vocab_size, generator=generator) * sharpness).softmax(-1)


def round_trip(codec: Codec, kept: SoftTargets) -> SoftTargets:
    return codec.unpack(codec.pack(kept.tokens.numpy(), kept.probs.numpy()))


@FAST
@given(
    seed=st.integers(0, 10_000),
    num_frames=st.integers(1, 40),
    vocab_size=st.sampled_from([2, 3, 29, 300]),
    sharpness=st.sampled_from([0.0, 0.5, 3.0, 10.0]),
    epsilon=st.sampled_from([0.0, 0.01, 0.2]),
    max_entries=st.integers(1, 15),
    levels=st.sampled_from([4, 16, 255]),
)
def test_round_trip_stays_within_the_stated_bounds(
    seed, num_frames, vocab_size, sharpness, epsilon, max_entries, levels
):
    codec = Codec(vocab_size, blank_id=0, max_entries=max_entries, certain_blank=0.005, levels=levels)
    probs = posteriors(seed, num_frames, vocab_size, sharpness)
    kept = keep_nucleus(probs, epsilon, max_entries)
    stored = round_trip(codec, kept)

    width = stored.probs.shape[1]
    assert stored.tokens.shape == stored.probs.shape == (num_frames, width)
    total = stored.probs.double().sum(-1) + SoftTargets(*stored).tail
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
    assert (found[:, :1] >= found).all(), "argmax is kept"

    step = math.pi / 2 / levels
    entries = (kept.probs > 0).sum(-1)
    assert (divergence(kept, stored)[~certain] <= 0.65 * step**2 * entries[~certain] + 1e-6).all()


def divergence(kept: SoftTargets, stored: SoftTargets) -> torch.Tensor:
    """KL over the stored partition, [T]."""
    exact = torch.cat([kept.probs, kept.tail[:, None]], -1).double()
    probs = torch.nn.functional.pad(stored.probs, (0, kept.probs.shape[1] - stored.probs.shape[1]))
    found = torch.cat([probs, (1 - probs.sum(-1, keepdim=True)).clamp_min(0)], -1).double()
    return torch.where(exact > 0, exact * (exact.clamp_min(1e-30) / found.clamp_min(1e-30)).log(), 0.0).sum(-1)


@pytest.mark.parametrize("levels", [8, 24, 100])
def test_what_rounding_costs_is_of_second_order_in_the_step(levels):
    """2Δ² for each angle, with errors spread over ±half a step: a sixth of the step's square."""
    codec = Codec(29, 0, 8, certain_blank=0.0, levels=levels)
    kept = keep_nucleus(posteriors(0, 500, 29, 3.0), 0.01, 8)
    entries = float((kept.probs > 0).sum(-1).float().mean())
    lost = float(divergence(kept, round_trip(codec, kept)).mean())
    assert 0 < lost < entries * (math.pi / 2 / levels) ** 2 / 6


@pytest.mark.parametrize("vocab_size", [2, 29, 5000])
@pytest.mark.parametrize("max_entries", [1, 15])
def test_frames_that_know_nothing_survive(vocab_size, max_entries):
    kept = keep_nucleus(torch.full((3, vocab_size), 1 / vocab_size), 0.0, max_entries)
    stored = round_trip(Codec(vocab_size, 1, max_entries, 0.005), kept)
    assert torch.equal(stored.tokens.long(), kept.tokens[:, : stored.tokens.shape[1]])
    assert divergence(kept, stored).max() < 0.02


def test_certainty_survives():
    """Probability exactly 1 on a token leaves the tail less than one step."""
    stored = round_trip(Codec(5000, 0, 15, 0.005), keep_nucleus(torch.eye(5000)[[0, 1, 4999]], 0.01, 15))
    assert stored.tokens[:, 0].tolist() == [0, 1, 4999]
    assert stored.probs.shape == (3, 1)
    assert (stored.probs > 0.999).all()
    assert (stored.probs < 1).all()


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
    torch.testing.assert_close(stored.probs[1:-1, 0], torch.full((length,), 1 - codec.certain_tail))


def test_a_certain_token_that_is_not_blank_is_not_collapsed():
    codec = Codec(4, blank_id=0, max_entries=2, certain_blank=0.01)
    packed = codec.pack(np.array([[1, 0]]), np.array([[1.0, 0.0]], np.float32))
    assert packed.runs.size == 0
    assert codec.unpack(packed).tokens[0, 0] == 1


def test_what_collapsing_costs_at_worst():
    delta = 0.005
    stored = Codec(4, 0, 2, certain_blank=delta).certain_tail
    tails = np.linspace(1e-9, delta, 2000)
    assert (tails * np.log(tails / stored) + (1 - tails) * np.log((1 - tails) / (1 - stored))).max() <= 1.5 * delta


def test_nothing_packs_to_nothing():
    codec = Codec(4, 0, 2, 0.01)
    assert codec.unpack(codec.pack(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32))).tokens.shape == (0, 1)
