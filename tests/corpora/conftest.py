"""Small corpora made of real files: noise in the layouts of the publishers."""

from pathlib import Path

import pytest

from tests.helpers.corpus_layouts import write_an4_lists, write_audio, write_chapter


@pytest.fixture
def an4_folder(tmp_path: Path) -> Path:
    """AN4's layout with 24 speakers (two of them mab and mab2) of 5 to 7 utterances each."""
    folder = tmp_path / "an4"
    letters = "abcdefghijklmnopqrstuvw"
    speakers = [f"m{letter}b" for letter in letters] + ["mab2"]
    fileids, texts = [], []
    for index, speaker in enumerate(speakers):
        for number in range(5 + index % 3):
            name = f"an{100 + number}-{speaker}-b"
            fileids.append(f"an4_clstk/{speaker}/{name}")
            texts.append(f"<s> ENTER FOUR </s> ({name})")
            write_audio(folder / "wav" / f"{fileids[-1]}.wav", 0.5)
    write_an4_lists(folder, "train", fileids, texts)
    return folder


@pytest.fixture
def librispeech_folder(tmp_path: Path) -> Path:
    """Two splits with every audio format that is read."""
    folder = tmp_path / "LibriSpeech"
    write_chapter(folder / "train-clean-100", "19", [".flac", ".wav", ".ogg", ".opus", ".mp3"])
    write_chapter(folder / "train-clean-100", "26", [".flac"])
    write_chapter(folder / "dev-clean", "84", [".flac", ".flac"])
    return folder
