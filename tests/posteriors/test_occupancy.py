"""Occupancy: equal to the sum over all alignments, repeats included; invariants; extremes; pooling."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.posteriors.measures import occupancy, pooled_log_probs


def random_log_probs(seed: int, *shape: int, sharpness: float = 2.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * sharpness).log_softmax(-1)


def of(log_probs: torch.Tensor, lens: list[int], references: list[list[int]], blank_id: int = 0) -> torch.Tensor:
    width = max(len(tokens) for tokens in references)
    padded = torch.tensor([tokens + [99] * (width - len(tokens)) for tokens in references]).view(len(references), width)
    return occupancy(log_probs, torch.tensor(lens), padded.long(), torch.tensor([len(t) for t in references]), blank_id)


def brute_force(log_probs: torch.Tensor, tokens: list[int], blank_id: int) -> tuple[torch.Tensor, float]:
    """γ [U, T] and P(reference) by enumerating which place of the reference, or blank (None), each frame says."""
    num_frames = len(log_probs)
    states = [None, *itertools.chain.from_iterable((place, None) for place in range(len(tokens)))]
    gamma, total = torch.zeros(len(tokens), num_frames, dtype=torch.float64), 0.0
    for path in itertools.product(range(len(states)), repeat=num_frames):
        said = [blank_id if states[s] is None else tokens[states[s]] for s in path]
        # Monotonic, every place visited, and what is left after collapsing is the reference.
        places = [states[s] for s, _ in itertools.groupby(path) if states[s] is not None]
        collapsed = [token for token, _ in itertools.groupby(said) if token != blank_id]
        if list(path) != sorted(path) or places != list(range(len(tokens))) or collapsed != tokens:
            continue
        probability = math.exp(sum(float(log_probs[frame, token]) for frame, token in enumerate(said)))
        total += probability
        for frame, state in enumerate(path):
            if states[state] is not None:
                gamma[states[state], frame] += probability
    return (gamma / total if total else gamma), total


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_frames=st.integers(1, 5),
    tokens=st.lists(st.integers(1, 2), max_size=3),
    blank_id=st.sampled_from([0, 3]),
)
def test_equals_the_sum_over_all_alignments(seed, num_frames, tokens, blank_id):
    log_probs = random_log_probs(seed, 1, num_frames, 4)
    found = of(log_probs, [num_frames], [tokens], blank_id)[0]
    expected, total = brute_force(log_probs[0], tokens, blank_id)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    if total and tokens:
        assert (found.sum(1) > 0).all(), "every token of the reference is somewhere"


def test_places_of_equal_tokens_are_told_apart():
    """Two certain spikes of one token, a blank between: the first place has the first, the second the second."""
    log_probs = torch.full((1, 5, 3), -20.0)
    log_probs[0, range(5), [0, 1, 0, 1, 0]] = 0.0
    torch.testing.assert_close(
        of(log_probs, [5], [[1, 1]])[0], torch.tensor([[0.0, 1, 0, 0, 0], [0.0, 0, 0, 1, 0]]), atol=1e-6, rtol=0
    )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), lens=st.lists(st.integers(1, 12), min_size=2, max_size=4), data=st.data())
def test_batching_and_padding_change_nothing_and_frames_say_one_thing(seed, lens, data):
    references = [data.draw(st.lists(st.integers(1, 4), max_size=6)) for _ in lens]
    log_probs = random_log_probs(seed, len(lens), max(lens) + 2, 5)
    whole = of(log_probs, lens, references)
    assert (whole.sum(1) <= 1 + 1e-5).all()
    for row, (length, tokens) in enumerate(zip(lens, references, strict=True)):
        alone = of(log_probs[row : row + 1, :length], [length], [tokens])[0]
        torch.testing.assert_close(whole[row, : len(tokens), :length], alone, atol=1e-4, rtol=1e-3)
        assert not whole[row, len(tokens) :].any()
        assert not whole[row, :, length:].any()


def test_adds_up_to_the_gradient_of_the_ctc_loss():
    """Σ over the places of a token is −∂CTC/∂log p of that token, as autograd has it."""
    log_probs = random_log_probs(3, 2, 40, 6).requires_grad_()
    references = torch.tensor([[1, 1, 2, 5, 5, 5, 3], [4, 2, 2, 4, 1, 0, 0]])
    lens, token_lens = torch.tensor([40, 31]), torch.tensor([7, 5])
    loss = torch.nn.functional.ctc_loss(log_probs.transpose(0, 1), references, lens, token_lens, reduction="sum")
    # torch's gradient takes log-probabilities for normalised: p − γ.
    gradient = torch.autograd.grad(loss, log_probs)[0]
    found = occupancy(log_probs, lens, references, token_lens, 0)
    for row, token in itertools.product(range(2), range(1, 6)):
        places = [u for u in range(int(token_lens[row])) if references[row, u] == token]
        end = int(lens[row])
        expected = (log_probs.exp() - gradient)[row, :end, token]
        torch.testing.assert_close(found[row, places, :end].sum(0), expected, atol=1e-4, rtol=1e-3)


def test_references_that_do_not_fit_occupy_nothing():
    log_probs = random_log_probs(0, 3, 3, 4)
    found = of(log_probs, [3, 2, 3], [[1, 1, 1], [1, 1], [1, 2, 3]])
    assert not found[0].any()
    assert not found[1].any()
    torch.testing.assert_close(found[2], torch.eye(3))


def test_nothing_of_nothing():
    assert of(random_log_probs(0, 2, 3, 4), [3, 2], [[], []]).shape == (2, 0, 3)
    assert of(random_log_probs(0, 1, 0, 4), [0], [[1]]).shape == (1, 1, 0)
    assert not of(random_log_probs(0, 2, 3, 4), [3, 0], [[1], [1]])[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_impossible_symbols_stay_finite(dtype):
    log_probs = torch.full((1, 6, 3), -math.inf, dtype=dtype)
    log_probs[..., 0] = 0.0  # certain blanks: both tokens of the reference have probability 0
    found = of(log_probs, [6], [[1, 2]])
    assert found.isfinite().all()
    torch.testing.assert_close(found[0].sum(1), torch.ones(2), atol=1e-3, rtol=0)
    certain = torch.full((1, 3, 3), -math.inf)
    certain[0, range(3), [1, 0, 2]] = 0.0
    torch.testing.assert_close(of(certain, [3], [[1, 2]])[0], torch.tensor([[1.0, 0, 0], [0, 0, 1]]))


def test_long_utterances_stay_exact():
    """A minute at 40 ms: frames still add up to 1 over tokens and blanks, whatever the magnitude of the logarithms."""
    log_probs = random_log_probs(1, 1, 1500, 30, sharpness=4.0)
    tokens = torch.randint(1, 30, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    found = of(log_probs, [1500], [tokens])[0]
    double = log_probs.double().requires_grad_()
    loss = torch.nn.functional.ctc_loss(
        double.transpose(0, 1), torch.tensor([tokens]), torch.tensor([1500]), torch.tensor([400]), reduction="sum"
    )
    said = (double.exp() - torch.autograd.grad(loss, double)[0])[0, :, 1:].sum(1)
    torch.testing.assert_close(found.sum(0).double(), said, atol=5e-3, rtol=0)


def test_pooled_is_the_weighted_mean():
    log_probs = random_log_probs(2, 2, 7, 5)
    weights = torch.rand(2, 3, 7, generator=torch.Generator().manual_seed(4))
    expected = torch.einsum("but,btv->buv", weights / weights.sum(-1, keepdim=True), log_probs.exp())
    torch.testing.assert_close(pooled_log_probs(log_probs, weights).exp(), expected)


def test_what_is_small_everywhere_keeps_its_gradient():
    logits = torch.tensor([[[0.0, -300.0], [0.0, -200.0]]], requires_grad=True)
    pooled = pooled_log_probs(logits, torch.tensor([[[0.5, 0.5]]]))
    assert float(pooled[0, 0, 1]) == pytest.approx(-200 + math.log(0.5), abs=1e-3)
    pooled[0, 0, 1].backward()
    assert logits.grad[0, 1, 1] == pytest.approx(1.0, abs=1e-3)


def test_a_token_without_frames_and_no_frames_stay_finite():
    logits = random_log_probs(5, 1, 4, 3).requires_grad_()
    pooled = pooled_log_probs(logits, torch.zeros(1, 2, 4))
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert logits.grad.isfinite().all()
    assert pooled_log_probs(torch.zeros(1, 0, 3), torch.zeros(1, 2, 0)).shape == (1, 2, 3)
