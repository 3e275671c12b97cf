"""LibriSpeech's layout: any format, any subset, and what has no partner."""

import pytest

from asr_kd.corpora.librispeech import find_librispeech, read_split
from asr_kd.corpora.prepare import prepare
from asr_kd.corpora.settings import LibriSpeechSettings
from asr_kd.errors import CorpusError
from tests.helpers.corpus_layouts import write_audio, write_chapter


def test_every_audio_format_is_read(librispeech_folder, tmp_path):
    corpus = prepare(LibriSpeechSettings(root=tmp_path), tmp_path)
    assert [u.audio.suffix for u in corpus.train] == [".flac", ".wav", ".ogg", ".opus", ".mp3", ".flac"]
    assert [u.id for u in corpus.train][-2:] == ["19-7-0004", "26-7-0000"]
    assert {u.speaker for u in corpus.train} == {"19", "26"}
    assert {u.text for u in corpus.train} == {"HELLO WORLD"}
    for index, utterance in enumerate(corpus.train[:4]):
        assert utterance.duration == pytest.approx(0.5 + 0.1 * index, abs=1e-3)
    assert corpus.dev_sets == ("dev-clean",)
    assert len(corpus.dev) == 2
    assert corpus.absent.keys() == {"test-clean", "test-other"}
    assert corpus.excluded == []


def test_a_tab_may_follow_the_id(tmp_path):
    chapter = write_chapter(tmp_path / "dev-clean", "19", [".wav"])
    (chapter / "19-7.trans.txt").write_text("19-7-0000\tHELLO  WORLD\n")
    recordings, unmatched = read_split(tmp_path, "dev-clean")
    assert ([(r.id, r.text) for r in recordings], unmatched) == ([("19-7-0000", "HELLO WORLD")], [])


def test_several_splits_train_and_present_tests_are_sets(librispeech_folder, tmp_path):
    write_chapter(librispeech_folder / "train-other-500", "30", [".flac"])
    write_chapter(librispeech_folder / "test-other", "31", [".flac"])
    settings = LibriSpeechSettings(root=librispeech_folder, train=["train-clean-100", "train-other-500"])
    corpus = prepare(settings, tmp_path)
    assert len(corpus.train) == 7
    assert corpus.test_sets == ("test-other",)
    assert corpus.absent.keys() == {"test-clean"}


def test_a_missing_training_split_names_what_is_here(librispeech_folder, tmp_path):
    settings = LibriSpeechSettings(root=librispeech_folder, train=["train-clean-360"])
    with pytest.raises(CorpusError, match=r"train-clean-360 not found.*found: train-clean-100, dev-clean"):
        prepare(settings, tmp_path)


def test_the_folders_name_may_be_in_any_case(tmp_path):
    write_chapter(tmp_path / "librispeech" / "train-clean-100", "30", [".flac"])
    assert find_librispeech(tmp_path) == tmp_path / "librispeech"


def test_nothing_here_is_said(tmp_path):
    with pytest.raises(CorpusError, match="LibriSpeech not found"):
        find_librispeech(tmp_path)


def test_transcripts_and_audio_without_a_partner(librispeech_folder, tmp_path):
    chapter = librispeech_folder / "dev-clean" / "84" / "7"
    (chapter / "84-7-0000.flac").unlink()
    write_audio(chapter / "84-7-0009.flac")
    write_audio(librispeech_folder / "dev-clean" / "85" / "1" / "85-1-0000.flac")  # a chapter without transcripts
    write_audio(chapter / "._84-7-0001.flac")  # what macOS leaves behind
    recordings, unmatched = read_split(librispeech_folder, "dev-clean")
    assert [recording.id for recording in recordings] == ["84-7-0001"]
    assert {(item.id, item.reason) for item in unmatched} == {
        ("84-7-0000", "has a transcript but no audio"),
        ("84-7-0009", "has audio but no transcript"),
        ("85-1-0000", "has audio but no transcript"),
    }
    with pytest.raises(CorpusError, match="3 of 10 utterances cannot be used"):
        prepare(LibriSpeechSettings(root=librispeech_folder), tmp_path)
    corpus = prepare(LibriSpeechSettings(root=librispeech_folder, max_excluded_share=0.5), tmp_path)
    assert len(corpus.excluded) == 3


def test_an_unreadable_file_is_left_out_and_listed(librispeech_folder, tmp_path):
    path = librispeech_folder / "train-clean-100" / "19" / "7" / "19-7-0000.flac"
    path.write_bytes(b"")
    corpus = prepare(LibriSpeechSettings(root=librispeech_folder, max_excluded_share=0.2), tmp_path)
    assert [(item.id, item.path) for item in corpus.excluded] == [("19-7-0000", path)]
    assert "0 bytes" in corpus.excluded[0].reason
    assert len(corpus.train) == 5


def test_an_empty_set_is_refused(librispeech_folder, tmp_path):
    for path in (librispeech_folder / "dev-clean").rglob("*.*"):
        path.unlink()
    with pytest.raises(CorpusError, match="'dev-clean' is empty"):
        prepare(LibriSpeechSettings(root=librispeech_folder), tmp_path)


def test_an_id_in_two_places_names_both_files(librispeech_folder, tmp_path):
    original = librispeech_folder / "train-clean-100" / "26"
    copy = librispeech_folder / "dev-clean" / "26"
    copy.mkdir()
    (original / "7").rename(copy / "7")
    write_chapter(librispeech_folder / "train-clean-100", "26", [".wav"])
    with pytest.raises(CorpusError, match=r"'26-7-0000' belongs to .*26-7-0000\.wav and to .*26-7-0000\.flac"):
        prepare(LibriSpeechSettings(root=librispeech_folder), tmp_path)


def test_a_transcript_given_twice_is_refused(librispeech_folder):
    path = librispeech_folder / "dev-clean" / "84" / "7" / "84-7.trans.txt"
    path.write_text(path.read_text() + "84-7-0000 AGAIN\n")
    with pytest.raises(CorpusError, match=r"84-7\.trans\.txt:3"):
        read_split(librispeech_folder, "dev-clean")


def test_flac_is_preferred_to_its_copies(librispeech_folder):
    chapter = librispeech_folder / "dev-clean" / "84" / "7"
    for suffix in (".mp3", ".wav"):
        write_audio(chapter / f"84-7-0000{suffix}")
    recordings, unmatched = read_split(librispeech_folder, "dev-clean")
    assert recordings[0].audio.suffix == ".flac"
    assert unmatched == []


@pytest.mark.corpora
def test_the_real_part(corpora_root, tmp_path):
    corpus = prepare(LibriSpeechSettings(root=corpora_root), tmp_path)
    assert len(corpus.train) >= 1106
    assert len(corpus.dev) >= 1313
    assert corpus.excluded == []
    assert all(utterance.text and utterance.duration > 1 for utterance in corpus.utterances)
