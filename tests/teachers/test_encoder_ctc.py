"""An encoder with a CTC head: the students' frames, one utterance whoever is beside it, the freezing schedule."""

import copy
import json

import pytest
import torch

from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.features.fbank import num_frames
from asr_kd.files import json_text
from asr_kd.models.layers import output_len
from asr_kd.teachers.ctc_head import draw_masks
from asr_kd.teachers.encoder_ctc import EncoderCtc, OutputCache, nearest_frames, waveform_blocks
from asr_kd.teachers.local import LocalTeacher, build_encoder_ctc, save_encoder_ctc
from asr_kd.teachers.settings import EncoderCtcSettings, HeadSettings
from asr_kd.text.vocabulary import BLANK, WORD_SEPARATOR, Vocabulary
from tests.helpers.tiny_encoders import ENCODERS, save_encoder

pytest.importorskip("transformers")

VOCABULARY = Vocabulary((BLANK, WORD_SEPARATOR, "A", "B", "C"))
HEAD = {"width": 16, "blocks": 1, "kernel": 3}


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("encoders") / "whisper"
    save_encoder("whisper", place)
    return place


def built(folder, head=HEAD, **encoder) -> EncoderCtc:
    torch.manual_seed(1)
    settings = EncoderCtcSettings.model_validate({"encoder": {"source": f"hf:{folder}", **encoder}, "head": head})
    return build_encoder_ctc(settings, len(VOCABULARY)).eval()


