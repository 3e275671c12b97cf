"""Targets after silence: known answers for posteriors, layers and features."""

import torch

from asr_kd.posteriors.types import (
    DensePosteriors,
    SoftTargets,
    after_blanks,
    after_zeros,
    dense_after_blanks,
    layers_after_zeros,
    without_lead,
)

BLANK = 2


def test_stored_posteriors_follow_certain_blanks():
    given = SoftTargets(torch.tensor([[1, 0], [2, 3]], dtype=torch.int32), torch.tensor([[0.9, 0.0], [0.5, 0.4]]))
    moved = after_blanks(given, 3, BLANK)
    assert moved.tokens.tolist() == [[2, 0], [2, 0], [2, 0], [1, 0], [2, 3]]
    assert moved.tokens.dtype == torch.int32
    torch.testing.assert_close(moved.probs, torch.tensor([[1.0, 0.0]] * 3 + [[0.9, 0.0], [0.5, 0.4]]))


def test_arrays_move_where_they_have_a_row_for_each_frame():
    codes, scale = torch.tensor([[5, 6], [7, 8]], dtype=torch.int8), torch.ones(1, 2)
    assert after_zeros("layer-8", codes, 1).tolist() == [[0, 0], [5, 6], [7, 8]]
    assert after_zeros("layer-8-scale", scale, 1) is scale
    assert after_zeros("pooled", scale, 1) is scale  # of tokens, wherever they are


def test_each_row_of_a_batch_moves_by_its_own_silence():
    log_probs = torch.randn(2, 3, 4).log_softmax(-1)
    moved = dense_after_blanks(DensePosteriors(log_probs, torch.tensor([3, 2])), torch.tensor([0, 2]), BLANK)
    assert moved.lens.tolist() == [3, 4]
    assert torch.equal(moved.log_probs[0, :3], log_probs[0])
    assert torch.equal(moved.log_probs[1, 2:4], log_probs[1, :2])
    assert torch.equal(moved.log_probs[1, :2].exp(), torch.tensor([[0.0, 0.0, 1.0, 0.0]] * 2))
    hidden = torch.randn(2, 3, 5)
    layers = layers_after_zeros(hidden, torch.tensor([1, 0]))
    assert torch.equal(layers[0, 1:4], hidden[0])
    assert torch.equal(layers[1, :3], hidden[1])
    assert not layers[0, 0].any()


def test_features_without_the_silence():
    features = torch.arange(12.0).view(1, 12, 1).expand(2, 12, 3)
    found = without_lead(features, torch.tensor([4, 0]), 6)
    assert found[:, :, 0].tolist() == [[4, 5, 6, 7, 8, 9], [0, 1, 2, 3, 4, 5]]
