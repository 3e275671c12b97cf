"""The streaming Whisper encoder: streamed = offline, no look-ahead beyond the chunk, no longest stream, its weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.models.layers import attention_mask, feature_frames_for, output_lens
from asr_kd.models.settings import CausalHead, Context, Streaming, WhisperSettings, WhisperSizes
from asr_kd.models.weights import load_model, save_model
from asr_kd.models.whisper import FRAMES_PER_PERIOD, PERIOD, StreamingWhisper, WhisperLayer, WrappedPositions
from tests.helpers.tiny_models import VOCABULARY
from tests.helpers.whisper_students import whisper_student

HEAD = CausalHead(blocks=2, width=24, kernel=4)


def model(chunk: int | None = 4, left: int = 6, seed: int = 0, **changed) -> StreamingWhisper:
    streaming = Streaming(chunk_frames=chunk, left_context_frames=left) if chunk else None
    return whisper_student(seed=seed, streaming=streaming, **changed)


def features(frames: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, frames, 80, generator=torch.Generator().manual_seed(seed)) * 2 - 5


@torch.no_grad()
def stream(net, inputs: torch.Tensor, chunk: int, left: int, state=None) -> torch.Tensor:
    state, outputs = state or net.initial_state(inputs.shape[0], left), []
    for begin in range(0, inputs.shape[1] - feature_frames_for(chunk) + 1, 4 * chunk):
        log_probs, state = net.stream_step(inputs[:, begin : begin + feature_frames_for(chunk)], state)
        outputs.append(log_probs)
    return torch.cat(outputs, dim=1)


@torch.no_grad()
def offline(net, inputs: torch.Tensor, context: Context | None = None) -> torch.Tensor:
    return net(inputs, torch.full((inputs.shape[0],), inputs.shape[1]), context).log_probs


@given(
    chunk=st.integers(1, 9),
    left=st.integers(1, 20),
    chunks=st.integers(1, 6),
    rank=st.sampled_from([None, 5]),
    head=st.sampled_from([None, HEAD, CausalHead(blocks=1, width=8, kernel=1)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30)
def test_streamed_equals_offline(chunk, left, chunks, rank, head, seed):
    net = model(chunk, left, seed, feed_forward_rank=rank, head=head)
    inputs = features(feature_frames_for(chunk * chunks), batch=2, seed=seed)
    torch.testing.assert_close(stream(net, inputs, chunk, left), offline(net, inputs), atol=1e-5, rtol=0)


def test_a_stream_far_longer_than_the_positions_equals_offline():
    """Two thousand frames are 80 s; positions repeat after 30 s."""
    net = model(chunk=8, left=16)
    inputs = features(feature_frames_for(8 * 250))
    assert 2.5 * FRAMES_PER_PERIOD < 8 * 250
    torch.testing.assert_close(stream(net, inputs, 8, 16), offline(net, inputs), atol=1e-5, rtol=0)


def test_a_stream_of_a_year_gives_what_its_first_minute_gives():
    """The same audio after a whole number of periods, with the same history."""
    net, inputs = model(chunk=4, left=6), features(feature_frames_for(40))
    year = 365 * 24 * 3600 * 25 // FRAMES_PER_PERIOD * FRAMES_PER_PERIOD
    late = net.initial_state(1)._replace(processed=torch.tensor([year]))
    early = net.initial_state(1)._replace(processed=torch.tensor([FRAMES_PER_PERIOD]))
    assert stream(net, inputs, 4, 6, late).equal(stream(net, inputs, 4, 6, early))


def test_positions_have_no_seam():
    """Scores of positions depend on their distance only, also across the place where they repeat."""
    positions = WrappedPositions(64)(torch.arange(2 * FRAMES_PER_PERIOD)).double()
    for distance in (1, 7, 50):
        scores = (positions[:-distance] * positions[distance:]).sum(-1)
        torch.testing.assert_close(scores, scores[:1].expand_as(scores), atol=1e-4, rtol=0)


def test_positions_are_nearly_whispers():
    """Whisper's table, averaged over the two frames that one of ours joins; rounding moves the slow sinusoids least."""
    width = 64
    half = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(PERIOD).unsqueeze(1) * half
    table = torch.cat([angles.sin(), angles.cos()], 1)
    expected = (table[1:-1:2] + table[2::2]) / 2
    found = WrappedPositions(width)(torch.arange(len(expected)))
    assert torch.cosine_similarity(found[:50], expected[:50], dim=-1).min() > 0.95


