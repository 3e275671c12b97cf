"""One optimizer step: how heads of inner layers count in its loss, and lengths of a teacher run in training."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from asr_kd.losses import DistillSettings, Objective, References, Shape, StudentOutput, Supervision
from asr_kd.models.acoustic_model import EncoderOutput
from asr_kd.models.layers import output_lens
from asr_kd.posteriors import DensePosteriors, SoftTargets
from asr_kd.training.batch import Batch
from asr_kd.training.settings import TrainSettings
from asr_kd.training.step import Stepper
from asr_kd.training.training_job import Control, TrainingJob
from tests.helpers.tiny_models import VOCABULARY, tiny_model

BLANK, SIZE = VOCABULARY.blank_id, len(VOCABULARY)


@pytest.fixture
def batch():
    """Two utterances with labels and soft targets."""
    torch.manual_seed(0)
    feature_lens = torch.tensor([80, 61])
    frames = output_lens(feature_lens)
    tokens = torch.arange(SIZE, dtype=torch.int32).expand(2, int(frames.max()), SIZE)
    targets = SoftTargets(tokens, torch.randn(tokens.shape).softmax(-1), frames)
    references = References(torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2]))
    features = torch.randn(2, 80, 80) * 3 - 7
    return Batch(["a", "b"], features, feature_lens, feature_lens, references, targets)


def job_of(**settings) -> TrainingJob:
    return TrainingJob(
        name="student",
        key="of the test",
        model=tiny_model().settings,
        train=TrainSettings(**settings),
        distill=None,
        vocabulary=VOCABULARY,
        normalizer="none",
        seed=0,
        train_utterances=[],
        dev_utterances=[],
    )


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_it_mixes_the_mean_of_inner_heads_with_the_last_layer(batch, weight, tmp_path):
    """L = (1 − w)·L(last) + w·mean of the inner heads'; the terms are the last layer's."""
    distill = DistillSettings.model_validate({"kd_weight": 0.4, "objectives": {"frame_kl": {"selection": "all"}}})
    shape = Shape(BLANK, SIZE, width=32, layers=2, teacher_width=None, teacher_layers=None, streaming=True)
    objective, model = Objective.from_settings(distill, shape), tiny_model().train()
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "probability"):
                module.probability = 0.0
        output: EncoderOutput = model(batch.features, batch.feature_lens, inner_layers=(1, 2))
        supervision = Supervision(batch.references, batch.targets)
        last = objective(StudentOutput(output.log_probs, output.lens), supervision, 30)
        heads = [
            float(objective.of_inner_head(StudentOutput(head, output.lens), supervision, 30)) for head in output.inner
        ]
    plain = {"random_chunk_offset": False, "augmentation": {"spec_augment": None}}
    job = job_of(inner_layers=(1, 2), inner_weight=weight, precision="fp32", **plain)
    step = Stepper(model, objective, job, Control(), contextlib.nullcontext())
    loss, parts = step.take(batch, 30, 0, rate=1e-3)
    assert loss == pytest.approx((1 - weight) * float(last.total) + weight * sum(heads) / 2, rel=1e-5)
    assert parts == pytest.approx({name: float(part) for name, part in last.parts.items()}, rel=1e-5)
    assert heads[0] != pytest.approx(heads[1], rel=1e-3)


def test_lengths_of_a_running_teacher_are_on_the_host_wherever_it_runs(batch):
    """Objectives compare them with the student's, which are; teachers of other projects leave theirs on the GPU."""

    class OnGpu:
        def log_probs(self, waveforms: torch.Tensor, sample_lens: torch.Tensor) -> DensePosteriors:
            return DensePosteriors(torch.zeros(2, 19, SIZE, device="cuda"), torch.tensor([19, 14], device="cuda"))

    stepper = Stepper(
        tiny_model(), Objective.from_settings(None, Shape(BLANK)), job_of(), Control(), contextlib.nullcontext()
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        waveforms = replace(batch, waveforms=torch.zeros(2, 12800), sample_lens=torch.tensor([12800, 9800]))
        dense, _ = stepper.teacher_output(OnGpu(), waveforms, 80)
    assert (dense.log_probs.device.type, dense.lens.device.type) == ("cpu", "cpu")
