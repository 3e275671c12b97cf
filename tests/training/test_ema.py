"""The moving average of weights: its arithmetic, and that it is what is judged, kept, saved and gone on with."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from asr_kd.models.weights import load_model
from asr_kd.training.checkpoint import Ema
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import assert_resumes_exactly
from tests.helpers.teachers_beside_training import BESIDE, TeacherBesideTraining


def test_it_follows_by_one_minus_decay_and_faster_at_first():
    model = nn.Linear(1, 1, bias=False)
    ema = Ema(model, decay=0.5)
    expected = None
    for step, value in enumerate([1.0, 3.0, -2.0, 7.0, 0.0, 5.0, 4.0, 2.0, 9.0, 8.0, 6.0]):
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert float(ema.module.weight) == pytest.approx(expected)
    assert decay == 0.5
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert not ema.module.training


def test_the_average_is_what_an_epoch_leaves_and_the_final_weights(make_job, tmp_path):
    job = make_job(settings={"epochs": 1, "average_best": 1, "ema": {"decay": 0.9}})
    folder = train(job, tmp_path / "run", Control())
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    saved = load_file(checkpoint / "model.safetensors")
    final = load_model(folder).model.state_dict()
    kept = load_file(tmp_path / "run" / "best" / "epoch-00001.safetensors")
    for name, tensor in final.items():
        torch.testing.assert_close(tensor, saved[f"ema.module.{name}"], rtol=0, atol=1e-7)
        assert kept[name].equal(saved[f"ema.module.{name}"])
    assert not torch.allclose(final["output.weight"], saved["model.output.weight"], atol=1e-5)
    assert int(saved["ema.n_averaged"]) == load_model(folder).card["steps"]
    raw = make_job(settings={"epochs": 1, "average_best": 1})
    train(raw, tmp_path / "raw", Control())
    (checkpoint,) = (tmp_path / "raw" / "checkpoints").glob("step-*")
    assert load_file(checkpoint / "model.safetensors")["model.output.weight"].equal(saved["model.output.weight"])


def test_resumed_is_uninterrupted(make_job, tmp_path):
    job = make_job(settings={"ema": {"decay": 0.9}, "layer_drop": 0.5, "curriculum_epochs": 1})
    assert_resumes_exactly(job, tmp_path, 4, 4)


def test_a_step_that_is_left_out_is_not_averaged(make_job, tmp_path):
    settings = {"epochs": 1, "max_nonfinite_steps": 99, "ema": {}}
    teacher = TeacherBesideTraining(lambda lens: "loss")
    train(make_job(settings=settings, distill=BESIDE, dense_teacher=teacher), tmp_path / "run", Control())
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert int(load_file(checkpoint / "model.safetensors")["ema.n_averaged"]) == 0
