"""N-best: brute force over all paths, the order, the beam, extremes."""

import itertools
import math
import sys
from collections import defaultdict

import pytest
import torch

from asr_kd.decoding.flashlight import NbestDecoder, ScoredTokens
from asr_kd.decoding.greedy import greedy
from asr_kd.errors import MissingExtraError

pytest.importorskip("flashlight")
WIDE = {"beam_size": 2_000, "beam_threshold": 1e4}


def random_posteriors(frames: int, symbols: int, seed: int, batch: int = 1, sharpness: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, frames, symbols, generator=generator) * sharpness).log_softmax(-1)


def collapse(path: tuple[int, ...], blank_id: int) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != blank_id)


def all_sequences(log_probs: torch.Tensor, blank_id: int) -> dict[tuple[int, ...], float]:
    """Every token sequence with its probability, [T, V]."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(log_probs.shape[1]), repeat=log_probs.shape[0]):
        found[collapse(path, blank_id)] += math.exp(sum(float(log_probs[t, token]) for t, token in enumerate(path)))
    return found


def words(tokens: tuple[int, ...] | list[int], separator: int) -> tuple[tuple[int, ...], ...]:
    groups = itertools.groupby(tokens, lambda token: token == separator)
    return tuple(tuple(group) for is_separator, group in groups if not is_separator)


@pytest.mark.parametrize("blank_id", [0, 3])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_wide_beam_gives_every_sequence_its_probability_over_all_paths(blank_id, seed):
    log_probs = random_posteriors(5, 4, seed)
    expected = all_sequences(log_probs[0], blank_id)
    [found] = NbestDecoder(4, blank_id, **WIDE).decode(log_probs, torch.tensor([5]))
    assert {tuple(item.tokens) for item in found} == set(expected)
    for item in found:
        assert math.exp(item.score) == pytest.approx(expected[tuple(item.tokens)], abs=1e-6)
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_with_a_separator_the_words_have_their_probability():
    log_probs, separator = random_posteriors(5, 4, 3), 2
    expected: dict[tuple[tuple[int, ...], ...], float] = defaultdict(float)
    for tokens, probability in all_sequences(log_probs[0], 0).items():
        expected[words(tokens, separator)] += probability
    [items] = NbestDecoder(4, 0, separator, **WIDE).decode(log_probs, torch.tensor([5]))
    found: dict[tuple[tuple[int, ...], ...], float] = defaultdict(float)
    for item in items:
        found[words(item.tokens, separator)] += math.exp(item.score)
    assert found.keys() == expected.keys()
    for key, probability in expected.items():
        assert found[key] == pytest.approx(probability, abs=1e-6)


def test_padding_and_other_utterances_change_nothing():
    log_probs = random_posteriors(9, 5, 4, batch=2)
    decoder = NbestDecoder(5, 0, beam_size=10)
    both = decoder.decode(log_probs, torch.tensor([6, 9]))
    assert both[0] == decoder.decode(log_probs[:1, :6], torch.tensor([6]))[0]
    assert both[1] == decoder.decode(log_probs[1:], torch.tensor([9]))[0]


def test_sharp_posteriors_give_the_best_path_first():
    log_probs = random_posteriors(20, 6, 5, sharpness=30.0)
    [found] = NbestDecoder(6, 0, beam_size=5).decode(log_probs, torch.tensor([20]))
    assert found[0].tokens == greedy(log_probs, torch.tensor([20]), 0)[0].tokens
    assert 1 <= len(found) <= 5


def test_zeros_no_frames_and_what_is_not_a_number():
    log_probs = random_posteriors(4, 3, 6)
    log_probs[..., 2] = -torch.inf
    decoder = NbestDecoder(3, 0, beam_size=4)
    [found] = decoder.decode(log_probs, torch.tensor([4]))
    assert all(math.isfinite(item.score) for item in found)
    assert 2 not in found[0].tokens
    assert decoder.decode(log_probs, torch.tensor([0])) == [[ScoredTokens([], 0.0)]]
    assert decoder.decode(log_probs * torch.nan, torch.tensor([4])) == [[]]


def test_half_precision_is_read():
    log_probs = random_posteriors(6, 4, 7)
    decoder = NbestDecoder(4, 0, beam_size=4)
    [half], [full] = (decoder.decode(x, torch.tensor([6])) for x in (log_probs.bfloat16(), log_probs))
    assert half[0].score == pytest.approx(full[0].score, abs=0.1)


def test_without_flashlight_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio.models.decoder", None)
    with pytest.raises(MissingExtraError, match=r"asr-kd\[lm\]"):
        NbestDecoder(3, 0)
