"""Utterances made of pieces of several: drawn by the plan, as long as what they replace, without a transcript."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import RecipeError
from asr_kd.features.augment import Augmentation, splice
from asr_kd.losses import DistillSettings
from asr_kd.models.weights import load_model
from asr_kd.recipe.settings import load_recipe
from asr_kd.training.batch_sampler import SampledUtterance, plan_epoch
from asr_kd.training.dataset import SpeechDataset
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import assert_resumes_exactly
from tests.helpers.tiny_run import RECIPE


@given(st.integers(1, 400_000), st.lists(st.integers(1, 200_000), min_size=1, max_size=4), st.integers(0, 9))
def test_a_splice_is_made_of_the_given_waveforms_without_a_gap(num_samples, lengths, seed):
    waveforms = [1000.0 * number + torch.linspace(0.0, 1.0, length) for number, length in enumerate(lengths)]
    given_out = []

    def draw(generator):
        given_out.append(int(torch.randint(len(waveforms), (), generator=generator)))
        return waveforms[given_out[-1]]

    made = splice(num_samples, torch.Generator().manual_seed(seed), draw)
    assert len(made) == num_samples
    assert set((made / 1000.0).floor().int().tolist()) == set(given_out)
    longest = max(lengths)
    assert len(given_out) >= num_samples / min(longest, 64_000)


def flat(splice_share: float, epoch: int = 1) -> list[SampledUtterance]:
    augmentation = Augmentation(speeds=(0.9, 1.1), splice_share=splice_share)
    return [draw for batch in plan_epoch([1.0] * 400, augmentation, 20.0, 1, epoch) for draw in batch]


def test_the_plan_draws_which_are_replaced_and_changes_nothing_else():
    spliced, plain = flat(0.5), flat(0.0)
    assert [draw._replace(splice_seed=None) for draw in spliced] == plain
    seeds = {draw.splice_seed for draw in spliced} - {None}
    assert 160 <= len(seeds) <= 240
    assert not seeds & {draw.splice_seed for draw in flat(0.5, epoch=2)}


def test_a_splice_has_the_length_of_what_it_replaces_and_no_transcript(utterances, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"nothing")
    some = [*utterances[:4], replace(utterances[4], audio=broken)]
    dataset = SpeechDataset(some, [[1]] * 4 + [[1]], 0.5, 100, with_waveforms=True)
    plain = dataset[SampledUtterance(0, 0.9, 20)]
    made = [dataset[SampledUtterance(0, 0.9, 20, splice_seed=seed)] for seed in (*range(10), 0)]
    assert {each.features.shape for each in made} == {plain.features.shape}
    assert (plain.tokens, {each.tokens for each in made}) == ([1], {None})
    assert made[0].waveform.equal(made[-1].waveform)
    assert not made[0].waveform.equal(made[1].waveform)


def test_some_utterances_are_spliced_beside_transcripts_and_training_resumes_exactly(make_job, tmp_path):
    teacher = load_model(train(make_job(name="teacher", settings={"epochs": 1}), tmp_path / "teacher", Control())).model
    settings = {"epochs": 3, "augmentation": Augmentation(splice_share=0.5)}
    distill = DistillSettings(kd_weight=0.5, targets="dense")
    assert_resumes_exactly(make_job(settings=settings, distill=distill, dense_teacher=teacher), tmp_path)


@pytest.mark.parametrize(
    ("words", "because"),
    [
        (["students.student-hard.train.augmentation.splice_share=0.5"], "targets: dense"),
        (["students.student-kd.train.augmentation.splice_share=0.5"], "targets: dense"),
        (
            [
                "students.student-kd.train.augmentation.splice_share=0.5",
                "students.student-kd.distill={targets: dense, objectives: {pooled_kl: {}}}",
            ],
            "pooled_kl alone",
        ),
        (["teachers.teacher.train.augmentation.splice_share=0.5"], "a teacher is trained on transcripts"),
    ],
)
def test_splices_without_a_running_teacher_are_refused(words, because):
    with pytest.raises(RecipeError, match=because):
        load_recipe(RECIPE, words)
