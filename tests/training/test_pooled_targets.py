"""A student learns from posteriors pooled over the transcripts, stored or computed in training."""

import json
from dataclasses import replace

import pytest

from asr_kd.errors import TargetsError
from asr_kd.losses import DistillSettings
from asr_kd.models.weights import load_model
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.targets.stored_arrays import spell_transcripts
from asr_kd.teachers.local import LocalTeacher
from asr_kd.training.train import train
from asr_kd.training.training_job import Control

POOLED = DistillSettings(kd_weight=0.5, objectives={"pooled_kl": {}})


@pytest.fixture
def teacher(make_job, tmp_path):
    return train(make_job(name="teacher", settings={"epochs": 1}), tmp_path / "teacher", Control())


def losses(model) -> list[float]:
    rows = [json.loads(line) for line in (model.parent / "curve.jsonl").read_text().splitlines()]
    return [row["train_loss"] for row in rows]


def test_from_the_store_until_a_transcript_is_another(make_job, utterances, teacher, tmp_path):
    opened = LocalTeacher(teacher)
    job = make_job(distill=POOLED, settings={"epochs": 1})
    transcripts = spell_transcripts(utterances[:9], opened.vocabulary, job.normalizer)
    settings = TargetSettings(speeds=(0.9, 1.0, 1.1), pooled=True)
    extract(opened, utterances[:9], settings, tmp_path / "targets", transcripts=transcripts)
    job = replace(job, store=Store.open(tmp_path / "targets"))
    found = losses(train(job, tmp_path / "student", Control()))
    assert found
    assert all(0 < loss < float("inf") for loss in found)
    changed = [replace(utterance, text="BAD") for utterance in job.train_utterances]
    with pytest.raises(TargetsError, match="over another transcript"):
        train(replace(job, train_utterances=changed), tmp_path / "changed", Control())


def test_utterances_whose_transcript_is_not_used_take_part_in_the_other_objectives(
    make_job, utterances, teacher, tmp_path
):
    opened = LocalTeacher(teacher)
    distill = DistillSettings(kd_weight=0.5, objectives={"pooled_kl": {}, "frame_kl": {}}, untranscribed=True)
    job = make_job(distill=distill, settings={"epochs": 1})
    transcripts = spell_transcripts(utterances[:9], opened.vocabulary, job.normalizer)
    settings = TargetSettings(speeds=(0.9, 1.0, 1.1), pooled=True)
    extract(opened, utterances[:9], settings, tmp_path / "targets", transcripts=transcripts)
    without = [replace(utterance, text=None) for utterance in job.train_utterances[:4]]
    job = replace(job, store=Store.open(tmp_path / "targets"), train_utterances=[*without, *job.train_utterances[4:]])
    model = train(job, tmp_path / "student", Control())
    assert all(0 < loss < float("inf") for loss in losses(model))
    assert load_model(model).card["training_utterances"] == len(job.train_utterances)


def test_from_a_teacher_that_runs_along(make_job, teacher, tmp_path):
    distill = DistillSettings(kd_weight=0.5, objectives={"pooled_kl": {}}, targets="dense")
    job = make_job(distill=distill, dense_teacher=load_model(teacher).model, settings={"epochs": 1})
    found = losses(train(job, tmp_path / "student", Control()))
    assert found
    assert all(0 < loss < float("inf") for loss in found)
