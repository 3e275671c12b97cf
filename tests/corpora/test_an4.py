"""AN4's lists, its folds and its official test."""

import shutil

import pytest

from asr_kd.corpora.an4 import find_an4, official_test, read_an4, speaker_folds, split_speakers
from asr_kd.corpora.prepare import prepare
from asr_kd.corpora.settings import CORPORA_VARIABLE, An4Settings
from asr_kd.errors import CorpusError
from tests.helpers.corpus_layouts import write_an4_lists, write_audio

FOLDS = (0, 1, 2, 3)


def speakers_of(recordings):
    return {recording.speaker for recording in recordings}


def test_transcripts_lose_their_marks(an4_folder):
    recordings = read_an4(an4_folder, "train")
    assert recordings[0].id == "an100-mab-b"
    assert recordings[0].speaker == "mab"
    assert recordings[0].text == "ENTER FOUR"
    write_an4_lists(an4_folder, "test", ["x/y/a1"], ["YES ++NOISE++ <sil> NO (a1)"])
    assert read_an4(an4_folder, "test")[0].text == "YES NO"


def test_the_root_may_be_the_folder_its_parent_or_the_variable(an4_folder, monkeypatch):
    assert find_an4(an4_folder) == find_an4(an4_folder.parent) == an4_folder
    monkeypatch.setenv(CORPORA_VARIABLE, str(an4_folder.parent))
    assert find_an4(None) == an4_folder


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv(CORPORA_VARIABLE, raising=False)
    with pytest.raises(CorpusError, match=f"Set {CORPORA_VARIABLE}="):
        find_an4(None)
    with pytest.raises(CorpusError, match=r"an4_train\.fileids"):
        find_an4(tmp_path)
    with pytest.raises(CorpusError, match="no such folder"):
        find_an4(tmp_path / "none")


@pytest.mark.parametrize(("audio", "suffix"), [("audio", ".flac"), ("wav", ".sph"), ("audio", ".wav")])
def test_other_folders_and_formats_of_the_audio(an4_folder, audio, suffix):
    for path in list((an4_folder / "wav").rglob("*.wav")):
        target = an4_folder / audio / path.relative_to(an4_folder / "wav").with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    recordings = read_an4(an4_folder, "train")
    assert all(recording.audio.is_file() and recording.audio.suffix == suffix for recording in recordings)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_folds_are_disjoint_complete_and_balanced(an4_folder, seed):
    recordings = read_an4(an4_folder, "train")
    folds = speaker_folds(recordings, seed)
    assert sum(map(len, folds)) == len(set.union(*folds)) == len(speakers_of(recordings))
    sizes = [sum(recording.speaker in fold for recording in recordings) for fold in folds]
    assert max(sizes) - min(sizes) <= 7
    assert [("mab" in fold) == ("mab2" in fold) for fold in folds] == [True] * 4
    assert folds == speaker_folds(list(reversed(recordings)), seed)
    assert folds != speaker_folds(recordings, seed + 1)


@pytest.mark.parametrize("fold", FOLDS)
def test_no_speaker_is_in_two_sets(an4_folder, fold):
    recordings = read_an4(an4_folder, "train")
    parts = split_speakers(recordings, fold, seed=0)
    assert speakers_of(parts["devtest"]) == speaker_folds(recordings, 0)[fold]
    assert len(speakers_of(parts["dev"])) == 8
    everyone = [speakers_of(part) for part in parts.values()]
    assert sum(map(len, everyone)) == len(set.union(*everyone)) == 24
    assert sum(map(len, parts.values())) == len(recordings)


def test_without_a_fold_all_but_dev_trains(an4_folder):
    parts = split_speakers(read_an4(an4_folder, "train"), "none", seed=0)
    assert parts.keys() == {"train", "dev"}
    assert len(speakers_of(parts["dev"])) == 8
    assert len(speakers_of(parts["train"])) == 16


def test_too_few_speakers_are_refused(an4_folder):
    few = [recording for recording in read_an4(an4_folder, "train") if recording.speaker in {"mab", "mbb"}]
    with pytest.raises(CorpusError, match="speakers"):
        split_speakers(few, "none", seed=0)


def test_the_official_test_is_used_when_it_is_there(an4_folder, tmp_path):
    settings = An4Settings(root=an4_folder, fold=1)
    corpus = prepare(settings, tmp_path)
    assert corpus.absent == {"test": "not present, skipped: there is no etc/an4_test.fileids"}
    assert corpus.sets.keys() == {"dev", "devtest"}

    write_an4_lists(an4_folder, "test", ["an4test_clstk/fxx/t1", "an4test_clstk/fxx/t2"], ["NO (t1)", "YES (t2)"])
    assert "audio is not" in official_test(an4_folder)
    for name in ("t1", "t2"):
        write_audio(an4_folder / "wav" / "an4test_clstk" / "fxx" / f"{name}.wav")
    corpus = prepare(settings, tmp_path)
    assert corpus.absent == {}
    assert [utterance.text for utterance in corpus.sets["test"]] == ["NO", "YES"]
    assert corpus.test_sets == ("devtest", "test")


def test_missing_audio_is_listed_in_one_message(an4_folder, tmp_path):
    shutil.rmtree(an4_folder / "wav" / "an4_clstk" / "mab")
    with pytest.raises(CorpusError, match="5 of 144 utterances cannot be used") as caught:
        prepare(An4Settings(root=an4_folder), tmp_path)
    assert all(f"an10{number}-mab-b.wav: no such file" in str(caught.value) for number in range(5))
    corpus = prepare(An4Settings(root=an4_folder, max_excluded_share=0.1), tmp_path)
    assert [item.id for item in corpus.excluded] == [f"an10{number}-mab-b" for number in range(5)]
    assert len(corpus.utterances) == 139


@pytest.mark.parametrize(
    ("fileids", "texts", "message"),
    [
        (["a/s/u1", "a/s/u2"], ["YES (u1)"], "only in one of its two lists: u2"),
        (["a/s/u1"], ["YES (u1)", "NO (u2)"], "only in one of its two lists: u2"),
        (["a/s/u1", "a/t/u1"], ["YES (u1)"], "occur twice: u1"),
        (["a/s/u1"], ["YES"], r"an4_test\.transcription:1"),
        (["a/s/u1"], ["YES (u1)", "NO (u1)"], r"an4_test\.transcription:2"),
        (["../../u1"], ["YES (u1)"], "out of the corpus"),
    ],
)
def test_wrong_lists_are_refused(an4_folder, fileids, texts, message):
    write_an4_lists(an4_folder, "test", fileids, texts)
    with pytest.raises(CorpusError, match=message):
        read_an4(an4_folder, "test")


@pytest.mark.corpora
@pytest.mark.parametrize("fold", FOLDS)
def test_the_real_corpus(corpora_root, tmp_path, fold):
    corpus = prepare(An4Settings(root=corpora_root, fold=fold), tmp_path)
    assert 225 <= len(corpus.sets["devtest"]) <= 250
    assert 80 <= len(corpus.sets["dev"]) <= 120
    assert len(corpus.train) + len(corpus.dev) + len(corpus.sets["devtest"]) == 948
    assert corpus.excluded == []
    assert all(utterance.text and utterance.duration > 0.3 for utterance in corpus.utterances)
