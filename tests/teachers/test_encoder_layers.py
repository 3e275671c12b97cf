"""A public encoder without a head: its layers on the students' frames, in the store, and what it does not have."""

import pytest
import torch

from asr_kd.corpora.manifest import Utterance
from asr_kd.recipe.settings import Recipe
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.targets.bridge import bridge
from asr_kd.teachers.base import LayeredTeacher
from asr_kd.teachers.ensemble import open_teacher_source
from asr_kd.teachers.huggingface_encoder import HuggingfaceEncoder
from asr_kd.teachers.settings import EncoderSettings, TeacherSource
from tests.helpers.jobs import noises
from tests.helpers.tiny_encoders import save_encoder
from tests.helpers.tiny_models import VOCABULARY, noise_speech

pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=["whisper", "wav2vec2-base", "w2v-bert"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders") / request.param
    save_encoder(request.param, folder)
    return folder


@pytest.fixture(scope="module")
def teacher(folder):
    return open_teacher_source(TeacherSource(source=f"encoder:{folder}"))


def test_its_layers_lie_on_the_students_frames_and_do_not_depend_on_the_batch(teacher):
    waveforms = [noise_speech(1.5), noise_speech(0.7, seed=1)]
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    dense, layers = teacher.with_layers(padded, torch.tensor([24000, 11200]), (1, 2))
    assert dense.lens.tolist() == [36, 16]
    assert layers[2].shape == (2, 36, teacher.width)
    alone = teacher.with_layers(padded[1:, :11200], torch.tensor([11200]), (2,))[1]
    torch.testing.assert_close(layers[2][1, :16], alone[2][0], atol=1e-5, rtol=0)


def test_a_frame_is_the_mean_of_the_two_encoder_frames_around_its_centre(teacher, folder):
    """The bridge between frame rates: 20 ms frames of any offset become the students' of 40 ms."""
    waveform, encoder = noise_speech(1.5), HuggingfaceEncoder(EncoderSettings(source=f"hf:{folder}"))
    hidden = torch.nn.functional.layer_norm(encoder.hidden(waveform)[0], (teacher.width,))
    centres = encoder.frame_offset_ms + encoder.frame_shift_ms * torch.arange(len(hidden), dtype=torch.float64)
    found = teacher.with_layers(waveform[None], torch.tensor([24000]), (1,))[1][1][0]
    for frame in (0, 7, 30):
        middle = 35.0 + 40.0 * frame
        nearest = [int((centres - middle - offset).abs().argmin()) for offset in (-10, 10)]
        torch.testing.assert_close(found[frame], hidden[nearest].mean(0), atol=1e-5, rtol=0)


def test_in_its_students_vocabulary_every_frame_is_blank_and_the_layers_are_stored(teacher, tmp_path):
    bridged = bridge(teacher, VOCABULARY)
    assert isinstance(bridged, LayeredTeacher)
    utterances = [Utterance(u.id, u.audio, u.duration, None, u.speaker) for u in noises(tmp_path)[:3]]
    extract(bridged, utterances, TargetSettings(layers=(2,)), tmp_path / "store")
    store = Store.open(tmp_path / "store", vocabulary=VOCABULARY, teacher_sha256=bridged.sha256)
    assert store.info.layers == {2: teacher.width}
    targets = store.read(utterances[0].id)
    assert (targets.argmax() == VOCABULARY.blank_id).all()
    assert store.read_array("layer-2", utterances[0].id).shape == (len(targets.tokens), teacher.width)


def test_its_windows_are_its_own(tmp_path):
    save_encoder("whisper", tmp_path / "whisper")
    source = TeacherSource(source=f"encoder:{tmp_path / 'whisper'}", window_seconds=4.0, overlap_seconds=1.0)
    found = open_teacher_source(source)
    assert isinstance(found, LayeredTeacher)
    assert found.features["window_seconds"] == 4.0


def test_an_ensemble_of_encoders_is_refused():
    with pytest.raises(ValueError, match="no posteriors to average"):
        TeacherSource(source=[{"source": "encoder:a/b"}, {"source": "encoder:c/d"}])


@pytest.mark.parametrize(
    "distill",
    [
        {"kd_weight": 0.5},
        {"level": "sequence"},
        {"objectives": {"representation": {"pairs": [[1, 1]]}, "delayed_kl": {}}},
    ],
)
def test_objectives_that_need_posteriors_are_refused(distill):
    shape = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 16, "kernel": 3, "subsampling_channels": 2}
    plain = {
        "name": "x",
        "work_dir": "x",
        "corpus": {"kind": "an4"},
        "teachers": {"own": {"source": "encoder:openai/whisper-tiny.en"}},
        "students": {"s": {"model": shape, "distill": distill}},
    }
    with pytest.raises(ValueError, match="an encoder without a head"):
        Recipe.model_validate(plain)
    plain["students"]["s"]["distill"] = {"objectives": {"representation": {"pairs": [[1, 1]]}}}
    assert Recipe.model_validate(plain).target_layers("own") == (1,)
    plain["students"]["s"]["distill"]["kd_weight"] = 1.0
    with pytest.raises(ValueError, match="output layer random"):
        Recipe.model_validate(plain)
