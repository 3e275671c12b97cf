"""Words with times and confidences at known answers."""

import math

import pytest
import torch

from asr_kd.decoding.base import NOTHING, Hypothesis, text_of, words_of
from asr_kd.decoding.greedy import GreedyDecoder
from asr_kd.text.vocabulary import Vocabulary

LETTERS = Vocabulary(("<blk>", "▁", "A", "B"))
PIECES = Vocabulary(("<blk>", "▁A", "B", "▁", "▁BA"))


def posteriors(path: list[int], probability: float, size: int) -> torch.Tensor:
    """[1, T, V]: the path's tokens with a probability, the rest shared alike."""
    probs = torch.full((len(path), size), (1 - probability) / (size - 1))
    probs[torch.arange(len(path)), torch.tensor(path)] = probability
    return probs.log().unsqueeze(0)


def test_times_are_those_of_first_and_last_frames():
    path = [0, 2, 2, 0, 3, 0, 1, 1, 0, 3, 3, 3]  # AB, a separator, B
    [[found]] = GreedyDecoder(0).decode(posteriors(path, 0.9, 4), torch.tensor([12]))
    assert text_of(found, LETTERS) == "AB B"
    first, second = words_of(found, LETTERS, 40.0)
    assert (first.text, first.start_seconds, first.end_seconds) == ("AB", 0.04, 0.2)
    assert (second.text, second.start_seconds, second.end_seconds) == ("B", 0.36, 0.48)
    assert words_of(found, LETTERS, 20.0, offset_ms=1000.0)[0].start_seconds == 1.02


def test_confidence_is_the_geometric_mean_of_the_tokens_best_frames():
    log_probs = posteriors([2, 2, 0, 3], 0.5, 4)
    log_probs[0, 1] = torch.tensor([0.05, 0.05, 0.8, 0.1]).log()
    [[found]] = GreedyDecoder(0).decode(log_probs, torch.tensor([4]))
    [word] = words_of(found, LETTERS, 40.0)
    assert word.confidence == pytest.approx(math.sqrt(0.8 * 0.5))
    [[sure]] = GreedyDecoder(0).decode(posteriors([2, 0, 3], 1 - 1e-7, 4), torch.tensor([3]))
    assert words_of(sure, LETTERS, 40.0)[0].confidence == pytest.approx(1.0, abs=1e-5)


def test_subwords_begin_words_and_a_lone_separator_belongs_to_none():
    hypothesis = Hypothesis([1, 2, 3, 4, 2], [0, 2, 4, 6, 8], [1, 2, 5, 6, 9], [-0.1] * 5, 0.0)
    words = words_of(hypothesis, PIECES, 40.0)
    assert [(w.text, w.start_seconds, w.end_seconds) for w in words] == [("AB", 0.0, 0.12), ("BAB", 0.24, 0.4)]
    assert text_of(hypothesis, PIECES) == "AB BAB"


def test_no_tokens_are_no_words():
    assert words_of(NOTHING, LETTERS, 40.0) == []
    assert text_of(NOTHING, LETTERS) == ""
    only_separator = Hypothesis([1], [3], [3], [-0.1], 0.0)
    assert words_of(only_separator, LETTERS, 40.0) == []


def test_words_of_a_lexicon_count_where_tokens_would_be_read_otherwise():
    # The beam left no separator between the words.
    hypothesis = Hypothesis([2, 3, 2], [0, 2, 4], [0, 2, 4], [-0.1] * 3, 0.0, words=("AB", "A"))
    assert text_of(hypothesis, LETTERS) == "AB A"
    assert [(w.text, w.start_seconds) for w in words_of(hypothesis, LETTERS, 40.0)] == [("AB", 0.0), ("A", 0.16)]
