"""A public encoder with a CTC head in the training loop: the schedule, the model whisper_encoder, exact resuming."""

from dataclasses import replace

import pytest
import torch

from asr_kd.models.weights import read_tensors
from asr_kd.teachers.local import LocalTeacher
from asr_kd.teachers.settings import EncoderCtcSettings
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import assert_resumes_exactly

pytest.importorskip("transformers")


@pytest.fixture
def make_encoder_job(make_job, whisper_encoder):
    def make(settings=None, **encoder):
        model = {
            "encoder": {"source": f"hf:{whisper_encoder}", **encoder},
            "head": {"width": 16, "blocks": 1, "kernel": 3},
        }
        return replace(make_job(settings=settings or {}), model=EncoderCtcSettings.model_validate(model))

    return make


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_writes_a_teacher(make_encoder_job, tmp_path, precision):
    job = make_encoder_job({"precision": precision, "epochs": 2, "ema": {"decay": 0.9}})
    teacher = LocalTeacher(train(job, tmp_path, Control()))
    assert teacher.vocabulary.symbols == job.vocabulary.symbols
    dense = teacher.log_probs(torch.zeros(1, 16000), torch.tensor([16000]))
    assert bool(torch.isfinite(dense.log_probs).all())
    weights = read_tensors(tmp_path / "model" / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"encoder_sha256", "head"}


def test_unfrozen_layers_are_trained_after_the_frozen_epochs_only(make_encoder_job, whisper_encoder, tmp_path):
    original = read_tensors(whisper_encoder / "model.safetensors")

    def moved(epochs: int) -> float:
        job = make_encoder_job({"epochs": epochs, "average_best": 1}, unfreeze_layers=1, frozen_epochs=1, rate=1.0)
        train(job, tmp_path / str(epochs), Control())
        weights = read_tensors(tmp_path / str(epochs) / "model" / "model.safetensors")
        name = next(name for name in weights if name.startswith("unfrozen.2") and name.endswith("fc1.weight"))
        theirs = next(tensor for key, tensor in original.items() if key.endswith("encoder.layers.1.fc1.weight"))
        return float((weights[name] - theirs).abs().max())

    assert moved(1) == 0.0
    assert moved(2) > 0.0


def test_a_resumed_run_is_the_uninterrupted_one(make_encoder_job, tmp_path):
    job = make_encoder_job(unfreeze_layers=1, frozen_epochs=1)
    assert_resumes_exactly(job, tmp_path, 7)
