"""Stored variants of perturbed audio: the same sound for the teacher and for the student, to the sample."""

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import RecipeError, TargetsError
from asr_kd.features.augment import Augmentation, WaveformAugmentation, speed_perturb
from asr_kd.posteriors.measures import partition_log_probs
from asr_kd.posteriors.types import map_tensors
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.targets.settings import Variant, variant_of
from asr_kd.targets.sharded_extraction import read_batches
from asr_kd.targets.stored_arrays import run_teacher
from asr_kd.training.batch_sampler import SampledUtterance, plan_epoch
from asr_kd.training.dataset import SpeechDataset
from tests.helpers.fake_teacher import FakeTeacher

SOUNDS = {
    "noisy": WaveformAugmentation(snr_db=(0.0, 5.0), room_share=0.0, telephone_share=0.0),
    "far": WaveformAugmentation(snr_db=None, room_share=1.0, telephone_share=0.0, gain_db=0.0),
}


@pytest.fixture
def perturbed(settings) -> TargetSettings:
    return settings.model_copy(update={"perturbed": SOUNDS})


@pytest.mark.parametrize("version", SOUNDS)
def test_a_variant_depends_on_utterance_and_name_alone_and_keeps_its_length(corpus, version):
    waveform = read_utterance(corpus[0])
    one, same = (variant_of(0.9, version, SOUNDS).apply(waveform, "u0") for _ in range(2))
    assert torch.equal(one, same)
    assert one.shape == speed_perturb(waveform, 0.9).shape
    assert not torch.equal(one, speed_perturb(waveform, 0.9))
    assert not torch.equal(one, variant_of(0.9, version, SOUNDS).apply(waveform, "u1"))
    assert torch.equal(Variant(0.9).apply(waveform, "u0"), speed_perturb(waveform, 0.9))


def test_every_augmented_copy_is_stored_at_every_speed(tmp_path, corpus, perturbed):
    teacher = FakeTeacher()
    extract(teacher, corpus, perturbed, tmp_path / "s")
    store = Store.open(tmp_path / "s")
    names = ("speed-1.0", "speed-0.9", "speed-1.0-noisy", "speed-0.9-noisy", "speed-1.0-far", "speed-0.9-far")
    assert store.info.variants == names
    assert store.info.perturbed["far"]["room_share"] == 1.0
    for variant in perturbed.variants:
        waveform = variant.apply(read_utterance(corpus[4]), corpus[4].id)
        dense, _ = run_teacher(teacher, [waveform])
        stored = store.read(corpus[4].id, variant.name, int(dense.lens[0]))
        kept, _ = partition_log_probs(dense.log_probs, map_tensors(stored, lambda part: part[None]))
        assert (kept[0].exp() - stored.probs).abs().masked_fill(stored.probs == 0, 0.0).max() < 0.05


def test_clean_targets_do_not_change_when_versions_are_added(tmp_path, corpus, settings, perturbed):
    extract(FakeTeacher(), corpus, settings, tmp_path / "clean")
    extract(FakeTeacher(), corpus, perturbed, tmp_path / "both")
    clean, both = Store.open(tmp_path / "clean"), Store.open(tmp_path / "both")
    for utterance in corpus:
        for one, other in zip(clean.read(utterance.id)[:2], both.read(utterance.id)[:2], strict=True):
            assert torch.equal(one, other)


def test_a_store_of_another_sound_is_refused(tmp_path, corpus, perturbed):
    extract(FakeTeacher(), corpus, perturbed, tmp_path / "s")
    louder = {**SOUNDS, "noisy": SOUNDS["noisy"].model_copy(update={"snr_db": (10.0, 15.0)})}
    with pytest.raises(TargetsError, match="differ in perturbed"):
        extract(FakeTeacher(), corpus, perturbed.model_copy(update={"perturbed": louder}), tmp_path / "s")


def test_readers_give_every_variant(corpus, perturbed):
    (items,) = read_batches([corpus[:2]], perturbed.variants, 2)
    for item in items:
        whole = read_utterance(item.utterance)
        for waveform, variant in zip(item.waveforms, perturbed.variants, strict=True):
            assert torch.equal(waveform, variant.apply(whole, item.utterance.id))


@pytest.mark.parametrize("name", ["Noisy", "a-b", "", "a b"])
def test_a_name_that_would_not_fit_is_refused(name):
    with pytest.raises(RecipeError, match="small letters"):
        parse_settings(TargetSettings, {"perturbed": {name: {}}}, "test")


def test_training_draws_each_version_as_often_and_the_rest_stays_as_it_was():
    plain, varied = Augmentation(speeds=(0.9, 1.0)), Augmentation(speeds=(0.9, 1.0), augmented_copies=("noisy", "far"))
    before = [draw for batch in plan_epoch([3.0] * 600, plain, 30.0, 1, 1) for draw in batch]
    after = [draw for batch in plan_epoch([3.0] * 600, varied, 30.0, 1, 1) for draw in batch]
    assert [draw._replace(augmented_copy="") for draw in after] == before
    counts = [sum(draw.augmented_copy == name for draw in after) for name in ("", "noisy", "far")]
    assert min(counts) > 150


def test_a_student_trains_on_the_teachers_audio_and_targets(tmp_path, corpus, perturbed):
    extract(FakeTeacher(), corpus, perturbed, tmp_path / "s")
    store = Store.open(tmp_path / "s")
    tokens = [[1]] * len(corpus)
    dataset = SpeechDataset(corpus, tokens, 0.0, 100, augmented_copies=SOUNDS)
    features = {
        copy: dataset[SampledUtterance(8, 0.9, 0, augmented_copy=copy)].features
        for copy in ("", "noisy", "far", "noisy")
    }
    assert not torch.allclose(features[""], features["noisy"])
    assert not torch.allclose(features["far"], features["noisy"])
    assert len(features["noisy"]) == len(features[""])
    read = {version: store.read(corpus[8].id, variant_of(0.9, version, SOUNDS).name) for version in ("", "noisy")}
    dataset = SpeechDataset(corpus, tokens, 0.0, 100, store=Reading(store), augmented_copies=SOUNDS)
    for copy, expected in read.items():
        assert torch.equal(dataset[SampledUtterance(8, 0.9, 0, augmented_copy=copy)].targets.probs, expected.probs)


class Reading:
    """A store that does not count frames: the teacher without a model has others than a student."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def read(self, utterance_id: str, variant: str, num_frames: int):
        return self.store.read(utterance_id, variant)
