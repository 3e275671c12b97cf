"""Posteriors pooled over transcripts in a store: equal to the teacher's; another transcript is refused."""

import json
import re
from dataclasses import replace

import pytest
import torch

from asr_kd.audio import read_audio
from asr_kd.errors import TargetsError
from asr_kd.features.augment import speed_perturb
from asr_kd.files import json_text
from asr_kd.posteriors import SoftTargets
from asr_kd.posteriors.measures import POOLED, dense_kl, occupancy, pooled_log_probs, sparse_kl
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.targets.extraction_checks import plan_lines
from asr_kd.targets.stored_arrays import read_pooled, run_teacher, spell_transcripts
from tests.helpers.fake_teacher import FakeTeacher


@pytest.fixture
def pooling(settings) -> TargetSettings:
    return settings.model_copy(update={"pooled": True})


@pytest.fixture
def corpus(corpus):
    """Transcripts of many lengths; one is missing, one needs characters that the vocabulary does not have."""
    texts = ["ab", "abba", "aa", "h", None, "cab", "a b", "fade", "abcdefgh" * 9]
    return [replace(utterance, text=text) for utterance, text in zip(corpus, texts, strict=True)]


@pytest.fixture
def transcripts(corpus, teacher):
    return spell_transcripts(corpus, teacher.vocabulary, "none")


@pytest.fixture
def folder(tmp_path, teacher, corpus, pooling, transcripts):
    extract(teacher, corpus, pooling, tmp_path / "store", transcripts=transcripts)
    return tmp_path / "store"


def test_stored_posteriors_are_the_teachers_of_each_token(folder, teacher, corpus, transcripts):
    store = Store.open(folder, teacher.vocabulary, teacher.sha256)
    blank_id, seen = teacher.vocabulary.blank_id, 0
    for utterance in corpus:
        for variant, speed in (("speed-1.0", 1.0), ("speed-0.9", 0.9)):
            tokens = transcripts[utterance.id]
            found = read_pooled(store, utterance.id, variant, tokens)
            dense, _ = run_teacher(teacher, [speed_perturb(read_audio(utterance.audio), speed)])
            gamma = occupancy(*dense, torch.tensor([tokens]).view(1, -1), torch.tensor([len(tokens)]), blank_id)
            if not gamma.any():
                assert found.shape == (0, 8, 2)
                continue
            expected = pooled_log_probs(dense.log_probs, gamma)
            stored = SoftTargets(found[None, ..., 0].long(), found[None, ..., 1])
            assert found.shape == (len(tokens), 8, 2)
            assert float(sparse_kl(stored, expected).max()) < 0.01
            assert float(dense_kl(expected, expected).max()) < 1e-6
            seen += 1
    assert seen >= 8, "there must be something to look at"


def test_frames_are_stored_as_without(folder, tmp_path, teacher, corpus, settings):
    extract(teacher, corpus, settings, tmp_path / "plain")
    plain, pooled = Store.open(tmp_path / "plain"), Store.open(folder)
    for utterance in corpus:
        for one, other in zip(plain.read(utterance.id)[:2], pooled.read(utterance.id)[:2], strict=True):
            assert torch.equal(one, other)


def test_another_transcript_is_refused_by_the_utterances_name(folder, corpus, transcripts):
    store = Store.open(folder)
    name, tokens = corpus[1].id, transcripts[corpus[1].id]
    for other in (tokens[:-1], [*tokens[::-1][:3], 7], [*tokens, tokens[0]], []):
        with pytest.raises(TargetsError, match=f"{name}.* over another transcript"):
            read_pooled(store, name, "speed-1.0", other)


def test_a_store_without_pooled_posteriors_is_refused(tmp_path, teacher, corpus, settings):
    extract(teacher, corpus, settings, tmp_path / "plain")
    with pytest.raises(TargetsError, match=r"targets\.pooled: true"):
        read_pooled(Store.open(tmp_path / "plain"), corpus[0].id, "speed-1.0", [1, 2])
    with pytest.raises(TargetsError, match="no posteriors 'pooled'"):
        Store.open(tmp_path / "plain").read(corpus[0].id, name=POOLED)


def test_other_transcripts_do_not_go_into_a_store_that_was_begun(folder, corpus, pooling, teacher):
    changed = [replace(corpus[0], text="ha"), *corpus[1:]]
    with pytest.raises(TargetsError, match="transcripts_sha256"):
        extract(teacher, changed, pooling, folder, transcripts=spell_transcripts(changed, teacher.vocabulary, "none"))


def test_extraction_asks_for_transcripts(tmp_path, teacher, corpus, pooling):
    with pytest.raises(ValueError, match="transcripts"):
        extract(teacher, corpus, pooling, tmp_path / "store")


def test_broken_posteriors_are_quarantined_alone(tmp_path, corpus, pooling, transcripts):
    class Broken(FakeTeacher):
        def log_probs(self, waveforms, sample_lens):
            dense = super().log_probs(waveforms, sample_lens)
            if len(sample_lens) > 1:
                dense.log_probs[0, 0] = float("nan")
            return dense

    report = extract(
        Broken(),
        corpus,
        pooling.model_copy(update={"max_quarantine_share": 1.0, "fidelity_utterances": 1}),
        tmp_path / "store",
        transcripts=transcripts,
    )
    left = {utterance.id for utterance in corpus} - {entry.id for entry in report.quarantine}
    assert left
    assert report.quarantine
    assert all("not finite" in entry.reason for entry in report.quarantine)
    store = Store.open(tmp_path / "store")
    assert all(read_pooled(store, name, "speed-1.0", transcripts[name]).isfinite().all() for name in left)


def test_the_plan_counts_what_pooling_takes(teacher, corpus, pooling, settings, transcripts):
    with_pooled, without = plan_lines(teacher, corpus, pooling, transcripts), plan_lines(teacher, corpus, settings)
    more, fewer = (float(re.search(r"([\d.]+) bytes a frame", lines[1])[1]) for lines in (with_pooled, without))
    assert more > fewer


def test_an_index_without_the_hash_of_transcripts_opens(folder):
    index = json.loads((folder / "store.json").read_text())
    del index["transcripts_sha256"]
    (folder / "store.json").write_text(json_text(index))
    assert Store.open(folder).info.transcripts_sha256 is None
