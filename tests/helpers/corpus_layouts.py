"""Small corpora in their publishers' layouts, made of noise; imported by the tests and fixtures beside it."""

import functools
import io
from pathlib import Path

import numpy as np
import soundfile


@functools.cache
def audio_bytes(suffix: str, seconds: float = 1.0, rate: int = 16_000, channels: int = 1) -> bytes:
    """A file of noise, in memory and made once: soundfile flushes every file it writes to the disk."""
    generator = np.random.default_rng(0)
    samples = (0.1 * generator.standard_normal((round(seconds * rate), 1))).astype(np.float32)
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == ".opus" else {"format": suffix[1:].upper()}
    if suffix == ".sph":
        options = {"format": "NIST", "subtype": "PCM_16"}
    file = io.BytesIO()
    soundfile.write(file, np.repeat(samples, channels, axis=1), rate, **options)
    return file.getvalue()


def write_audio(path: Path, seconds: float = 1.0, rate: int = 16_000, channels: int = 1) -> Path:
    """Noise in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(audio_bytes(path.suffix, seconds, rate, channels))
    return path


def write_an4_lists(folder: Path, part: str, fileids: list[str], texts: list[str]) -> None:
    (folder / "etc").mkdir(exist_ok=True)
    (folder / "etc" / f"an4_{part}.fileids").write_text("\n".join(fileids) + "\n")
    (folder / "etc" / f"an4_{part}.transcription").write_text("\n".join(texts) + "\n")


def write_chapter(split: Path, speaker: str, suffixes: list[str]) -> Path:
    """One chapter of LibriSpeech's layout, an utterance for every suffix."""
    chapter = split / speaker / "7"
    lines = []
    for index, suffix in enumerate(suffixes):
        name = f"{speaker}-7-{index:04d}"
        write_audio(chapter / f"{name}{suffix}", 0.5 + 0.1 * index)
        lines.append(f"{name} HELLO WORLD\n")
    (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))
    return chapter