def test_training_draws_another_position_for_each_utterance_and_evaluation_none():
    net, inputs = model(dropout=0.0), features(80).expand(2, -1, -1)
    lens = torch.tensor([80, 80])
    assert offline(net, inputs)[0].equal(offline(net, inputs)[1])
    net.train()
    torch.manual_seed(1)
    with torch.no_grad():
        first, second = net(inputs, lens).log_probs
        torch.manual_seed(1)
        again = net(inputs, lens).log_probs
    assert not torch.allclose(first, second, atol=1e-4)
    assert again.equal(torch.stack([first, second]))


@pytest.mark.parametrize("head", [None, HEAD])
def test_later_input_never_changes_earlier_output(head):
    net = model(chunk=4, head=head)
    inputs = features(feature_frames_for(24))
    changed = inputs.clone()
    changed[:, feature_frames_for(12) :] += 3.0
    before, after = offline(net, inputs), offline(net, changed)
    torch.testing.assert_close(before[:, :12], after[:, :12], atol=1e-6, rtol=0)
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-3)


@pytest.mark.parametrize(("chunk", "head"), [(4, None), (None, None), (4, HEAD)])
def test_padding_and_company_change_nothing(chunk, head):
    net = model(chunk, head=head)
    short, long = features(61, seed=1), features(160, seed=2)
    batch = torch.full((2, 160, 80), 7.0)
    batch[0, :61], batch[1] = short[0], long[0]
    with torch.no_grad():
        together = net(batch, torch.tensor([61, 160]))
    for row, alone in enumerate((short, long)):
        expected = offline(net, alone)[0]
        torch.testing.assert_close(together.log_probs[row, : expected.shape[0]], expected, atol=1e-5, rtol=0)


@given(frames=st.integers(7, 400))
def test_as_many_frames_come_out_as_of_a_conformer(frames):
    assert offline(model(), features(frames)).shape[1] == int(output_lens(torch.tensor(frames)))


@pytest.mark.parametrize("head", [None, HEAD])
def test_a_training_step_is_finite_and_reaches_every_parameter(head):
    net = model(chunk=4, feed_forward_rank=8, head=head).train()
    output = net(features(160, batch=2), torch.tensor([40, 160]), inner_layers=(1,))
    (
        output.log_probs[0, :8, 1].sum() + output.log_probs[1, :, 2].sum() + output.inner[0].exp().square().sum()
    ).backward()
    assert [name for name, each in net.named_parameters() if each.grad is None or not each.grad.isfinite().all()] == []


def test_a_model_folder_gives_the_same_model(tmp_path):
    net = model(feed_forward_rank=8, head=HEAD)
    save_model(tmp_path / "model", net, VOCABULARY, {})
    loaded = load_model(tmp_path / "model")
    assert loaded.model.settings == net.settings
    inputs = features(feature_frames_for(12))
    assert offline(loaded.model, inputs).equal(offline(net, inputs))


