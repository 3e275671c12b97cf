"""Contract of every architecture: streamed = offline, no look-ahead beyond the chunk, padding changes nothing."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.models.acoustic_model import StreamState
from asr_kd.models.layers import feature_frames_for, output_lens
from asr_kd.models.settings import Context
from tests.helpers.encoder_streams import ARCHITECTURES, WHISPERS, features, offline, small_encoder, stream

built = functools.cache(small_encoder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(
    chunk=st.integers(1, 9),
    left=st.integers(1, 20),
    right=st.integers(0, 6),
    chunks=st.integers(1, 6),
    seed=st.integers(0, 99),
)
@settings(max_examples=16)
def test_streamed_equals_offline(architecture, chunk, left, right, chunks, seed):
    model = small_encoder(architecture, chunk, left, right, seed).double()  # float32's last bits alone reach 1e-5
    inputs = features(feature_frames_for(chunk * chunks + right), batch=2, seed=seed).double()
    whole = offline(model, inputs)[:, : chunk * chunks]
    torch.testing.assert_close(stream(model, inputs, chunk, left, right), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("context", [Context(8, 12), Context(8, 12, 3), Context(2, 12, 5)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_model_streams_in_other_contexts_than_its_own(architecture, context):
    model = small_encoder(architecture, chunk=4, left=6)
    inputs = features(feature_frames_for(24 + context.right_context_frames))
    whole = offline(model, inputs, context)[:, :24]
    torch.testing.assert_close(stream(model, inputs, *context), whole, atol=1e-5, rtol=0)
    assert not torch.allclose(offline(model, inputs), offline(model, inputs, context), atol=1e-3), "context is ignored"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_later_input_never_changes_earlier_output(architecture):
    model = small_encoder(architecture, chunk=4)
    inputs = features(feature_frames_for(24))
    changed = inputs.clone()
    changed[:, feature_frames_for(12) :] += 3.0
    before, after = offline(model, inputs), offline(model, changed)
    torch.testing.assert_close(before[:, :12], after[:, :12], atol=1e-6, rtol=0)
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_right_context_is_seen_and_nothing_after_it(architecture):
    model = small_encoder(architecture, chunk=4, right=2)
    inputs = features(feature_frames_for(24))
    inside, outside = inputs.clone(), inputs.clone()
    inside[:, feature_frames_for(13) :] += 3.0
    outside[:, feature_frames_for(14) :] += 3.0
    before, seen, unseen = (offline(model, each) for each in (inputs, inside, outside))
    torch.testing.assert_close(before[:, :12], unseen[:, :12], atol=1e-6, rtol=0)
    assert all((before[0, frame] - seen[0, frame]).abs().max() > 1e-4 for frame in range(8, 12))
    torch.testing.assert_close(before[:, :8], seen[:, :8], atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_full_context_sees_later_input(architecture):
    model = small_encoder(architecture, chunk=None)
    inputs = features(100)
    changed = inputs.clone()
    changed[:, -8:] += 3.0
    assert not torch.allclose(offline(model, inputs)[:, 0], offline(model, changed)[:, 0], atol=1e-4)
    with pytest.raises(ValueError, match="streaming"):
        model.initial_state(1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_forgets_what_lies_beyond_the_left_context(architecture):
    """With a convolution of kernel 5 and two layers, the distant past reaches a chunk through attention alone."""
    model = small_encoder(architecture, chunk=4, left=4)
    inputs = features(feature_frames_for(48))
    changed = inputs.clone()
    changed[:, :20] += 3.0
    torch.testing.assert_close(offline(model, inputs)[:, -8:], offline(model, changed)[:, -8:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("chunk", [4, None])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_and_other_utterances_of_a_batch_change_nothing(architecture, chunk):
    model = small_encoder(architecture, chunk)
    short, long = features(61, seed=1), features(160, seed=2)
    batch = torch.full((2, 160, 80), 7.0)
    batch[0, :61], batch[1] = short[0], long[0]
    with torch.no_grad():
        together = model(batch, torch.tensor([61, 160]))
    for row, alone in enumerate((short, long)):
        expected = offline(model, alone)[0]
        assert together.lens[row] == expected.shape[0]
        torch.testing.assert_close(together.log_probs[row, : expected.shape[0]], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_reset_stream_equals_a_fresh_one_beside_a_running_one(architecture):
    model, chunk = small_encoder(architecture, chunk=4, left=6), 4
    inputs = features(feature_frames_for(16), batch=2)
    state = model.initial_state(2)
    with torch.no_grad():
        for begin in range(0, 32, 16):
            _, state = model.stream_step(inputs[:, begin : begin + 19], state)
        reset = StreamState(
            [key * torch.tensor([0.0, 1.0]).view(1, 2, 1) for key in state.keys],
            [value * torch.tensor([0.0, 1.0]).view(1, 2, 1) for value in state.values],
            [conv * torch.tensor([0.0, 1.0]).view(2, 1, 1) for conv in state.convs],
            state.processed * torch.tensor([0, 1]),
        )
        mixed, _ = model.stream_step(inputs[:, 32:51], reset)
        fresh, _ = model.stream_step(inputs[:1, 32:51], model.initial_state(1))
    torch.testing.assert_close(mixed[:1], fresh, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[1:], stream(model, inputs[1:], chunk, 6)[:, 8:12], atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(frames=st.integers(0, 400))
@settings(max_examples=25)
def test_output_length_is_what_comes_out(architecture, frames):
    expected = int(output_lens(torch.tensor(frames)))
    if frames >= 7:
        assert offline(built(architecture), features(frames)).shape[1] == expected
    else:
        assert expected == 0
    if expected:
        assert feature_frames_for(expected) <= frames < feature_frames_for(expected + 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_training_step_is_finite_with_padding_and_reaches_every_parameter(architecture):
    model = small_encoder(architecture, chunk=4).train()
    output = model(features(160, batch=2), torch.tensor([40, 160]), inner_layers=(1,))
    first, second = output.log_probs
    (first[:8, 1].sum() + second[:, 2].sum() + output.inner[0].exp().square().sum()).backward()
    wrong = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.isfinite().all()]
    assert wrong == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_inner_layers_go_through_the_output_layer_and_change_nothing_else(architecture):
    model, inputs = small_encoder(architecture), features(80)
    with torch.no_grad():
        plain = model(inputs, torch.tensor([80]))
        output = model(inputs, torch.tensor([80]), inner_layers=(1, 2))
    assert output.log_probs.equal(plain.log_probs)
    assert plain.inner == ()
    assert len(output.inner) == 2
    assert not torch.allclose(output.inner[0], output.log_probs)
    if "head" not in WHISPERS.get(architecture, {}):  # convolutions between the last layer and the output layer
        torch.testing.assert_close(output.inner[1], output.log_probs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_are_distributions(architecture):
    total = offline(small_encoder(architecture), features(80)).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("chunk", [4, None])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("frames", [0, 1, 6])
def test_utterances_without_an_encoder_frame_have_padding_alone(architecture, chunk, frames):
    output = small_encoder(architecture, chunk)(features(frames, batch=2), torch.tensor([frames, frames // 2]))
    assert output.lens.tolist() == [0, 0]
    assert output.log_probs.shape[:2] == (2, 1)
    assert output.log_probs.isfinite().all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_put_together_for_export_changes_nothing_offline(architecture):
    model, inputs = small_encoder(architecture, chunk=4), features(90, batch=2)
    expected = offline(model, inputs)
    for layer in model.layers:
        layer.fuse()
    torch.testing.assert_close(offline(model, inputs), expected)
