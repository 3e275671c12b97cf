"""Files to text: the streaming path for a streaming model, and a damaged file that stops nobody else."""

import os
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from asr_kd.cli import app
from asr_kd.errors import AudioError, CheckpointError, EvaluationError
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.runtime.streaming import StreamingRecognizer
from asr_kd.runtime.transcribe import transcribe_files
from tests.helpers.tiny_models import noise_speech, save_tiny_model


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{name}.wav" for name in ("one", "two")]
    for seed, path in enumerate(paths):
        soundfile.write(path, noise_speech(1.5, seed).numpy(), 16_000, subtype="FLOAT")
    return paths


@pytest.mark.parametrize("streaming", [True, False])
def test_files_are_transcribed_through_the_path_that_suits_the_model(tmp_path, files, streaming, monkeypatch):
    folder = save_tiny_model(tmp_path / "model", streaming=streaming)
    ends = []
    final = StreamingRecognizer.final
    monkeypatch.setattr(StreamingRecognizer, "final", lambda stream: ends.append(stream) or final(stream))
    results = list(transcribe_files(folder, files))
    assert len(ends) == (2 if streaming else 0)
    assert [result.path for result in results] == files
    assert [result.error for result in results] == [None, None]
    expected = open_recognizer(folder).transcribe([noise_speech(1.5, seed) for seed in range(2)])
    assert all(expected)
    assert [result.text for result in results] == expected


def test_a_damaged_file_comes_with_its_error_and_the_next_one_is_transcribed(tmp_path, files):
    folder = save_tiny_model(tmp_path / "model")
    bad = tmp_path / "bad.flac"
    bad.write_text("not audio")
    results = list(transcribe_files(folder, [bad, tmp_path / "missing.wav", files[0]]))
    assert [type(result.error) for result in results] == [AudioError, AudioError, type(None)]
    assert "bad.flac" in str(results[0].error)
    assert results[2].text


def test_the_model_is_checked_before_any_file(tmp_path, files):
    with pytest.raises(CheckpointError):
        list(transcribe_files(tmp_path / "nothing", files))


def test_a_name_that_a_form_cannot_hold_stops_no_other_file(tmp_path, files):
    """White space in a ctm, and bytes that are not UTF-8 anywhere."""
    folder = save_tiny_model(tmp_path / "model")
    spaced = files[0].rename(tmp_path / "two words.wav")
    latin = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    latin.write_bytes(spaced.read_bytes())
    done = CliRunner().invoke(app, ["transcribe", str(folder), *map(str, [spaced, latin, files[1]]), "--words", "ctm"])
    assert done.exit_code == 1, done.exception
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"two"}
    assert "two words.wav: its name 'two words' cannot be written as ctm" in done.stderr
    assert "Use --words json" in done.stderr
    assert r"caf\xe9.wav: has a name that is not UTF-8" in done.stderr


def test_a_name_that_a_form_cannot_hold_is_found_before_the_audio_is_read(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    (tmp_path / "two words.wav").write_text("not audio")
    (result,) = transcribe_files(folder, [tmp_path / "two words.wav"], form="ctm")
    assert isinstance(result.error, EvaluationError)