def batch(*samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [waveform_blocks(noise(count, seed)) for seed, count in enumerate(samples)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def test_blocks_are_the_waveform_with_a_row_for_each_feature_frame():
    for samples in (0, 79, 80, 160, 16001, 16100):
        blocks = waveform_blocks(noise(samples))
        assert blocks.shape == (num_frames(samples), 160)
        shared = min(samples, blocks.numel())
        assert torch.equal(blocks.flatten()[:shared], noise(samples)[:shared])


def test_frames_are_the_students_and_do_not_depend_on_the_batch(folder):
    model = built(folder)
    features, lens = batch(16000, 9000, 400)
    together = model(features, lens, wanted_layers=[2])
    assert together.lens.tolist() == [output_len(length) for length in lens.tolist()]
    assert together.layers[2].shape == (3, int(together.lens.max()), 32)
    for row, frames in enumerate(together.lens.tolist()):
        alone = model(features[row : row + 1, : lens[row]], lens[row : row + 1])
        torch.testing.assert_close(together.log_probs[row, :frames], alone.log_probs[0, :frames])


def test_a_click_is_seen_on_the_frame_in_which_it_lies(folder):
    model = built(folder)
    encoder = model.encoder
    frames = nearest_frames(encoder, 100, 1000)
    centres = encoder.frame_offset_ms + encoder.frame_shift_ms * frames.double().mean(1)
    wanted = 35 + 40 * torch.arange(100)
    assert float((centres - wanted).abs().max()) <= encoder.frame_shift_ms / 2


def test_outputs_of_a_frozen_encoder_are_kept_in_training_only_and_do_not_depend_on_the_memory(folder):
    features, lens = batch(16000, 12000)
    kept, none = built(folder), built(folder, cache_mb=0)
    calls = []
    hidden = kept.encoder.hidden
    kept.encoder.hidden = lambda waveform: calls.append(len(waveform)) or hidden(waveform)
    kept(features, lens), kept(features, lens)
    assert len(calls) == 4  # otherwise the time that an evaluation measures would be without the encoder
    kept.keep_outputs()
    calls.clear()
    first, second = kept(features, lens).log_probs, kept(features, lens).log_probs
    assert torch.equal(first, second)
    assert len(calls) == 2
    copy.deepcopy(kept)(features, lens)
    assert len(calls) == 2  # a copy, the moving average for example, shares what is kept
    torch.testing.assert_close(first, none(features, lens).log_probs, atol=0, rtol=0)


def test_only_head_and_unfrozen_layers_are_parameters(folder):
    frozen, top = built(folder), built(folder, unfreeze_layers=1)
    assert all(name.startswith("head.") for name, _ in frozen.named_parameters())
    assert {name.split(".")[1] for name, _ in top.named_parameters() if name.startswith("unfrozen")} == {"2"}
    assert frozen.num_parameters == top.num_parameters


def test_the_schedule_freezes_unfrozen_layers_in_the_first_epochs(folder):
    model = built(folder, unfreeze_layers=2, frozen_epochs=1, rate=0.5, layer_decay=0.5).train()
    features, lens = batch(16000)
    names = [name for name, _ in model.named_parameters() if name.endswith("fc1.weight")]
    assert len(names) == 2
    for epoch, trained in ((1, False), (2, True)):
        model.start_epoch(epoch)
        model.zero_grad()
        model(features, lens).log_probs[..., 1].sum().backward()
        gradients = [dict(model.named_parameters())[name].grad for name in names]
        assert all((gradient is not None) == trained for gradient in gradients)
        assert [model.rate_share(name) for name in names] == ([0.25, 0.5] if trained else [0.0, 0.0])
    assert model.rate_share("head.output.weight") == 1.0


@pytest.mark.parametrize("name", ENCODERS)
def test_trained_layers_compute_plain_attention_to_the_same_result(name, tmp_path, monkeypatch):
    save_encoder(name, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fused, plain = built(tmp_path).encoder, built(tmp_path, unfreeze_layers=1).encoder
    assert plain.model.config._attn_implementation == "eager"
    with torch.no_grad():
        torch.testing.assert_close(plain.hidden(noise(16000)), fused.hidden(noise(16000)), atol=1e-5, rtol=1e-5)


def test_the_cache_is_not_read_once_layers_are_trained(folder):
    model = built(folder, unfreeze_layers=1, frozen_epochs=1)
    features, lens = batch(16000)
    model.start_epoch(1)
    before = model(features, lens).log_probs
    model.start_epoch(2)
    with torch.no_grad():
        for parameter in model.unfrozen.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert not torch.allclose(before, model(features, lens).log_probs, atol=1e-3)


def test_trained_layers_go_on_from_kept_outputs_of_the_frozen_ones(folder):
    model = built(folder, unfreeze_layers=1, window_seconds=2, overlap_seconds=0.5)
    features, lens = batch(16000, 70000)  # the second in windows
    whole = built(folder, window_seconds=2, overlap_seconds=0.5)
    torch.testing.assert_close(
        model(features, lens).log_probs, whole(features, lens).log_probs, atol=2e-3, rtol=0
    )  # kept in float16 at another layer
    model.keep_outputs()
    calls = []
    lower = model.encoder.lower
    model.encoder.lower = lambda window, count: calls.append(count) or lower(window, count)
    first, second = model(features, lens).log_probs, model(features, lens).log_probs
    assert torch.equal(first, second)
    assert len(calls) >= 3  # one of the short utterance, at least two windows of the long one
    assert len(set(calls)) == 1
    seen = len(calls)
    model(features, lens)
    assert len(calls) == seen


def test_outputs_beyond_float16_are_cut_and_stay_finite():
    kept = OutputCache(1 << 20).get((b"", (1,)), lambda: torch.tensor([1e6, -1e6, 3.0]))
    assert kept.tolist() == [65504.0, -65504.0, 3.0]


def test_masks_are_drawn_once_before_the_trained_layers(folder):
    none = {**HEAD, "masks_per_second": 0, "channel_masks": 0, "dropout": 0}
    masked = {**none, "masks_per_second": 4, "mask_frames": 10}
    features, lens = batch(32000)
    plain = built(folder, none, unfreeze_layers=1).train()(features, lens).log_probs
    assert torch.equal(plain, built(folder, masked, unfreeze_layers=1)(features, lens).log_probs)
    model = built(folder, masked, unfreeze_layers=1).train()
    torch.manual_seed(3)
    first = model(features, lens).log_probs
    assert not torch.allclose(plain, first, atol=1e-3)
    torch.manual_seed(3)
    assert torch.equal(first, model(features, lens).log_probs)
    drawn = draw_masks(500, 20.0, 8, HeadSettings(masks_per_second=1, mask_frames=7, channel_masks=0))
    assert 0 < float((drawn == 0).float().mean()) < 0.28  # at most 10 masks of 14 frames
    assert torch.equal(drawn[:, :1].expand(-1, 8), drawn)


def test_a_saved_folder_opens_as_a_teacher_with_the_same_posteriors(folder, tmp_path):
    model = built(folder, unfreeze_layers=1)
    with torch.no_grad():
        for parameter in model.unfrozen.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    sha256 = save_encoder_ctc(tmp_path / "saved", model, VOCABULARY, {"name": "whisper"})
    teacher = LocalTeacher(tmp_path / "saved")
    assert (teacher.name, teacher.sha256, teacher.num_layers, teacher.width) == ("whisper", sha256, 2, 32)
    waveform = noise(16000)
    dense, layers = teacher.with_layers(waveform.unsqueeze(0), torch.tensor([16000]), [1])
    features, lens = batch(16000)
    torch.testing.assert_close(dense.log_probs, model(features, lens).log_probs)
    assert layers[1].shape == (1, int(dense.lens[0]), 32)


def test_another_encoder_under_a_saved_head_is_refused(folder, tmp_path):
    save_encoder_ctc(tmp_path / "saved", built(folder), VOCABULARY, {})
    save_encoder("whisper", tmp_path / "other", encoder_ffn_dim=41)
    description = json.loads((tmp_path / "saved" / "model.json").read_text())
    description["model"]["encoder"]["source"] = f"hf:{tmp_path / 'other'}"
    (tmp_path / "saved" / "model.json").write_text(json_text(description))
    with pytest.raises(CheckpointError, match="that of the encoder these weights were trained on"):
        LocalTeacher(tmp_path / "saved")


def test_damaged_weights_are_refused(folder, tmp_path):
    save_encoder_ctc(tmp_path / "saved", built(folder), VOCABULARY, {})
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="SHA-256"):
        LocalTeacher(tmp_path / "saved")


def test_layers_that_the_encoder_does_not_have(folder):
    with pytest.raises(RecipeError, match="layers from 1 to 2"):
        built(folder, layers=[3])
    with pytest.raises(RecipeError, match="at most the encoder's 2 layers"):
        built(folder, unfreeze_layers=3)
