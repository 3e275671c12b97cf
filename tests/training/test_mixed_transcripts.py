"""Utterances with and without a transcript in one training run: who is taken, what batches say, exact resuming."""

from dataclasses import replace

import pytest

from asr_kd.errors import StoppedEarly
from asr_kd.losses import DistillSettings, Objective, Shape
from asr_kd.models.weights import load_model
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.teachers.local import LocalTeacher
from asr_kd.training.batch import Example, collate_batch
from asr_kd.training.batch_sampler import SampledUtterance
from asr_kd.training.dataset import SpeechDataset
from asr_kd.training.selection import select
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import stop_after, weights_of

MIXED = DistillSettings(kd_weight=0.8, kd_weight_final=0.2, kd_schedule="cosine", untranscribed=True)


@pytest.fixture
def mixed(utterances):
    return [replace(each, text=None) if number % 3 == 0 else each for number, each in enumerate(utterances[:9])]


def test_they_are_taken_only_where_the_teacher_alone_may_teach(make_job, mixed):
    objective = Objective.from_settings(MIXED, Shape(blank_id=0))
    found = select(make_job(train=mixed, distill=MIXED), objective)
    assert len(found.utterances) == 9
    assert [row is None for row in found.tokens] == [number % 3 == 0 for number in range(9)]
    assert not found.excluded
    found = select(make_job(train=mixed, distill=DistillSettings(kd_weight=0.5)), objective)
    assert len(found.utterances) == 6
    assert {row["reason"] for row in found.excluded} == {"empty transcript"}


def test_a_batch_and_its_pieces_know_which_rows_they_are(utterances):
    tokens = [None, [1, 2], None, [3], [], None]
    dataset = SpeechDataset(utterances[:6], tokens, 0.1, 10)
    examples = [dataset[SampledUtterance(row, 1.0, 0)] for row in range(6)]
    assert all(isinstance(item, Example) for item in examples)
    batch = collate_batch(examples)
    assert batch.untranscribed == (0, 2, 5)
    assert batch.references.lens.tolist() == [0, 2, 0, 1, 0, 0]
    assert [piece.untranscribed for piece in batch.pieces(2)] == [(0, 1), (2,)]
    assert [piece.ids[1] for piece in batch.pieces(2)] == ["noise-2", "noise-3"]


def test_they_train_together_and_resume_exactly(make_job, utterances, mixed, tmp_path):
    teacher_job = make_job(name="teacher", settings={"epochs": 1})
    teacher = LocalTeacher(train(teacher_job, tmp_path / "teacher", Control()))
    extract(teacher, mixed, TargetSettings(speeds=(0.9, 1.0, 1.1)), tmp_path / "targets")
    store = Store.open(tmp_path / "targets", vocabulary=teacher_job.vocabulary, teacher_sha256=teacher.sha256)
    job = make_job(train=mixed, distill=MIXED, store=store, settings={"epochs": 2})
    model = train(job, tmp_path / "whole", Control())
    assert load_model(model).card["training_utterances"] == 9
    with pytest.raises(StoppedEarly):
        train(job, tmp_path / "pieces", Control(should_stop=stop_after(3)))
    train(job, tmp_path / "pieces", Control())
    assert weights_of(tmp_path / "pieces") == weights_of(tmp_path / "whole")
