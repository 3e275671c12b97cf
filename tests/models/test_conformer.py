"""The Conformer's invariants: streamed = offline, no look-ahead beyond the chunk, padding changes nothing."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from asr_kd.models.acoustic_model import StreamState
from asr_kd.models.conformer import Conformer
from asr_kd.models.layers import feature_frames_for, output_lens
from asr_kd.models.settings import SIZES, ConformerSettings, Context, Size, Streaming

SMALL = {"width": 32, "layers": 2, "heads": 2, "feed_forward": 32, "kernel": 5, "subsampling_channels": 4}


def model(chunk: int | None = 4, left: int = 6, seed: int = 0) -> Conformer:
    torch.manual_seed(seed)
    streaming = Streaming(chunk_frames=chunk, left_context_frames=left) if chunk else None
    built = Conformer(ConformerSettings(**SMALL, streaming=streaming), vocab_size=11).eval()
    built.set_normalisation(torch.full((80,), -5.0), torch.full((80,), 2.0))
    return built


def features(frames: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, frames, 80, generator=torch.Generator().manual_seed(seed)) * 2 - 5


@torch.no_grad()
def stream(net: Conformer, inputs: torch.Tensor, chunk: int, left: int) -> torch.Tensor:
    state, outputs = net.initial_state(inputs.shape[0], left), []
    for begin in range(0, inputs.shape[1] - feature_frames_for(chunk) + 1, 4 * chunk):
        log_probs, state = net.stream_step(inputs[:, begin : begin + feature_frames_for(chunk)], state)
        outputs.append(log_probs)
    return torch.cat(outputs, dim=1)


@torch.no_grad()
def offline(net: Conformer, inputs: torch.Tensor, context: Context | None = None) -> torch.Tensor:
    lens = torch.full((inputs.shape[0],), inputs.shape[1])
    return net(inputs, lens, context).log_probs


@given(chunk=st.integers(1, 9), left=st.integers(1, 20), chunks=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_streamed_equals_offline(chunk, left, chunks, seed):
    net = model(chunk, left, seed)
    inputs = features(feature_frames_for(chunk * chunks), batch=2, seed=seed)
    torch.testing.assert_close(stream(net, inputs, chunk, left), offline(net, inputs), atol=1e-5, rtol=0)


def test_one_model_streams_with_other_chunks_than_its_own():
    net = model(chunk=4, left=6)
    inputs = features(feature_frames_for(24))
    context = Context(8, 12)
    torch.testing.assert_close(stream(net, inputs, *context), offline(net, inputs, context), atol=1e-5, rtol=0)
    assert not torch.allclose(offline(net, inputs), offline(net, inputs, context), atol=1e-3), "the context is ignored"


def test_later_input_never_changes_earlier_output():
    net = model(chunk=4)
    inputs = features(feature_frames_for(24))
    changed = inputs.clone()
    changed[:, feature_frames_for(12) :] += 3.0
    before, after = offline(net, inputs), offline(net, changed)
    torch.testing.assert_close(before[:, :12], after[:, :12], atol=1e-6, rtol=0)
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-3)


def test_full_context_hears_the_future():
    net = model(chunk=None)
    inputs = features(100)
    changed = inputs.clone()
    changed[:, -8:] += 3.0
    assert not torch.allclose(offline(net, inputs)[:, 0], offline(net, changed)[:, 0], atol=1e-4)


def test_attention_forgets_what_lies_beyond_the_left_context():
    """With a convolution of kernel 5 and two layers, the distant past reaches a chunk through attention alone."""
    net = model(chunk=4, left=4)
    inputs = features(feature_frames_for(48))
    changed = inputs.clone()
    changed[:, :20] += 3.0
    torch.testing.assert_close(offline(net, inputs)[:, -8:], offline(net, changed)[:, -8:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("chunk", [4, None])
def test_padding_and_company_change_nothing(chunk):
    net = model(chunk)
    short, long = features(61, seed=1), features(160, seed=2)
    batch = torch.full((2, 160, 80), 7.0)
    batch[0, :61], batch[1] = short[0], long[0]
    with torch.no_grad():
        together = net(batch, torch.tensor([61, 160]))
    for row, alone in enumerate((short, long)):
        expected = offline(net, alone)[0]
        assert together.lens[row] == expected.shape[0]
        torch.testing.assert_close(together.log_probs[row, : expected.shape[0]], expected, atol=1e-5, rtol=0)


def test_a_reset_stream_equals_a_fresh_one_beside_a_running_one():
    net, chunk = model(chunk=4, left=6), 4
    inputs = features(feature_frames_for(16), batch=2)
    state = net.initial_state(2)
    with torch.no_grad():
        for begin in range(0, 32, 16):
            _, state = net.stream_step(inputs[:, begin : begin + 19], state)
        reset = StreamState(
            [key * torch.tensor([0.0, 1.0]).view(1, 2, 1) for key in state.keys],
            [value * torch.tensor([0.0, 1.0]).view(1, 2, 1) for value in state.values],
            [conv * torch.tensor([0.0, 1.0]).view(2, 1, 1) for conv in state.convs],
            state.processed * torch.tensor([0, 1]),
        )
        mixed, _ = net.stream_step(inputs[:, 32:51], reset)
        fresh, _ = net.stream_step(inputs[:1, 32:51], net.initial_state(1))
    torch.testing.assert_close(mixed[:1], fresh, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[1:], stream(net, inputs[1:], chunk, 6)[:, 8:12], atol=1e-5, rtol=0)


@given(frames=st.integers(0, 400))
def test_output_length_is_what_comes_out(frames):
    expected = int(output_lens(torch.tensor(frames)))
    if frames >= 7:
        assert offline(model(), features(frames)).shape[1] == expected
    else:
        assert expected == 0
    if expected:
        assert feature_frames_for(expected) <= frames < feature_frames_for(expected + 1)


def test_training_step_is_finite_with_padding():
    net = model(chunk=4).train()
    output = net(features(160, batch=2), torch.tensor([40, 160]))
    output.log_probs.exp().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_inner_layers_go_through_the_head_and_change_nothing_else():
    net, inputs = model(), features(80)
    with torch.no_grad():
        plain = net(inputs, torch.tensor([80]))
        output = net(inputs, torch.tensor([80]), inner_layers=(1, 2))
    assert output.log_probs.equal(plain.log_probs)
    assert plain.inner == ()
    assert len(output.inner) == 2
    assert not torch.allclose(output.inner[0], output.log_probs)
    torch.testing.assert_close(output.inner[1], output.log_probs)  # the last layer is the output


def test_rows_are_distributions():
    total = offline(model(), features(80)).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_full_context_model_has_no_stream():
    with pytest.raises(ValueError, match="streaming"):
        model(chunk=None).initial_state(1)


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
        heard = torch.randn(2, 90, 80, device="cuda")
        output = net(heard, torch.tensor([90, 70]), inner_layers=(1,), wanted_layers=(2,))
        assert output.log_probs.is_cuda
        assert output.layers[2].is_cuda
        assert output.inner[0].is_cuda
