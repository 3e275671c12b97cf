"""Each fault in a real file is found, under its own kind, and nothing else is."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.prepare import prepare
from asr_kd.corpora.recordings import Exclusion
from asr_kd.corpora.settings import An4Settings, LibriSpeechSettings
from asr_kd.corpora.utterance_checks import check_utterances, frames_available
from asr_kd.models.layers import output_lens
from asr_kd.text.vocabulary import Vocabulary, min_ctc_frames
from tests.helpers.corpus_layouts import audio_bytes, write_audio

VOCABULARY = Vocabulary.characters(["ABCDEFGHIJKLMNOPQRSTUVWXYZ'"])


def utterance(audio: Path, **changes) -> Utterance:
    fields = {"id": audio.stem, "audio": audio, "duration": 1.0, "text": "HELLO", "speaker": "s"}
    return Utterance(**(fields | changes))


def kinds(*utterances: Utterance, **options) -> list[str]:
    report = check_utterances(utterances, VOCABULARY, "librispeech", **options)
    return [row.problem for row in report.rows]


@pytest.fixture
def good(tmp_path) -> Utterance:
    return utterance(write_audio(tmp_path / "good.flac"))


def test_nothing_is_found_in_good_data(tmp_path, good):
    others = [utterance(write_audio(tmp_path / f"in-{name}.{name}")) for name in ("wav", "ogg", "opus", "mp3")]
    report = check_utterances([good, *others], VOCABULARY, "librispeech")
    assert report.ok
    assert report.rows == []
    assert (report.utterances, report.speakers) == (5, 1)
    assert report.hours == pytest.approx(5 / 3600)
    assert report.lines()[-1] == "No problems found."


def test_nothing_to_check_is_not_ok():
    report = check_utterances([], VOCABULARY, "librispeech")
    assert not report.ok
    assert "no utterances" in report.lines()[-1]


@pytest.mark.parametrize("suffix", [".flac", ".wav", ".mp3", ".ogg", ".opus"])
def test_truncated_audio(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    data = audio_bytes(suffix, 2.0)
    path.write_bytes(data[: len(data) // 2])
    assert "damaged audio" in kinds(utterance(path, duration=2.0))


def test_a_flipped_bit_in_a_flac_needs_decoding(tmp_path):
    path = tmp_path / "flipped.flac"
    data = bytearray(audio_bytes(".flac"))
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert kinds(utterance(path)) == ["damaged audio"]
    report = check_utterances([utterance(path)], VOCABULARY, "librispeech", read=False)
    assert report.rows == []
    assert "headers only" in report.lines()[0]


@pytest.mark.parametrize("content", [b"", b"only text\n" * 50])
@pytest.mark.parametrize("read", [True, False])
def test_text_or_nothing_named_flac(tmp_path, content, read):
    path = tmp_path / "text.flac"
    path.write_bytes(content)
    assert kinds(utterance(path), read=read) == ["damaged audio"]


def test_missing_zero_length_and_not_a_number(tmp_path):
    assert kinds(utterance(tmp_path / "none.flac")) == ["missing file"]
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros(0), 16_000)
    assert kinds(utterance(empty)) == kinds(utterance(empty), read=False) == ["zero length"]
    broken = tmp_path / "nan.wav"
    soundfile.write(broken, np.r_[np.zeros(15_999), np.nan], 16_000, subtype="FLOAT")
    assert kinds(utterance(broken)) == ["NaN or infinite samples"]


def test_another_rate_is_a_note_and_stereo_a_problem(tmp_path):
    slow = check_utterances([utterance(write_audio(tmp_path / "8k.wav", rate=8000))], VOCABULARY, "librispeech")
    assert [row.problem for row in slow.notes] == ["other sample rate"]
    assert slow.ok
    assert kinds(utterance(write_audio(tmp_path / "two.wav", channels=2))) == ["several channels"]


def test_the_average_of_channels_is_checked_where_it_is_trained_on(tmp_path):
    samples = np.full((16_000, 2), 0.1, dtype=np.float32)
    samples[100, 1] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    found = check_utterances([Utterance("a", tmp_path / "a.wav", 1.0, "A", "s", channels="mean")], None, "none")
    assert list(found.counts) == ["NaN or infinite samples"]


@pytest.mark.parametrize("text", ["", "  ", "?!…"])
def test_empty_transcripts(good, text):
    assert kinds(utterance(good.audio, text=text)) == ["empty transcript"]


def test_no_transcript_is_a_note(good):
    report = check_utterances([utterance(good.audio, text=None)], VOCABULARY, "librispeech")
    assert [row.problem for row in report.notes] == ["no transcript"]
    assert report.ok


def test_characters_outside_the_vocabulary(good):
    report = check_utterances([utterance(good.audio, text="CAFÉ 7")], VOCABULARY, "librispeech")
    assert [row.problem for row in report.problems] == ["characters outside the vocabulary"]
    assert "'7' 'É'" in report.problems[0].detail
    assert "vocabulary.alphabet names all characters" in report.lines()[-1]
    assert check_utterances([utterance(good.audio, text="CAFÉ 7")], None, "librispeech").ok


def test_transcripts_too_long_for_ctc(good):
    assert frames_available(1.0, 40) == 24
    for spelt, expected in (("AB" * 12, []), ("AB" * 12 + "A", ["transcript too long for CTC"])):
        assert kinds(utterance(good.audio, text=spelt)) == expected
        assert kinds(utterance(good.audio, text=spelt), frame_shift_ms=20) == []
    # 13 equal letters need 12 blanks between them.
    assert kinds(utterance(good.audio, text="A" * 12)) == []
    assert kinds(utterance(good.audio, text="A" * 13)) == ["transcript too long for CTC"]


@given(st.integers(0, 100_000))
def test_frames_available_are_the_models_own(feature_frames):
    assert frames_available(feature_frames / 100, 40) == int(output_lens(torch.tensor(feature_frames)))


@pytest.mark.parametrize(("symbols", "expected"), [("", 0), ("A", 1), ("AB", 2), ("AA", 3), ("AABBA", 7)])
def test_frames_needed(symbols, expected):
    assert min_ctc_frames(symbols) == expected


@pytest.mark.parametrize("duration", [0.97, 1.03, 10.0, 0.0, -1.0, math.nan, math.inf])
def test_wrong_durations(good, duration):
    assert "wrong duration" in kinds(utterance(good.audio, duration=duration, text="A"))
    assert kinds(utterance(good.audio, duration=1.015)) == []


def test_repeated_ids_and_audio_name_their_rows(tmp_path, good):
    other = write_audio(tmp_path / "other.flac")
    report = check_utterances([good, utterance(other, id="good"), utterance(other)], VOCABULARY, "librispeech")
    assert [(row.problem, row.detail) for row in report.rows] == [
        ("duplicate id", "rows 1 and 2"),
        ("audio used twice", "rows 2 and 3"),
    ]
    assert len(report.problems) == 1


@pytest.mark.parametrize("name", ["../a", "/a", "a\0", "x" * 300, "a b", ""])
def test_unusable_ids(good, name):
    assert kinds(utterance(good.audio, id=name)) == ["unusable id"]


def test_the_report_counts_lists_and_shortens(tmp_path, good):
    missing = [utterance(tmp_path / f"gone{index}.flac") for index in range(7)]
    seen = []
    report = check_utterances(
        [good, *missing, utterance(good.audio, id="empty", text="")],
        VOCABULARY,
        "librispeech",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert not report.ok
    assert report.counts == {"missing file": 7, "empty transcript": 1, "audio used twice": 1}
    assert seen == [(done, 9) for done in range(1, 10)]
    lines = report.lines(limit=3)
    assert "PROBLEM: missing file: 7" in lines
    assert "  … and 4 more" in lines
    assert sum("no such file" in line for line in lines) == 3
    assert lines[-1].startswith("8 problems in 8 utterances")
    alone = replace(report, rows=[row for row in report.rows if row.problem == "empty transcript"])
    assert alone.lines()[-1].startswith("1 problem in 1 utterance.")


def test_what_prepare_left_out_is_part_of_the_report(good):
    report = check_utterances([good], VOCABULARY, "librispeech")
    assert report.ok
    whole = report.including([Exclusion("lost", Path("/lost.flac"), "no such file")])
    assert not whole.ok
    assert whole.counts == {"left out by prepare": 1}


@pytest.mark.corpora
@pytest.mark.parametrize("settings", [An4Settings, LibriSpeechSettings])
def test_nothing_is_wrong_with_the_real_corpora(corpora_root, tmp_path, settings):
    corpus = prepare(settings(root=corpora_root), tmp_path)
    vocabulary = Vocabulary.characters(utterance.text for utterance in corpus.train if utterance.text)
    report = check_utterances(corpus.utterances, vocabulary, "librispeech", read=settings is An4Settings)
    assert report.ok, report.lines()
