"""Tune the language model's weight and the word score: decode dev over a grid. The posteriors are computed once."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from asr_kd.decoding.base import Decoder, text_of
from asr_kd.decoding.beam import BeamSearch
from asr_kd.decoding.greedy import GreedyDecoder
from asr_kd.decoding.settings import LARGEST_WEIGHT
from asr_kd.scoring.wer import score
from asr_kd.text.normalize import ScoringNormalizer
from asr_kd.text.vocabulary import Vocabulary

LM_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Weights of log10 probabilities that are tried first."""

WORD_SCORES = (-1.0, 0.0, 1.0, 2.0)
"""Scores of a word that are tried first, nats."""


class DevSet(NamedTuple):
    """Posteriors [T, V] and reference of each utterance."""

    log_probs: dict[str, Tensor]
    references: dict[str, str]


class GridPoint(NamedTuple):
    """A point of the grid and its errors."""

    lm_weight: float
    word_score: float
    errors: int
    wer: float


class Tuning(NamedTuple):
    """Everything that was tried, best first, and what greedy decoding gives."""

    tried: list[GridPoint]
    greedy_wer: float
    words: int

    @property
    def best(self) -> GridPoint:
        return self.tried[0]

    @property
    def is_worse_than_greedy(self) -> bool:
        """Whether the beam search at its best makes more errors on dev than greedy decoding."""
        return self.best.wer > self.greedy_wer

    def lines(self) -> list[str]:
        """A table: weights down, scores across, WER in percent; the best is marked."""
        points = {(item.lm_weight, item.word_score): f"{100 * item.wer:8.2f} " for item in self.tried}
        points[self.best.lm_weight, self.best.word_score] = f"{100 * self.best.wer:8.2f}*"
        weights, scores = (sorted({key[axis] for key in points}) for axis in (0, 1))
        lines = ["lm_weight \\ word_score " + "".join(f"{value:>9g}" for value in scores)]
        for weight in weights:
            lines.append(f"{weight:>22g} " + "".join(points.get((weight, value), " " * 9) for value in scores))
        return lines


def tune(
    search: BeamSearch,
    dev: DevSet,
    normalizer: ScoringNormalizer,
    lm_weights: Sequence[float] = LM_WEIGHTS,
    word_scores: Sequence[float] = WORD_SCORES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuning:
    """Decode dev at every point of the grid, then around the best one at half the distance.

    Of points with as few errors, the one with the smallest weights is taken. Without a language model only the score of
    a word is tuned.
    """
    weights = sorted(set(lm_weights)) if search.settings.lm is not None else [0.0]
    values = sorted(set(word_scores))
    found: dict[tuple[float, float], GridPoint] = {}
    total = len(weights) * len(values) + 8

    def visit(points: Iterable[tuple[float, float]]) -> GridPoint:
        for point in points:
            if point not in found:
                errors, words = _errors(search.reweighted(*point), search.vocabulary, dev, normalizer)
                found[point] = GridPoint(*point, errors, errors / max(words, 1))
                progress(len(found), total)
        return min(found.values(), key=_preference)

    best = visit((weight, value) for weight in weights for value in values)
    around = [_around(weights, best.lm_weight), _around(values, best.word_score)]
    visit(
        (weight, value)
        for weight in around[0]
        for value in around[1]
        if 0 <= weight <= LARGEST_WEIGHT and abs(value) <= LARGEST_WEIGHT
    )
    greedy = _errors(GreedyDecoder(search.vocabulary.blank_id), search.vocabulary, dev, normalizer)
    words = max(greedy[1], 1)
    return Tuning(sorted(found.values(), key=_preference), greedy[0] / words, words)


def _preference(item: GridPoint) -> tuple[int, float, float]:
    return item.errors, item.lm_weight, abs(item.word_score)


def _around(values: Sequence[float], best: float) -> list[float]:
    """The best value, and those half way to its neighbours; beyond an end of the grid as far again."""
    if len(values) < 2:
        return [best]
    index = values.index(best)
    below = best - values[index - 1] if index else values[1] - values[0]
    above = values[index + 1] - best if index + 1 < len(values) else below
    return [best - below / 2, best, best + above / 2]


def _errors(decoder: Decoder, vocabulary: Vocabulary, dev: DevSet, normalizer: ScoringNormalizer) -> tuple[int, int]:
    """Word errors of a decoder on dev, and words of the references."""
    texts = {}
    for utterance_id, frames in dev.log_probs.items():
        [nbest] = decoder.decode(frames.unsqueeze(0), torch.tensor([len(frames)]))
        texts[utterance_id] = text_of(nbest[0], vocabulary)
    found = score(dev.references, texts, normalizer).words
    return found.errors, found.length
