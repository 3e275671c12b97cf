"""A student that begins from a Whisper: its first weights, the feature map, training, resuming, and what is refused."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.distributed import ALONE, Ranks
from asr_kd.errors import CheckpointError, RecipeError, TrainingError
from asr_kd.features.fbank import fbank
from asr_kd.models.settings import Streaming, WhisperSettings
from asr_kd.models.weights import load_model, read_tensors
from asr_kd.models.whisper import StreamingWhisper
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.teachers.ensemble import open_teacher_source
from asr_kd.teachers.settings import TeacherSource
from asr_kd.training.train import measure_normalisation, train
from asr_kd.training.training_job import Control
from asr_kd.training.warm_start import fit_feature_map, read_sizes, start_from_whisper
from tests.helpers.jobs import Recorder, assert_resumes_exactly
from tests.helpers.tiny_encoders import save_encoder
from tests.helpers.tiny_models import noise_speech

pytest.importorskip("transformers")

STREAMING = Streaming(chunk_frames=4, left_context_frames=8)


@pytest.fixture
def make_whisper_job(make_job, whisper_encoder):
    def make(settings=None, model=None, **changes):
        given = {"init": str(whisper_encoder), "layers": (0, 1), "kernel": 5, "streaming": STREAMING, **(model or {})}
        job = make_job(settings=settings or {}, **changes)
        return replace(job, model=read_sizes(WhisperSettings(**given), job.train.init_from))

    return make


def test_the_sizes_are_the_encoders(whisper_encoder):
    found = read_sizes(WhisperSettings(init=f"hf:{whisper_encoder}", layers=(1,)))
    assert (found.width, found.heads, found.opened.feed_forward, found.num_layers) == (32, 2, 37, 1)
    assert len(found.opened.sha256) == 64


def test_least_squares_finds_an_affine_map_exactly():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(80, 80, generator=generator), torch.randn(80, generator=generator)
    frames = [torch.randn(90 + 10 * n, 80, generator=generator) * 3 - 7 for n in range(4)]
    pairs = [(own, (own @ weight.T + bias)[: len(own) - n]) for n, own in enumerate(frames)]
    found, offset, explained = fit_feature_map(pairs)
    torch.testing.assert_close(found, weight, atol=1e-3, rtol=0)
    torch.testing.assert_close(offset, bias, atol=1e-2, rtol=0)
    assert explained == pytest.approx(1.0, abs=1e-6)


def test_training_begins_from_the_encoder_and_writes_a_model_that_streams(make_whisper_job, whisper_encoder, tmp_path):
    recorder = Recorder()
    job = make_whisper_job({"epochs": 1, "average_best": 1, "learning_rate": 1e-9, "weight_decay": 0.0})
    model = load_model(train(job, tmp_path, Control(progress=recorder))).model
    theirs = {
        name.rpartition("encoder.")[2]: each
        for name, each in read_tensors(whisper_encoder / "model.safetensors").items()
    }
    torch.testing.assert_close(model.layers[1].expand.weight, theirs["layers.1.fc1.weight"], atol=1e-6, rtol=0)
    torch.testing.assert_close(model.norm.bias, theirs["layer_norm.bias"], atol=1e-6, rtol=0)
    assert any("the feature map explains" in line for line in recorder.lines)
    recognizer = open_recognizer(tmp_path / "model")
    stream = recognizer.stream()
    stream.feed(noise_speech(2.0))
    stream.final()
    assert stream.tokens == recognizer.hypotheses([noise_speech(2.0)])[0][0].tokens


def test_it_trains_in_bfloat16_too(make_whisper_job, tmp_path):
    settings = {"precision": "bf16", "epochs": 2, "ema": {"decay": 0.9}, "inner_layers": (1,), "layer_drop": 0.1}
    job = make_whisper_job(settings, {"feed_forward_rank": 8, "head": {"blocks": 1, "width": 16, "kernel": 3}})
    model = load_model(train(job, tmp_path, Control())).model
    assert all(bool(weight.isfinite().all()) for weight in model.state_dict().values())


def test_a_resumed_run_is_the_uninterrupted_one(make_whisper_job, tmp_path):
    job = make_whisper_job()
    assert_resumes_exactly(job, tmp_path, 7)


class SecondOfTwo(Ranks):
    """A process that does not see the files of the first, which resumes from step 3."""

    def __init__(self):
        super().__init__(1, 2)
        self.broadcasts = 0

    def broadcast(self, value):
        self.broadcasts += 1
        return True

    def gather(self, value):
        return [3, value]


def test_a_process_that_does_not_see_the_checkpoints_follows_the_first_and_says_so(make_whisper_job, tmp_path):
    """Beginning from the encoder there, it would wait for collectives that the first does not take part in."""
    ranks = SecondOfTwo()
    with pytest.raises(TrainingError, match=r"different steps \(3, 0\)"):
        train(make_whisper_job(), tmp_path, Control(ranks=ranks))
    assert ranks.broadcasts == 1


def test_a_later_stage_goes_on_from_a_model_folder_without_the_encoder(make_whisper_job, tmp_path):
    first = make_whisper_job({"epochs": 1, "average_best": 1})
    train(first, tmp_path / "first", Control())
    settings = {"epochs": 1, "average_best": 1, "init_from": tmp_path / "first" / "model", "learning_rate": 1e-9}
    second = make_whisper_job({**settings, "weight_decay": 0.0}, {"init": "hf:not/there"})
    train(second, tmp_path / "second", Control())
    before, after = (load_model(tmp_path / name / "model").model for name in ("first", "second"))
    for name, weight in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], weight, atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match="kernel 5"):
        train(make_whisper_job(settings, {"kernel": 7}), tmp_path / "third", Control())


def test_a_conformer_does_not_go_on_from_a_whisper(make_whisper_job, make_job, tmp_path):
    folder = train(make_whisper_job({"epochs": 1, "average_best": 1}), tmp_path / "first", Control())
    with pytest.raises(CheckpointError, match="architecture Whisper"):
        train(make_job(settings={"init_from": folder}), tmp_path / "second", Control())


def test_what_cannot_be_begun_from_is_refused(whisper_encoder, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_sizes(WhisperSettings(init=str(tmp_path / "no" / "such" / "folder"), layers=(0,)))
    with pytest.raises(RecipeError, match=r"layer 2.*from 0 to 1"):
        read_sizes(WhisperSettings(init=str(whisper_encoder), layers=(0, 2)))
    save_encoder("wav2vec2-base", tmp_path / "wav2vec2")
    with pytest.raises(RecipeError, match=r"'wav2vec2' model.*expected a Whisper"):
        read_sizes(WhisperSettings(init=str(tmp_path / "wav2vec2"), layers=(0,)))
    save_encoder("whisper", tmp_path / "large", num_mel_bins=128)
    with pytest.raises(RecipeError, match="128 mel bins"):
        read_sizes(WhisperSettings(init=str(tmp_path / "large"), layers=(0,)))


def test_a_pickle_is_refused(whisper_encoder, tmp_path):
    place = tmp_path / "pickled"
    save_encoder("whisper", place)
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        read_sizes(WhisperSettings(init=str(place), layers=(0,)))


@pytest.fixture
def speech():
    """Twenty utterances of dev-clean."""
    if not (Path(os.environ.get("ASR_KD_MODELS", "")) / "whisper-tiny.en").is_dir():
        pytest.skip("needs whisper-tiny.en in the folder that ASR_KD_MODELS names")
    files = sorted(Path(os.environ.get("ASR_KD_CORPORA", "none")).glob("LibriSpeech/dev-clean/*/*/*.flac"))[::60][:20]
    if len(files) < 20:
        pytest.skip("needs LibriSpeech's dev-clean in the folder that ASR_KD_CORPORA names")
    return [Utterance(path.stem, path, soundfile.info(path).duration, "A", "s") for path in files]


@pytest.mark.slow
def test_the_real_tiny_whisper_before_any_training(speech):
    """With full context its layers are nearly Whisper's own: pooling, wrapped positions and the map change little."""
    settings = read_sizes(WhisperSettings(init="hf:openai/whisper-tiny.en", layers=(0, 1, 2, 3)))
    assert (settings.width, settings.heads, settings.opened.feed_forward) == (384, 6, 1536)
    model, recorder = StreamingWhisper(settings, 20).eval(), Recorder()
    model.set_normalisation(*measure_normalisation(speech, 1))
    start_from_whisper(model, speech, 1, ALONE, recorder)
    explained = int(re.search(r"explains (\d+) %", recorder.lines[-1]).group(1))
    assert explained > 85
    teacher = open_teacher_source(TeacherSource(source="encoder:openai/whisper-tiny.en"))
    for utterance in speech[:3]:
        waveform = read_utterance(utterance)[:80_000]  # rounded frequencies drift apart from Whisper's later
        theirs = teacher.with_layers(waveform[None], torch.tensor([len(waveform)]), (2, 4))[1]
        features = fbank(waveform)
        with torch.no_grad():
            ours = model(features[None], torch.tensor([len(features)]), wanted_layers=(2, 4)).layers
        for layer, least in ((2, 0.7), (4, 0.8)):
            mean = theirs[layer].mean((0, 1))
            normed = torch.nn.functional.layer_norm(ours[layer], (384,))
            assert torch.cosine_similarity(normed - mean, theirs[layer] - mean, dim=-1).mean() > least