def test_layers_compute_what_transformers_computes():
    """The stem's 20 ms frames and each layer, on the same input; the added convolution is zero at first."""
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(d_model=32, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=48)
    torch.manual_seed(0)
    theirs = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    sizes = WhisperSizes(width=32, heads=2, feed_forward=48)
    ours = StreamingWhisper(WhisperSettings(init="x", layers=[0, 2], sizes=sizes), 5).eval()
    ours.copy_encoder(theirs.state_dict())
    hidden = torch.randn(2, 20, 32)
    mask, valid = attention_mask(torch.ones(1, 1, 20, 20, dtype=torch.bool)), torch.ones(2, 20, 1)
    with torch.no_grad():
        for own, number in zip(ours.layers, (0, 2), strict=True):
            given = theirs.layers[number](hidden, None)
            expected = given[0] if isinstance(given, tuple) else given
            torch.testing.assert_close(own(hidden, None, mask, valid), expected, atol=1e-5, rtol=0)
        mel = torch.randn(2, 80, 43)
        convolved = torch.nn.functional.gelu(theirs.conv2(torch.nn.functional.gelu(theirs.conv1(mel))))
        pairs = convolved.transpose(1, 2)[:, 1:21].unflatten(1, (10, 2)).mean(2)
        ours.stem.map.weight.copy_(torch.eye(80))
        ours.stem.map.bias.zero_()
        torch.testing.assert_close(ours.stem(mel.transpose(1, 2)), pairs, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.norm(hidden), theirs.layer_norm(hidden))


def test_a_factored_feed_forward_is_the_nearest_product():
    weight = torch.randn(48, 32)
    net = model()
    factored = model(feed_forward_rank=6)
    state = {f"layers.{n}.{k}": v for n in (0, 1) for k, v in _layer_weights(weight).items()}
    state |= {"conv1.weight": torch.randn(32, 80, 3), "conv1.bias": torch.zeros(32)}
    state |= {"conv2.weight": torch.randn(32, 32, 3), "conv2.bias": torch.zeros(32)}
    state |= {"layer_norm.weight": torch.ones(32), "layer_norm.bias": torch.zeros(32)}
    factored.copy_encoder(state)
    layer = factored.layers[0]
    assert isinstance(layer, WhisperLayer)
    inner, outer = layer.expand
    left, values, right = torch.linalg.svd(weight)
    nearest = left[:, :6] * values[:6] @ right[:6]
    torch.testing.assert_close(outer.weight @ inner.weight, nearest, atol=1e-4, rtol=0)
    assert factored.num_parameters < net.num_parameters


def _layer_weights(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    square, vector = torch.eye(32), torch.zeros(32)
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    made = {f"self_attn.{name}.weight": square for name in projections}
    made |= {f"self_attn.{name}.bias": vector for name in projections}
    for norm in ("self_attn_layer_norm", "final_layer_norm"):
        made |= {f"{norm}.weight": vector + 1, f"{norm}.bias": vector}
    return made | {"fc1.weight": weight, "fc1.bias": torch.zeros(48), "fc2.weight": weight.T, "fc2.bias": vector}


def test_a_feature_map_takes_features_as_they_are():
    net = model()
    net.set_normalisation(torch.full((80,), -7.0), torch.full((80,), 3.0))
    weight, bias = torch.randn(80, 80), torch.randn(80)
    net.set_feature_map(weight, bias)
    raw = features(5)
    mapped = net.stem.map((raw - net.mean) * net.inverse_std)
    torch.testing.assert_close(mapped, raw @ weight.T + bias, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": 5, "head": {"kernel": 6}}, "must not exceed"),
        ({"kernel": 4}, "odd"),
        ({"layers": [1, 0]}, "rising order"),
        ({"layers": [-1]}, "from 0"),
        ({"layers": []}, "1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        WhisperSettings(**{"init": "hf:openai/whisper-tiny.en", "layers": [0, 1], **change})


def test_a_folder_and_a_repository_are_sources():
    assert WhisperSettings(init="hf:openai/whisper-tiny.en", layers=[0]).source == "hf:openai/whisper-tiny.en"
    assert WhisperSettings(init="models/whisper", layers=[0]).source == "hf:models/whisper"
