"""A teacher's own n-best: best first and as greedy has it, resumed part by part, quarantined, refused."""

from dataclasses import replace

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.corpora.recordings import read_utterance
from asr_kd.decoding.greedy import greedy
from asr_kd.errors import RecipeError, StoppedEarly, TargetsError
from asr_kd.targets.hypotheses import HypothesisStore
from asr_kd.targets.nbest import NbestSettings, extract_hypotheses
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.fake_teacher import FakeTeacher

pytest.importorskip("flashlight")
SETTINGS = NbestSettings(count=3, beam_size=8, shard_seconds=2.0, batch_seconds=1.0, readers=0)


class SharpTeacher(FakeTeacher):
    """So certain that the best path is the best hypothesis."""

    def log_probs(self, waveforms, sample_lens):
        dense = super().log_probs(waveforms, sample_lens)
        return dense._replace(log_probs=(dense.log_probs * 8).log_softmax(-1))


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.jsonl"))}


def test_the_best_hypothesis_is_the_best_path_of_a_certain_teacher(corpus, tmp_path):
    teacher = SharpTeacher()
    report = extract_hypotheses(teacher, corpus, SETTINGS, tmp_path / "nbest", "none")
    assert report.complete
    assert report.made > 2
    assert sum(shard.utterances for shard in report.info.shards) == len(corpus)
    store = HypothesisStore.open(tmp_path / "nbest", normalizer="none", source_sha256=teacher.sha256)
    spoken = 0
    for utterance in corpus:
        waveform = read_utterance(utterance)
        dense = teacher.log_probs(waveform[None], torch.tensor([len(waveform)]))
        tokens = greedy(dense.log_probs, dense.lens, teacher.vocabulary.blank_id)[0].tokens
        text, found = teacher.vocabulary.decode(tokens), store[utterance.id]
        assert len(found) <= 3
        if text:
            spoken += 1
            assert found[0].text == text
    assert spoken >= 3


def test_texts_are_under_the_normalizer_and_different(teacher, corpus, tmp_path):
    extract_hypotheses(teacher, corpus, SETTINGS, tmp_path / "nbest", "librispeech")
    store = HypothesisStore.open(tmp_path / "nbest", normalizer="librispeech")
    texts = [[item.text for item in store[id_]] for id_ in store]
    assert any(len(found) > 1 for found in texts)
    assert all(text == text.upper() for found in texts for text in found)
    assert all(len(set(found)) == len(found) for found in texts)


def test_interrupted_it_goes_on_and_the_parts_are_the_same(corpus, tmp_path):
    whole = FakeTeacher()
    extract_hypotheses(whole, corpus, SETTINGS, tmp_path / "whole", "none")
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls % 4 == 0

    resumed, stopped = FakeTeacher(), 0
    while True:
        try:
            report = extract_hypotheses(resumed, corpus, SETTINGS, tmp_path / "pieces", "none", should_stop=stop)
            break
        except StoppedEarly:
            stopped += 1
            with pytest.raises(TargetsError, match="unfinished"):
                HypothesisStore.open(tmp_path / "pieces")
    assert stopped > 1
    assert report.complete
    assert files(tmp_path / "pieces") == files(tmp_path / "whole") != {}
    calls = resumed.calls
    again = extract_hypotheses(resumed, corpus, SETTINGS, tmp_path / "pieces", "none")
    assert (again.made, resumed.calls) == (0, calls)


def test_other_teachers_data_and_settings_are_refused(corpus, tmp_path):
    folder = tmp_path / "nbest"
    extract_hypotheses(FakeTeacher(), corpus, SETTINGS, folder, "none")
    for arguments, message in (
        ((FakeTeacher("b" * 64), corpus, SETTINGS, folder, "none"), "source"),
        ((FakeTeacher(), corpus[:5], SETTINGS, folder, "none"), "manifest_sha256"),
        ((FakeTeacher(), corpus, SETTINGS.model_copy(update={"count": 2}), folder, "none"), "settings"),
        ((FakeTeacher(), corpus, SETTINGS, folder, "librispeech"), "normalizer"),
    ):
        with pytest.raises(TargetsError, match=f"differ in .*{message}"):
            extract_hypotheses(*arguments)


def test_what_cannot_be_used_is_quarantined_up_to_a_share(corpus, tmp_path):
    corpus[2].audio.write_bytes(b"not audio")
    short = replace(corpus[4], duration=0.02)
    corpus[4].audio.write_bytes(b"")
    data = [*corpus[:4], short, *corpus[5:]]
    allowed = SETTINGS.model_copy(update={"max_quarantine_share": 0.3})
    report = extract_hypotheses(FakeTeacher(), data, allowed, tmp_path / "nbest", "none")
    assert {entry.id for entry in report.quarantine} == {corpus[2].id, corpus[4].id}
    assert len((tmp_path / "nbest" / "quarantine.jsonl").read_text().splitlines()) == 2
    assert sum(shard.utterances for shard in report.info.shards) == len(corpus) - 2
    with pytest.raises(TargetsError, match="max_quarantine_share"):
        extract_hypotheses(FakeTeacher(), data, SETTINGS, tmp_path / "strict", "none")


def test_posteriors_that_are_not_numbers_are_quarantined(corpus, tmp_path):
    class Broken(FakeTeacher):
        def log_probs(self, waveforms, sample_lens):
            dense = super().log_probs(waveforms, sample_lens)
            return dense._replace(log_probs=dense.log_probs * torch.nan)

    with pytest.raises(TargetsError, match="not finite"):
        extract_hypotheses(Broken(), corpus, SETTINGS, tmp_path / "nbest", "none")


def test_a_teacher_of_subwords_has_hypotheses_too(corpus, tmp_path):
    teacher = FakeTeacher()
    teacher.vocabulary = Vocabulary(("<blk>", "▁THE", "▁A", "B", "CD", "E", "F", "GH", "I", "J"))
    extract_hypotheses(teacher, corpus, SETTINGS, tmp_path / "nbest", "librispeech")
    store = HypothesisStore.open(tmp_path / "nbest")
    assert any(store[id_] for id_ in store)


def test_a_beam_too_narrow_for_the_count_is_refused():
    with pytest.raises(RecipeError, match="beam_size 4 cannot give count 8"):
        parse_settings(NbestSettings, {"beam_size": 4}, "recipe.yaml")
