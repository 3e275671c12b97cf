"""torchaudio's bundles as teachers: labels, frames, posteriors are the library's; missing weights say how to come."""

import urllib.error

import pytest
import torch
import torchaudio

from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.teachers import TeacherSource, open_teacher_source
from asr_kd.teachers.torchaudio_ctc import bundle_names, cached_file, open_torchaudio
from tests.helpers.tiny_teachers import KERNELS, STRIDES, randomised, waveforms

GROUP_NORM, LAYER_NORM, VOXPOPULI = "WAV2VEC2_ASR_BASE_960H", "HUBERT_ASR_LARGE", "VOXPOPULI_ASR_BASE_10K_DE"
LENS = (8000, 16000, 12345, 16000, 399)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """torch hub's cache in a folder of our own; `save(name)` puts a small random model of the bundle there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def save(name: str):
        bundle = getattr(torchaudio.pipelines, name)
        layers = [(16, kernel, stride) for kernel, stride in zip(KERNELS, STRIDES, strict=True)]
        small = {
            "extractor_conv_layer_config": layers,
            "encoder_embed_dim": 32,
            "encoder_num_layers": 2,
            "encoder_num_heads": 2,
            "encoder_ff_interm_features": 32,
            "encoder_pos_conv_kernel": 16,
            "encoder_pos_conv_groups": 2,
        }
        monkeypatch.setitem(bundle.__dict__, "_params", {**bundle._params, **small})
        torch.manual_seed(0)
        # Published files hold fairseq's unused outputs too, which torchaudio cuts out of the last layer.
        unused = sum(axis < bundle._params["aux_num_out"] + 4 for axis in bundle._remove_aux_axis)
        whole = {**bundle._params, "aux_num_out": bundle._params["aux_num_out"] + unused}
        file = cached_file(bundle)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(randomised(torchaudio.models.wav2vec2_model(**whole)).state_dict(), file)
        return bundle

    return save


def test_all_bundles_that_the_documentation_lists_are_there():
    names = bundle_names()
    assert len(names) == 16
    assert {GROUP_NORM, LAYER_NORM, VOXPOPULI, "WAV2VEC2_ASR_LARGE_LV60K_960H", "HUBERT_ASR_XLARGE"} <= set(names)
    assert not {"MMS_FA", "WAV2VEC2_BASE", "HUBERT_LARGE"} & set(names)


@pytest.mark.parametrize("name", [GROUP_NORM, LAYER_NORM, VOXPOPULI])
def test_posteriors_are_the_librarys_own_whoever_is_in_the_batch(hub, name):
    bundle = hub(name)
    model = bundle.get_model()
    teacher = open_teacher_source(TeacherSource(source=f"torchaudio:{name}"))
    audio, lens = waveforms(*LENS)
    batch = teacher.log_probs(audio, lens)
    for row, num_samples in enumerate(LENS[:-1]):
        with torch.no_grad():
            logits, _ = model(audio[row : row + 1, :num_samples])
        expected = logits[0].log_softmax(-1)
        assert int(batch.lens[row]) == len(expected)
        torch.testing.assert_close(batch.log_probs[row, : len(expected)], expected, atol=2e-5, rtol=0)
    assert int(batch.lens[-1]) == 0
    assert batch.log_probs.shape[-1] == len(bundle.get_labels())


@pytest.mark.parametrize(
    ("name", "normalised", "masks_padding"), [(GROUP_NORM, False, False), (LAYER_NORM, True, True)]
)
def test_says_who_it_is(hub, name, normalised, masks_padding):
    bundle = hub(name)
    teacher = open_torchaudio(name)
    assert teacher.vocabulary.symbols == ("<blk>", "▁", *bundle.get_labels()[2:])
    assert (teacher.frame_shift_ms, teacher.frame_offset_ms) == (20.0, 12.5)
    assert teacher.features == {"kind": "waveform", "sample_rate": 16_000, "normalised": normalised}
    assert teacher.masks_padding is masks_padding
    assert len(teacher.sha256) == 64


def test_every_bundles_labels_fit_our_vocabulary():
    from asr_kd.teachers.base import ctc_vocabulary

    for name in bundle_names():
        labels = getattr(torchaudio.pipelines, name).get_labels()
        vocabulary = ctc_vocabulary(labels, 0, "|", name)
        assert vocabulary.symbols[:2] == ("<blk>", "▁")
        assert vocabulary.symbols[2:] == labels[2:], "nothing else was renamed"


def test_identity_follows_the_weights(hub):
    bundle = hub(GROUP_NORM)
    before = open_torchaudio(GROUP_NORM).sha256
    assert open_torchaudio(GROUP_NORM).sha256 == before
    file = cached_file(bundle)
    weights = torch.load(file, weights_only=True)
    weights["aux.bias"] += 1e-3
    torch.save(weights, file)
    assert open_torchaudio(GROUP_NORM).sha256 != before


def test_without_network_the_message_has_the_file_and_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(CheckpointError) as caught:
        open_torchaudio(GROUP_NORM)
    file = "wav2vec2_fairseq_base_ls960_asr_ls960.pth"
    assert str(tmp_path / "hub" / "checkpoints" / file) in str(caught.value)
    assert "curl --fail --location --remote-name https://download.pytorch.org/torchaudio/models/" + file in str(
        caught.value
    )


class Trap:
    """An object whose unpickling would be noticed."""

    def __reduce__(self):
        return (pytest.fail, ("code of the file ran",))


@pytest.mark.parametrize("damage", ["truncated", "code", "other"])
def test_a_damaged_or_unsafe_file_is_refused(hub, damage):
    file = cached_file(hub(GROUP_NORM))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        torch.save({"aux.weight": Trap()} if damage == "code" else {"other": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="Delete the file and fetch it again: curl"):
        open_torchaudio(GROUP_NORM)


def test_an_unknown_bundle_is_refused_with_the_nearest():
    with pytest.raises(RecipeError, match=r"Did you mean WAV2VEC2_ASR_BASE_960H\?"):
        open_torchaudio("WAV2VEC2_ASR_BASE_960")
    with pytest.raises(RecipeError, match="no CTC bundle 'WAV2VEC2_BASE'"):
        open_torchaudio("WAV2VEC2_BASE")
