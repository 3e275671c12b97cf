"""Disturbed training utterances: drawn by the plan, never cached, aligned with the targets of the clean audio."""

from dataclasses import replace

import pytest
import torch

from asr_kd.features.augment import Augmentation, Perturbation
from asr_kd.losses import DistillSettings
from asr_kd.models.layers import output_lens
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.teachers.local import LocalTeacher
from asr_kd.training.batch import Example
from asr_kd.training.batch_sampler import SampledUtterance, plan_epoch
from asr_kd.training.dataset import SpeechDataset
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import assert_resumes_exactly

PERTURB = Perturbation(share=0.5, snr_db=(0.0, 10.0), room_share=0.5, telephone_share=0.5)
SPEEDS = {"speeds": (0.9, 1.0, 1.1), "silence_share": 0.5}


def flat(epoch: int, perturb: Perturbation | None = PERTURB) -> list[SampledUtterance]:
    augmentation = Augmentation(**SPEEDS, perturb=perturb)
    return [draw for batch in plan_epoch([1.0] * 400, augmentation, 20.0, 1, epoch) for draw in batch]


def test_the_plan_draws_who_is_disturbed_and_changes_nothing_else():
    disturbed, plain = flat(1), flat(1, None)
    assert [draw._replace(augmentation_seed=None) for draw in disturbed] == plain
    seeds = [draw.augmentation_seed for draw in disturbed if draw.augmentation_seed is not None]
    assert 160 <= len(seeds) <= 240
    assert len(set(seeds)) == len(seeds)
    assert flat(1) == disturbed
    later = {draw.augmentation_seed for draw in flat(2)} - {None}
    assert not later & set(seeds)
    assert all(draw.augmentation_seed is not None for draw in flat(1, Perturbation(share=1.0)))


@pytest.fixture
def dataset(utterances) -> SpeechDataset:
    return SpeechDataset(utterances, [[1]] * len(utterances), 0.5, 100, perturb=PERTURB)


def test_each_draw_sounds_differently_and_the_clean_one_is_as_before(dataset, utterances):
    plain = SpeechDataset(utterances, [[1]] * len(utterances), 0.5, 100)
    clean = dataset[SampledUtterance(2, 0.9, 20)]
    loud = [dataset[SampledUtterance(2, 0.9, 20, seed)] for seed in (1, 2, 1)]
    assert all(isinstance(item, Example) for item in (clean, *loud))
    assert {item.audio_frames for item in (clean, *loud)} == {clean.audio_frames}
    assert {item.features.shape for item in (clean, *loud)} == {clean.features.shape}
    assert loud[0].features.equal(loud[2].features)
    assert not loud[0].features.equal(loud[1].features)
    assert not loud[0].features.equal(clean.features)
    assert dataset[SampledUtterance(2, 0.9, 20)].features.equal(plain[SampledUtterance(2, 0.9, 20)].features)


def test_a_voice_that_cannot_be_read_is_passed_over(utterances, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"nothing")
    crowd = [utterances[0], *(replace(u, audio=broken) for u in utterances[1:])]
    dataset = SpeechDataset(crowd, [[1]] * len(crowd), 0.5, 100, perturb=PERTURB)
    items = [dataset[SampledUtterance(0, 1.0, 0, seed)] for seed in range(10)]
    assert all(isinstance(item, Example) and item.features.isfinite().all() for item in items)


def test_distils_from_targets_of_the_clean_audio_and_resumes_exactly(make_job, utterances, tmp_path):
    teacher_job = make_job(name="teacher", settings={"epochs": 1})
    teacher = LocalTeacher(train(teacher_job, tmp_path / "teacher", Control()))
    extract(teacher, utterances[:9], TargetSettings(speeds=(0.9, 1.0, 1.1)), tmp_path / "targets")
    store = Store.open(tmp_path / "targets", vocabulary=teacher_job.vocabulary, teacher_sha256=teacher.sha256)
    dataset = SpeechDataset(utterances[:9], [[1]] * 9, 0.5, 0, store, perturb=PERTURB)
    for draw in (SampledUtterance(3, 1.1, 10), SampledUtterance(3, 1.1, 10, 5)):
        item = dataset[draw]
        assert len(item.targets.tokens) == int(output_lens(torch.tensor(item.audio_frames)))
    settings = {"epochs": 2, "augmentation": Augmentation(**SPEEDS, perturb=PERTURB)}
    job = make_job(distill=DistillSettings(kd_weight=0.5), store=store, settings=settings)
    assert_resumes_exactly(job, tmp_path, 3)
