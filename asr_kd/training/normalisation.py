"""Mean and standard deviation of the training corpus' features, a number a mel bin."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import AudioError, TrainingError
from asr_kd.features.fbank import fbank

SAMPLE = 1000
"""Utterances measured, spread over the corpus: the statistics of an hour of speech move no more."""


def measure_normalisation(utterances: Sequence[Utterance], seed: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, [F] float32 each, over a random sample; what cannot be read is passed over.

    Passing over is safe: the same utterances are named and counted when training reads them.

    Raises:
        TrainingError: none of them can be read.
    """
    order = np.random.default_rng(seed).permutation(len(utterances))[:SAMPLE]
    count, total, squares = 0, torch.zeros(80, dtype=torch.float64), torch.zeros(80, dtype=torch.float64)
    for index in order:
        try:
            features = fbank(read_utterance(utterances[index])).double()
        except AudioError:
            continue
        count += features.shape[0]
        total += features.sum(0)
        squares += features.square().sum(0)
    if count == 0:
        raise TrainingError(
            "none of the training utterances can be read", remedy="Look at the corpus with `asr-kd check`"
        )
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()
