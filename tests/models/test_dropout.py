"""Our dropout does what torch's does."""

import torch

from asr_kd.models.layers import Dropout


def test_drops_the_asked_share_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = Dropout(0.25).train()(torch.ones(200_001))
    assert abs((dropped == 0).float().mean() - 0.25) < 0.005
    assert abs(dropped.mean() - 1.0) < 0.01
    assert set(dropped.unique().tolist()) == {0.0, dropped.max().item()}


def test_a_seed_decides_the_mask_and_evaluation_has_none():
    layer, ones = Dropout(0.5).train(), torch.ones(7, 33)
    torch.manual_seed(1)
    first = layer(ones)
    torch.manual_seed(1)
    assert layer(ones).equal(first)
    assert layer.eval()(ones).equal(ones)


def test_gradient_goes_where_the_value_went():
    hidden = torch.ones(1_000, requires_grad=True)
    dropped = Dropout(0.3).train()(hidden)
    dropped.sum().backward()
    assert hidden.grad.equal(dropped.detach())
