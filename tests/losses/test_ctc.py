"""CTC: known answers, padding, references that do not fit."""

import itertools
import math

import pytest
import torch

from asr_kd.losses.base import References
from asr_kd.losses.ctc import ctc_loss


def references(*tokens: list[int]) -> References:
    width = max((len(row) for row in tokens), default=0)
    padded = torch.full((len(tokens), width), 1)
    for row, ids in enumerate(tokens):
        padded[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return References(padded, torch.tensor([len(row) for row in tokens]))


def collapse(path: tuple[int, ...], blank_id: int) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token != blank_id]


@pytest.mark.parametrize("tokens", [[], [1], [1, 1], [2, 1], [1, 2, 1]])
@pytest.mark.parametrize("blank_id", [0, 3])
def test_equals_the_sum_over_all_paths(tokens, blank_id):
    tokens = [3 - token for token in tokens] if blank_id == 3 else tokens
    log_probs = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    paths = [path for path in itertools.product(range(4), repeat=4) if collapse(path, blank_id) == tokens]
    assert paths
    total = sum(math.exp(sum(float(log_probs[0, t, token]) for t, token in enumerate(path))) for path in paths)
    loss = ctc_loss(log_probs, torch.tensor([4]), references(tokens), blank_id)
    assert float(loss) == pytest.approx(-math.log(total), abs=1e-5)


def test_is_a_sum_over_the_batch_and_padding_changes_nothing():
    log_probs = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    one = ctc_loss(log_probs[:1, :6], torch.tensor([6]), references([1, 2]), 0)
    two = ctc_loss(log_probs[1:], torch.tensor([9]), references([3, 3, 4]), 0)
    both = ctc_loss(log_probs, torch.tensor([6, 9]), references([1, 2], [3, 3, 4]), 0)
    torch.testing.assert_close(both, one + two)


def test_is_computed_in_float32():
    log_probs = torch.randn(1, 6, 5).log_softmax(-1).bfloat16()
    assert ctc_loss(log_probs, torch.tensor([6]), references([1]), 0).dtype == torch.float32


def test_references_that_need_more_frames_are_told_apart_and_cost_infinity():
    given = references([1, 2, 3], [1, 1], [1, 1, 1], [])
    lens = torch.tensor([3, 3, 4, 1])
    losses = [
        float(
            ctc_loss(
                torch.randn(1, 4, 5).log_softmax(-1), lens[i : i + 1], References(*(x[i : i + 1] for x in given)), 0
            )
        )
        for i in range(4)
    ]
    assert [math.isinf(loss) for loss in losses] == [False, False, True, False]
