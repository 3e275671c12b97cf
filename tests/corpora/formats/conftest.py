"""Real files that manifests of every format can name."""

from pathlib import Path

import pytest

from tests.helpers.corpus_layouts import write_audio


@pytest.fixture(scope="session")
def speech(tmp_path_factory) -> Path:
    """A folder of three mono files of 4 s, one of them with 8 kHz, and one of two channels."""
    folder = tmp_path_factory.mktemp("speech")
    write_audio(folder / "one.flac", 4.0)
    write_audio(folder / "two words.wav", 4.0)
    write_audio(folder / "eight.wav", 4.0, rate=8_000)
    write_audio(folder / "stereo.flac", 4.0, channels=2)
    return folder
