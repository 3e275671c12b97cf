"""What the streaming Whisper encoder adds to the contract of encoders: positions without an end, Whisper's weights."""

import math

import pytest
import torch

from asr_kd.models.layers import attention_mask, feature_frames_for
from asr_kd.models.layout import Layout
from asr_kd.models.settings import WhisperSettings, WhisperSizes
from asr_kd.models.weights import load_model, save_model
from asr_kd.models.whisper import FRAMES_PER_PERIOD, PERIOD, StreamingWhisper, WhisperLayer, WrappedPositions
from tests.helpers.encoder_streams import HEAD, features, offline, small_encoder, stream
from tests.helpers.tiny_models import VOCABULARY


def test_a_stream_far_longer_than_the_positions_equals_offline():
    """Two thousand frames are 80 s; positions repeat after 30 s."""
    net = small_encoder("whisper", chunk=8, left=16)
    inputs = features(feature_frames_for(8 * 250))
    assert 2.5 * FRAMES_PER_PERIOD < 8 * 250
    torch.testing.assert_close(stream(net, inputs, 8, 16), offline(net, inputs), atol=1e-5, rtol=0)


def test_a_stream_of_a_year_gives_what_its_first_minute_gives():
    """The same audio after a whole number of periods, with the same history."""
    net, inputs = small_encoder("whisper", chunk=4, left=6), features(feature_frames_for(40))
    year = 365 * 24 * 3600 * 25 // FRAMES_PER_PERIOD * FRAMES_PER_PERIOD
    late = net.initial_state(1)._replace(processed=torch.tensor([year]))
    early = net.initial_state(1)._replace(processed=torch.tensor([FRAMES_PER_PERIOD]))
    assert stream(net, inputs, 4, 6, state=late).equal(stream(net, inputs, 4, 6, state=early))


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
    net, inputs = small_encoder("whisper", dropout=0.0), features(80).expand(2, -1, -1)
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


def test_a_model_folder_gives_the_same_model(tmp_path):
    net = small_encoder("whisper", feed_forward_rank=8, head=HEAD)
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
    layout = Layout(torch.tensor([20, 20]), 20, None, torch.zeros(1, dtype=torch.int64))
    mask = attention_mask(layout.allowed.unsqueeze(1))
    with torch.no_grad():
        for own, number in zip(ours.layers, (0, 2), strict=True):
            given = theirs.layers[number](hidden, None)
            expected = given[0] if isinstance(given, tuple) else given
            torch.testing.assert_close(own(hidden, None, mask, layout), expected, atol=1e-5, rtol=0)
        mel = torch.randn(2, 80, 43)
        convolved = torch.nn.functional.gelu(theirs.conv2(torch.nn.functional.gelu(theirs.conv1(mel))))
        pairs = convolved.transpose(1, 2)[:, 1:21].unflatten(1, (10, 2)).mean(2)
        ours.stem.map.weight.copy_(torch.eye(80))
        ours.stem.map.bias.zero_()
        torch.testing.assert_close(ours.stem(mel.transpose(1, 2)), pairs, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.norm(hidden), theirs.layer_norm(hidden))


def test_a_factored_feed_forward_is_the_nearest_product():
    weight = torch.randn(48, 32)
    net = small_encoder("whisper")
    factored = small_encoder("whisper", feed_forward_rank=6)
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
    net = small_encoder("whisper")
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
