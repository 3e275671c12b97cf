"""Several teachers of folds fill one store: each labels the speakers outside its training set."""

import pytest
import torch
from torch import Tensor

from asr_kd.errors import RecipeError, TargetsError
from asr_kd.posteriors import DensePosteriors
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.targets.extraction_checks import SanitySettings, check_teacher_wer
from asr_kd.targets.fidelity import measure_fidelity
from asr_kd.targets.inspect import summarize
from asr_kd.targets.sharding import Share
from asr_kd.teachers.ensemble import OutOfFold
from tests.helpers.fake_teacher import FakeTeacher


class Partial(FakeTeacher):
    """Prefers one letter, so that its posteriors differ from others'."""

    def __init__(self, number: int) -> None:
        super().__init__(sha256=str(number) * 64)
        self.name, self.number = f"teacher-fold-{number}", number

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        dense = super().log_probs(waveforms, sample_lens)
        preferred = torch.zeros(len(self.vocabulary))
        preferred[1 + self.number] = 5.0
        return DensePosteriors((dense.log_probs + preferred).log_softmax(-1), dense.lens)


@pytest.fixture
def members() -> list[Partial]:
    return [Partial(1), Partial(2), Partial(3)]


@pytest.fixture
def together(members, corpus) -> OutOfFold:
    return OutOfFold(members, {utterance.id: row % 3 for row, utterance in enumerate(corpus)}, "teacher of 3 folds")


def test_each_utterance_is_labelled_by_the_teacher_of_its_fold(tmp_path, together, members, corpus, settings):
    extract(together, corpus, settings, tmp_path / "s")
    store = Store.open(tmp_path / "s", teacher_sha256=together.sha256)
    for member in members:
        extract(member, corpus, settings, tmp_path / member.name)
    alone = [Store.open(tmp_path / member.name) for member in members]
    for row, utterance in enumerate(corpus):
        for variant in settings.variant_names:
            found = store.read(utterance.id, variant)
            same = [
                all(
                    torch.equal(ours, theirs)
                    for ours, theirs in zip(found[:2], other.read(utterance.id, variant)[:2], strict=True)
                )
                for other in alone
            ]
            assert same == [number == row % 3 for number in range(3)]


def test_the_store_names_the_teachers(tmp_path, together, members, corpus, settings):
    extract(together, corpus, settings, tmp_path / "s")
    assert Store.open(tmp_path / "s").info.teacher.folds == tuple(member.sha256 for member in members)
    line = next(line for line in summarize(tmp_path / "s") if "teacher:" in line)
    assert "out of fold, by 3 teachers: 111111111111…, 222222222222…, 333333333333…" in line
    extract(members[0], corpus, settings, tmp_path / "one")
    assert Store.open(tmp_path / "one").info.teacher.folds == ()


def test_identity_covers_every_member_and_who_labels_what(together, members, corpus):
    others = [
        OutOfFold([*members[:2], Partial(4)], together.fold_of, "teacher"),
        OutOfFold([members[1], members[0], members[2]], together.fold_of, "teacher"),
        OutOfFold(members, {**together.fold_of, corpus[0].id: 2}, "teacher"),
    ]
    assert len({teacher.sha256 for teacher in (together, *others)}) == 4
    turned = OutOfFold(members, dict(reversed(together.fold_of.items())), "another name")
    assert turned.sha256 == together.sha256


def test_a_store_of_other_folds_is_refused(tmp_path, together, members, corpus, settings):
    extract(together, corpus, settings, tmp_path / "s")
    other = OutOfFold(members, {**together.fold_of, corpus[0].id: 2}, together.name)
    with pytest.raises(TargetsError, match="differ in teacher"):
        extract(other, corpus, settings, tmp_path / "s")


def test_shares_make_the_same_store(tmp_path, together, corpus, settings, shard_files):
    extract(together, corpus, settings, tmp_path / "whole")
    for index in range(2):
        report = extract(together, corpus, settings, tmp_path / "shared", Share(index, 2))
    assert report.complete
    assert shard_files(tmp_path / "whole") == shard_files(tmp_path / "shared")


def test_fidelity_and_checks_use_the_teacher_that_was_not_trained_on_it(tmp_path, together, members, corpus, settings):
    extract(together, corpus, settings, tmp_path / "s")
    store = Store.open(tmp_path / "s")
    everything = settings.model_copy(update={"fidelity_utterances": len(corpus)})
    kept = measure_fidelity(together, store, corpus, everything)
    assert kept.kl < 0.01
    assert measure_fidelity(members[0], store, corpus, everything).kl > 0.1
    calls = [member.calls for member in members]
    check_teacher_wer(together, corpus, "none", SanitySettings(utterances=len(corpus), max_wer=100.0))
    transcribed = {together.fold_of[utterance.id] for utterance in corpus if utterance.text}
    used = [member.calls > before for member, before in zip(members, calls, strict=True)]
    assert used == [number in transcribed for number in range(3)]


def test_audio_that_none_was_trained_on_uses_all(together, members):
    waveforms, lens = torch.randn(1, 16_000), torch.tensor([16_000])
    mean = torch.stack([member.log_probs(waveforms, lens).log_probs.exp() for member in members]).mean(0)
    assert together.member_for("somebody else's") is together
    assert torch.allclose(together.log_probs(waveforms, lens).log_probs.exp(), mean, atol=1e-6)


def test_members_of_other_vocabularies_are_refused():
    with pytest.raises(RecipeError, match="symbols"):
        OutOfFold([FakeTeacher(), FakeTeacher(letters="abc")], {}, "teacher")


def test_layers_of_teachers_trained_apart_are_not_stored(tmp_path, together, corpus):
    with pytest.raises(TargetsError, match="hidden layers"):
        extract(together, corpus, TargetSettings(layers=(1,)), tmp_path / "s")
