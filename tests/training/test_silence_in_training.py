"""Silence in front of training utterances: every kind of target moves along, frame by frame."""

import json

import pytest
import torch

from asr_kd.features.augment import Augmentation
from asr_kd.losses import DistillSettings, StudentOutput, Supervision
from asr_kd.losses.ctc import GuidedCtc
from asr_kd.losses.frame_kl import DelayedKl, FrameKl
from asr_kd.losses.representation import LayerPair, Representation
from asr_kd.models.layers import output_len
from asr_kd.models.weights import load_model
from asr_kd.posteriors.types import DensePosteriors, array_names
from asr_kd.recipe.system_settings import EncoderTeacherSettings
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.teachers.local import LocalTeacher
from asr_kd.training.batch_sampler import SampledUtterance
from asr_kd.training.dataset import SpeechDataset
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import assert_resumes_exactly, job_on

LOUD = Augmentation(speeds=(0.9, 1.0), silence_share=0.9, silence_max_seconds=0.4, gain_share=0.5, ramp_share=0)
LAYER = 2
LEAD = 5
"""Encoder frames of silence."""


@pytest.fixture(scope="module")
def teacher(utterances, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    job = job_on(utterances, name="teacher", settings={"epochs": 1}, model={"streaming": None})
    model_folder = train(job, folder / "teacher", Control())
    return model_folder, job, LocalTeacher(model_folder)


@pytest.fixture(scope="module")
def store(teacher, utterances, tmp_path_factory):
    _, job, local = teacher
    folder = tmp_path_factory.mktemp("targets")
    extract(local, utterances[:9], TargetSettings(speeds=(0.9, 1.0), layers=(LAYER,)), folder)
    return Store.open(folder, vocabulary=job.vocabulary, teacher_sha256=local.sha256)


def test_stored_targets_and_layers_move_by_the_frames_of_the_silence(store, utterances):
    dataset = SpeechDataset(utterances[:9], [[1]] * 9, 0.5, 10, store, arrays=array_names(LAYER))
    codes, scale = array_names(LAYER)
    for speed in (0.9, 1.0):
        plain = dataset[SampledUtterance(4, speed, 7)]
        moved = dataset[SampledUtterance(4, speed, 7, lead_frames=4 * LEAD, gain_db=-20.0, silence_seed=2)]
        assert len(moved.features) == len(plain.features) + 4 * LEAD
        assert moved.audio_frames == plain.audio_frames
        assert output_len(len(moved.features)) == output_len(len(plain.features)) + LEAD
        assert moved.targets.tokens[:LEAD, 0].tolist() == [store.info.vocabulary.blank_id] * LEAD
        assert moved.targets.probs[:LEAD].sum(-1).tolist() == [1.0] * LEAD
        for part, before in zip(moved.targets[:2], plain.targets[:2], strict=True):
            assert torch.equal(part[LEAD:], before)
        assert torch.equal(moved.arrays[codes][LEAD:], plain.arrays[codes])
        assert torch.equal(moved.arrays[scale], plain.arrays[scale])


@pytest.mark.parametrize(
    "term",
    [
        FrameKl(0, "all"),
        FrameKl(0, "nonblank", delay_frames=1),
        DelayedKl(0, "minimum", range(3), dilation=0),
        DelayedKl(0, "utterance", range(3), dilation=0),
        GuidedCtc(0, delay_frames=1),
    ],
)
def test_outputs_and_targets_that_move_together_cost_the_same(term):
    def loss(student, teacher):
        output = StudentOutput(student, torch.tensor([student.shape[1]]))
        return term(output, Supervision(targets=DensePosteriors(teacher, torch.tensor([teacher.shape[1]]))))

    generator = torch.Generator().manual_seed(1)
    student, teacher = (3 * torch.randn(1, frames, 9, generator=generator) for frames in (12, 10))
    certain = torch.full((1, LEAD, 9), -50.0)
    certain[..., 0] = 0.0
    moved = [torch.cat([certain, part.log_softmax(-1)], 1) for part in (student, teacher)]
    torch.testing.assert_close(loss(*moved), loss(student.log_softmax(-1), teacher.log_softmax(-1)))


def test_the_silence_has_no_layers_to_be_drawn_to():
    term = Representation((LayerPair(1, 1),), 6, 4, "mse")
    hidden, taught = torch.randn(2, 8, 6), torch.randn(2, 8, 4)
    log_probs, lens, lead = torch.zeros(2, 8, 3), torch.tensor([8, 6]), torch.tensor([3, 0])
    output = StudentOutput(log_probs, lens, {1: hidden})
    supervision = Supervision(targets=DensePosteriors(log_probs, lens), teacher_layers={1: taught}, lead_lens=lead)
    alone = Supervision(
        targets=DensePosteriors(log_probs[:1, :5], torch.tensor([5])), teacher_layers={1: taught[:1, 3:]}
    )
    first = term(StudentOutput(log_probs[:1, :5], torch.tensor([5]), {1: hidden[:1, 3:]}), alone)
    second = term(
        StudentOutput(log_probs[1:], lens[1:], {1: hidden[1:]}),
        Supervision(targets=DensePosteriors(log_probs[1:], lens[1:]), teacher_layers={1: taught[1:]}),
    )
    torch.testing.assert_close(term(output, supervision), first + second)


@pytest.mark.parametrize(
    "objectives",
    [{"frame_kl": {"selection": "all"}}, {"representation": {"pairs": [[1, LAYER]]}}],
    ids=["posteriors", "layers"],
)
def test_a_dense_teacher_trains_as_the_store_does_with_silence_in_front(teacher, store, make_job, tmp_path, objectives):
    """Posteriors and layers of the audio without the silence, moved by it: the same losses as with stored ones."""
    model_folder, _, _ = teacher
    dense = load_model(model_folder).model
    silent = Augmentation(speeds=(1.0,), silence_share=1.0, silence_max_seconds=0.4, gain_share=0.0, spec_augment=None)
    settings = {"epochs": 1, "average_best": 1, "augmentation": silent}

    def loss(source: str, **given) -> float:
        distill = DistillSettings.model_validate({"kd_weight": 1.0, "targets": source, "objectives": objectives})
        train(
            make_job(settings=settings, model={"dropout": 0.0}, distill=distill, **given), tmp_path / source, Control()
        )
        return json.loads((tmp_path / source / "curve.jsonl").read_text())["train_loss"]

    assert loss("dense", dense_teacher=dense) == pytest.approx(loss("stored", store=store), rel=0.02)


@pytest.mark.parametrize(
    "distill",
    [
        None,
        {"kd_weight": 0.5},
        {"kd_weight": 0.5, "objectives": {"representation": {"pairs": [[1, LAYER]], "delay_frames": 1}}},
        {"kd_weight": 0.5, "objectives": {"frame_kl": {"delay_frames": 2}, "consistency": {}}},
    ],
)
def test_every_objective_trains_and_resumes_bit_for_bit(distill, make_job, store, tmp_path):
    settings = {"epochs": 2, "augmentation": LOUD}
    stored = {"distill": DistillSettings(**distill), "store": store} if distill else {}
    job = make_job(settings=settings, **stored)
    assert_resumes_exactly(job, tmp_path, 3)


def test_encoder_teachers_are_augmented_only_on_request():
    encoder = {"encoder": {"source": "hf:facebook/wav2vec2-base"}}
    plain = EncoderTeacherSettings.model_validate(encoder).train.augmentation
    assert (plain.silence_share, plain.gain_share) == (0.0, 0.0)
    given = {**encoder, "train": {"epochs": 2, "augmentation": {"silence_share": 0.3}}}
    found = EncoderTeacherSettings.model_validate(given).train
    assert (found.epochs, found.augmentation.silence_share, found.augmentation.gain_share) == (2, 0.3, 0.0)
    assert Augmentation().silence_share > 0 < Augmentation().gain_share
