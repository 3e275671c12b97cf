"""The Conformer's named sizes and settings, and its shapes, types and devices where nothing is computed."""

from typing import get_args

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from asr_kd.models.conformer import Conformer
from asr_kd.models.layers import output_lens
from asr_kd.models.settings import SIZES, ConformerSettings, Size, Streaming
from tests.helpers.encoder_streams import SMALL, features


@pytest.mark.parametrize(
    ("size", "vocabulary", "parameters"),
    [
        ("tiny", 29, 935_997),
        ("small", 29, 4_024_205),
        ("medium", 29, 18_833_981),
        ("large", 29, 104_438_685),
        ("5m", 29, 4_991_021),
        ("5m", 500, 5_059_316),
        ("10m", 29, 9_772_957),
        ("10m", 500, 9_848_788),
        ("30m", 29, 29_416_765),
        ("30m", 500, 29_537_812),
    ],
)
def test_named_sizes_have_exactly_these_parameters(size, vocabulary, parameters):
    with torch.device("meta"):
        built = Conformer(ConformerSettings(size=size), vocab_size=vocabulary)
    assert built.num_parameters == parameters
    if size[0].isdigit():  # the name says how many million
        assert parameters == pytest.approx(1e6 * int(size.removesuffix("m")), rel=0.1)


def test_sizes_and_their_names_are_one_list():
    assert set(SIZES) == set(get_args(Size))


def test_a_size_can_be_changed_in_part():
    changed = ConformerSettings(size="tiny", layers=3)
    assert (changed.layers, changed.width) == (3, SIZES["tiny"]["width"])


@pytest.mark.parametrize(("change", "message"), [({"kernel": 4}, "odd"), ({"heads": 3}, "multiple")])
def test_shapes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ConformerSettings(**{**SMALL, **change})


CONTEXTS = [None, Streaming(chunk_frames=4, left_context_frames=8)]


@pytest.mark.parametrize("streaming", CONTEXTS)
def test_operations_are_counted_where_nothing_is_computed(streaming):
    with torch.device("meta"):
        net = Conformer(ConformerSettings(**SMALL, streaming=streaming), vocab_size=11).eval()
    output = net(features(90, 2).to("meta"), torch.tensor([90, 70], device="meta"))
    assert output.log_probs.is_meta
    assert output.log_probs.shape == (2, int(output_lens(torch.tensor([90]))[0]), 11)


@pytest.mark.parametrize("streaming", CONTEXTS)
def test_tensors_of_two_devices_do_not_meet_on_a_gpu(streaming):
    """Shapes, types and devices as on a GPU, also where there is none: mixing devices raises."""
    with FakeTensorMode():
        with torch.device("cuda"):
            net = Conformer(ConformerSettings(**SMALL, streaming=streaming, dropout=0.1), vocab_size=11).train()
        inputs = torch.randn(2, 90, 80, device="cuda")
        output = net(inputs, torch.tensor([90, 70]), inner_layers=(1,), wanted_layers=(2,))
        assert output.log_probs.is_cuda
        assert output.layers[2].is_cuda
        assert output.inner[0].is_cuda


def test_a_masked_first_chunk_has_a_finite_gradient_after_one_step():
    """With all biases at zero, as models begin, it has none: LayerNorms of zeros multiply gradients by 316 each."""
    torch.manual_seed(0)
    settings = ConformerSettings(size="tiny", streaming=Streaming(chunk_frames=4, left_context_frames=8))
    model = Conformer(settings.model_copy(update={"dropout": 0.0}), 10)
    plain, masked = features(200, 2), features(200, 2)
    masked[:, :25] = 0

    def squared_gradient(batch: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        model(batch, torch.full((2,), 200)).log_probs[..., 1].mean().neg().backward()
        return torch.stack([p.grad.square().sum() for p in model.parameters() if p.grad is not None]).sum()

    assert not squared_gradient(masked).isfinite()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    assert squared_gradient(plain).isfinite()
    optimizer.step()
    assert squared_gradient(masked).isfinite()
