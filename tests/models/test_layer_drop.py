"""Stochastic depth: which layers are passed by how often, the mean, and nothing of it in evaluation."""

import pytest
import torch
from torch import nn

from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings

SHAPE = {"width": 8, "heads": 2, "feed_forward": 8, "kernel": 3, "subsampling_channels": 2, "dropout": 0.0}


class Adds(nn.Module):
    """A layer that adds a number, so that what comes out counts who was there."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, hidden, table, mask, heard):
        return hidden + self.number


@pytest.fixture
def model() -> Conformer:
    torch.manual_seed(0)
    return Conformer(ConformerSettings(layers=2, **SHAPE), 5)


def counted(model: Conformer, utterances: int) -> dict[int, torch.Tensor]:
    """What each layer added up to, [B]."""
    model.layers = nn.ModuleList([Adds(1.0), Adds(100.0)])
    features = torch.zeros(utterances, 8, 80)
    lens = torch.full((utterances,), 8)
    start = model.subsampling((features - model.mean) * model.inverse_std)
    output = model(features, lens, wanted_layers=(1, 2))
    return {number: (layer - start)[:, 0, 0] for number, layer in output.layers.items()}


def test_layers_are_passed_by_in_proportion_to_their_depth_and_the_others_scaled(model):
    model.layer_drop = 0.4
    model.train()
    added = counted(model, 4_000)
    first, both = added[1].detach(), added[2].detach()
    stays = torch.tensor(1 / 0.8), torch.tensor(100 / 0.6)
    assert all(any(torch.isclose(v, w, atol=1e-3) for w in (torch.tensor(0.0), stays[0])) for v in first.unique())
    assert float((first > 0.5).float().mean()) == pytest.approx(0.8, abs=0.035)
    assert float((both > 50).float().mean()) == pytest.approx(0.6, abs=0.035)
    torch.testing.assert_close(first.mean(), torch.tensor(1.0), atol=0.05, rtol=0)
    torch.testing.assert_close(both.mean(), torch.tensor(101.0), atol=5.0, rtol=0)


def test_nothing_is_passed_by_in_evaluation(model):
    features, lens = torch.randn(3, 40, 80), torch.tensor([40, 30, 20])
    model.eval()
    plain = model(features, lens).log_probs
    model.layer_drop = 0.9
    assert model(features, lens).log_probs.equal(plain)
    model.train()
    assert not model(features, lens).log_probs.equal(plain)


def test_every_parameter_has_a_gradient_when_layers_are_passed_by(model):
    model.layer_drop = 0.9
    model.train()
    model(torch.randn(1, 40, 80), torch.tensor([40])).log_probs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert "layer_drop" not in str(model.settings)
