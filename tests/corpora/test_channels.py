"""One policy for files of several channels: the corpus' own, from prepare through the manifest to every reader."""

import pytest
import soundfile
import torch

from asr_kd.corpora.manifest import Utterance, read_manifest, write_manifest
from asr_kd.corpora.prepare import prepare
from asr_kd.corpora.recordings import read_utterance
from asr_kd.corpora.settings import LibriSpeechSettings
from asr_kd.corpora.utterance_checks import check_utterances
from asr_kd.errors import AudioError, CorpusError
from tests.helpers.corpus_layouts import write_chapter
from tests.helpers.tiny_models import noise_speech


@pytest.fixture
def stereo(tmp_path):
    """Two splits of two utterances; the first of training has two channels."""
    for split, speaker in (("train-clean-100", "19"), ("dev-clean", "20")):
        write_chapter(tmp_path / split, speaker, [".flac", ".flac"])
    left, right = noise_speech(0.5, 1), noise_speech(0.5, 2)
    path = tmp_path / "train-clean-100" / "19" / "7" / "19-7-0000.flac"
    soundfile.write(path, torch.stack([left, right], 1).numpy(), 16_000, subtype="PCM_24")
    return tmp_path, left, right


def test_the_policy_of_the_corpus_reaches_every_reader(stereo):
    folder, left, right = stereo
    with pytest.raises(CorpusError, match=r"has 2 channels: set corpus\.channels"):
        prepare(LibriSpeechSettings(root=folder), folder / "run")
    for policy, expected in (("first", left), ("second", right), ("mean", (left + right) / 2), ("refuse", None)):
        corpus = prepare(LibriSpeechSettings(root=folder, channels=policy, max_excluded_share=0.5), folder / "run")
        if expected is None:
            assert [exclusion.id for exclusion in corpus.excluded] == ["19-7-0000"]
            continue
        manifest = folder / f"{policy}.jsonl"
        write_manifest(manifest, corpus.train)
        train = read_manifest(manifest)
        assert train == corpus.train
        assert [utterance.channels for utterance in train] == [policy, policy]
        assert "channels" in manifest.read_text()
        torch.testing.assert_close(read_utterance(train[0]), expected, atol=1e-6, rtol=0)
        assert check_utterances(train, None, "none", frame_shift_ms=10).rows == []


def test_a_row_without_a_policy_is_refused_by_every_reader(stereo):
    folder, *_ = stereo
    path = folder / "train-clean-100" / "19" / "7" / "19-7-0000.flac"
    utterance = Utterance("u", path, 0.5, "YES", "s")
    with pytest.raises(AudioError, match="has 2 channels"):
        read_utterance(utterance)
    assert [row.problem for row in check_utterances([utterance], None, "none", frame_shift_ms=10).rows] == [
        "several channels"
    ]


def test_another_word_in_a_manifest_is_refused(stereo):
    folder, *_ = stereo
    corpus = prepare(LibriSpeechSettings(root=folder, channels="mean"), folder / "run")
    write_manifest(folder / "set.jsonl", corpus.train)
    text = (folder / "set.jsonl").read_text()
    (folder / "set.jsonl").write_text(text.replace('"mean"', '"left"', 1))
    with pytest.raises(CorpusError, match="channels is 'left', none of refuse, first, second, mean"):
        read_manifest(folder / "set.jsonl")
