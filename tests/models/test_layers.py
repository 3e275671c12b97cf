"""Layers that are written for speed do what the textbook's lines do, and so do their gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asr_kd.models.conformer import ConvolutionModule
from asr_kd.models.layers import (
    RelativeSelfAttention,
    Subsampling,
    attention_mask,
    rotary_table,
    rotate,
)
from asr_kd.models.layout import Layout
from tests.helpers.encoder_streams import features, small_encoder

BATCH, FRAMES, WIDTH, HEADS = 3, 10, 16, 2


def gradients(layer: nn.Module, output: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of every weight, when each output counts differently."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(7))
    found = torch.autograd.grad((output * weights).sum(), list(layer.parameters()))
    return dict(zip(dict(layer.named_parameters()), found, strict=True))


def check(layer: nn.Module, output: torch.Tensor, expected: torch.Tensor) -> None:
    assert output.detach().std() > 1e-3
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients(layer, output), gradients(layer, expected), atol=1e-4, rtol=1e-4)


@pytest.fixture
def hidden():
    torch.manual_seed(0)
    return torch.randn(BATCH, FRAMES, WIDTH)


def test_rotation_turns_pairs_and_keeps_their_distance():
    vectors = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cos, sin = rotary_table(50, WIDTH, torch.device("cpu"))
    turned = rotate(vectors, (cos[3:7], sin[3:7]))
    pairs = torch.complex(*vectors.chunk(2, -1))
    angles = torch.arange(3, 7)[:, None] * 10_000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    expected = pairs * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(
        turned, torch.cat([expected.real, expected.imag], -1), atol=1e-5, rtol=0, check_dtype=False
    )


def test_attention_is_softmax_of_scaled_products(hidden):
    layer, table = RelativeSelfAttention(WIDTH, HEADS), rotary_table(FRAMES, WIDTH // HEADS, torch.device("cpu"))
    allowed = torch.rand(BATCH, 1, FRAMES, FRAMES) < 0.5
    allowed |= torch.eye(FRAMES, dtype=torch.bool)

    def heads(project: nn.Linear) -> torch.Tensor:
        return project(hidden).unflatten(-1, (HEADS, -1)).transpose(1, 2)

    query, key = rotate(heads(layer.query), table), rotate(heads(layer.key), table)
    mixed = F.scaled_dot_product_attention(query, key, heads(layer.value), attn_mask=allowed)
    expected = layer.output(mixed.transpose(1, 2).flatten(2))
    check(layer, layer(hidden, table, attention_mask(allowed)), expected)


@pytest.mark.parametrize("causal", [False, True])
def test_convolution_goes_over_time_within_each_channel(hidden, causal):
    layer = ConvolutionModule(WIDTH, 5, causal)
    lens = torch.full((BATCH,), FRAMES)
    lens[1] = 6
    layout = Layout(lens, FRAMES, None, torch.zeros(1, dtype=torch.int64))
    gated = F.glu(layer.expand(hidden), dim=-1)
    gated[1, 6:] = 0.0
    padded = F.pad(gated.transpose(1, 2), (4, 0) if causal else (2, 2))
    expected = layer.project(F.silu(layer.norm(layer.depthwise(padded).transpose(1, 2))))
    check(layer, layer(hidden, layout), expected)


@pytest.mark.parametrize("frames", [7, 8, 9, 10, 31])
def test_subsampling_in_training_is_what_it_is_afterwards(frames):
    torch.manual_seed(0)
    layer = Subsampling(bins=80, channels=4, width=WIDTH)
    inputs = features(frames, batch=2)
    check(layer, layer.train()(inputs), layer.eval()(inputs))


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_model_in_training_gives_what_it_gives_afterwards(chunk):
    net, inputs, lens = small_encoder(chunk=chunk), features(60, batch=2), torch.tensor([60, 41])
    for module in net.modules():
        if hasattr(module, "probability"):
            module.probability = 0.0
    expected = net(inputs, lens).log_probs
    assert expected.std() > 0.05
    torch.testing.assert_close(net.train()(inputs, lens).log_probs, expected, atol=1e-5, rtol=0)
