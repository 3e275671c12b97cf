"""Best-path decoding against a definition written as a plain loop, and what padding and chunks must not change."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.decoding.greedy import StreamingGreedy, greedy

VOCAB_SIZE = 4
paths = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=30)


def log_probs_of(path: list[int]) -> torch.Tensor:
    """Log-probabilities [T, V] whose best path is `path`."""
    ids = torch.tensor(path, dtype=torch.long)
    return (torch.nn.functional.one_hot(ids, VOCAB_SIZE).float() * 5.0).log_softmax(-1)


def collapse(path: list[int], blank_id: int) -> tuple[list[int], list[int]]:
    """The definition: keep a token where it differs from the frame before and is not blank."""
    kept = [(token, t) for t, token in enumerate(path) if token != blank_id and (t == 0 or path[t - 1] != token)]
    return [token for token, _ in kept], [t for _, t in kept]


@pytest.mark.parametrize(
    ("path", "tokens"),
    [([0, 1, 1, 0, 1, 2], [1, 1, 2]), ([1, 1, 1], [1]), ([0, 0, 0], []), ([3, 0, 3], [3, 3]), ([], [])],
)
def test_known_answers(path, tokens):
    log_probs = log_probs_of(path).reshape(1, len(path), VOCAB_SIZE)
    assert [found.tokens for found in greedy(log_probs, torch.tensor([len(path)]), blank_id=0)] == [tokens]


@given(batch=st.lists(paths, min_size=1, max_size=5), blank_id=st.integers(0, VOCAB_SIZE - 1), seed=st.integers(0, 99))
def test_a_padded_batch_equals_the_definition(batch, blank_id, seed):
    longest = max(map(len, batch)) + 2
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(len(batch), longest, VOCAB_SIZE, generator=generator)  # noise in the padding
    for row, path in enumerate(batch):
        log_probs[row, : len(path)] = log_probs_of(path)
    alignments = greedy(log_probs, torch.tensor([len(path) for path in batch]), blank_id)
    assert [(a.tokens, a.frames) for a in alignments] == [collapse(path, blank_id) for path in batch]


@given(path=paths, cuts=st.lists(st.integers(0, 30), max_size=6), blank_id=st.integers(0, VOCAB_SIZE - 1))
def test_every_way_to_cut_a_stream_gives_the_offline_result(path, cuts, blank_id):
    log_probs = log_probs_of(path)
    decoder = StreamingGreedy(blank_id)
    borders = [0, *sorted(min(cut, len(path)) for cut in cuts), len(path)]
    for start, end in itertools.pairwise(borders):
        decoder.accept(log_probs[start:end])
    [found] = decoder.nbest()
    assert (found.tokens, found.frames) == collapse(path, blank_id)
    assert decoder.num_frames == len(path)
    trailing = next((n for n, token in enumerate(reversed(path)) if token != blank_id), len(path))
    assert decoder.trailing_blanks == trailing


def test_a_reset_stream_remembers_nothing():
    decoder = StreamingGreedy(blank_id=0)
    decoder.accept(log_probs_of([1, 2]))
    decoder.reset()
    decoder.accept(log_probs_of([2, 0]))
    [found] = decoder.nbest()
    assert (found.tokens, found.frames, decoder.trailing_blanks) == ([2], [0], 1)


@pytest.mark.parametrize(
    ("lens", "blank_id", "message"), [([3], 0, "0 to 2"), ([-1], 0, "0 to 2"), ([2], 4, "vocabulary"), ([1, 1], 0, "B")]
)
def test_lengths_and_blanks_that_do_not_fit_are_refused(lens, blank_id, message):
    with pytest.raises(ValueError, match=message):
        greedy(torch.zeros(1, 2, VOCAB_SIZE), torch.tensor(lens), blank_id)


def test_a_stream_refuses_another_shape():
    with pytest.raises(ValueError, match="expected"):
        StreamingGreedy(0).accept(torch.zeros(1, 2, VOCAB_SIZE))
